// The header as C++.
#include <myelon.h>

#include <cstdio>

int main() {
    int version = 0;
    if (myelonGetVersion(&version) != myelonSuccess || version != MYELON_VERSION) return 1;
    myelonUniqueId_t id;
    myelonComm_t comm = nullptr;
    if (myelonGetUniqueId(&id) != myelonSuccess) return 1;
    if (myelonCommInitRank(&comm, 0, &id, 0, -1, nullptr) != myelonInvalidArgument || comm != nullptr) return 1;
    std::printf("%d.%d.%d\n", version / 10000, version / 100 % 100, version % 100);
    return 0;
}

// A program that loads the library at run time, and closes it.
#include <dlfcn.h>
#include <myelon.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
    if (library == NULL) return fprintf(stderr, "%s\n", dlerror()), 1;

    // From a pointer to data to one to a function, as POSIX has it. A call that leaves nothing behind which would keep the library.
    void *symbol = dlsym(library, "myelonGetVersion");
    myelonStatus_t (*get_version)(int *);
    memcpy(&get_version, &symbol, sizeof symbol);
    int version;
    if (symbol == NULL || get_version(&version) != myelonSuccess || version != MYELON_VERSION) return 1;

    if (dlclose(library) != 0) return 1;
    if (dlopen(argv[1], RTLD_NOW | RTLD_NOLOAD) == NULL) return fprintf(stderr, "it is gone\n"), 1;
    puts("closes: all as expected");
    return 0;
}

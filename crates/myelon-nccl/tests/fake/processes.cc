// Scenarios whose ranks are processes: some end early, or are not as the others.
#include "ranks.h"

#include <csignal>
#include <cstring>

#include <spawn.h>
#include <sys/wait.h>

static std::string hex(const ncclUniqueId &id) {
  std::string text;
  char digits[3];
  for (unsigned char byte : id.internal) snprintf(digits, 3, "%02x", byte), text += digits;
  return text;
}

static void all_reduce(ncclComm_t comm, int rank) {
  auto data = filled(1000, rank + 1.f);
  OK(NCCL(ncclAllReduce)(data.data(), data.data(), 1000, ncclFloat32, ncclSum, comm, nullptr));
  all_are(data, sum(), __LINE__);
}

// The last rank is killed when all have used the communicator: the others hear of it.
static void killed(ncclComm_t comm, int rank) {
  all_reduce(comm, rank);
  // Well, though a rank may be about to end.
  int error;
  OK(NCCL(ncclCommGetAsyncError)(comm, &error));
  EQUAL(error, ncclSuccess);
  if (rank == ranks - 1) raise(SIGKILL);
  auto data = filled(1000, 1.f);
  EQUAL(NCCL(ncclAllReduce)(data.data(), data.data(), 1000, ncclFloat32, ncclSum, comm, nullptr), ncclRemoteError);
  CHECK(strstr(NCCL(ncclGetLastError)(nullptr), "lost rank"));
  OK(NCCL(ncclCommAbort)(comm));
}

// The pretended library kills a rank while the communicator is made: the others get none, and are told why.
static void killed_early(ncclComm_t comm, int code) {
  EQUAL(code, ncclRemoteError);
  CHECK(comm == nullptr);
  auto words = NCCL(ncclGetLastError)(nullptr);
  CHECK(strstr(words, "lost"));
  // One that is late may hear first of a rank that has ended for the same reason.
  CHECK(getenv("FAKE_NCCL_LATE") || strstr(words, (std::string("rank ") + getenv("FAKE_NCCL_KILLED")).c_str()));
}

// `ranks SCENARIO RANKS RANK ID`
void process(const std::string &scenario, int rank, const char *text) {
  ncclUniqueId id;
  for (int i = 0; i < 128; i++) id.internal[i] = strtol(std::string(text + 2 * i, 2).c_str(), nullptr, 16);
  // Not like the others.
  if (scenario == "wrong_on_one" && rank == ranks - 1) setenv("MYELON_TIMEOUT", "soon", 1);
  // One rank has called NCCL before, as where ids are made.
  ncclUniqueId other;
  if (rank == 0) OK(NCCL(ncclGetUniqueId)(&other));
  ncclComm_t comm;
  int code = NCCL(ncclCommInitRank)(&comm, ranks, id, rank);
  if (scenario == "killed_early") return killed_early(comm, code);
  OK(code);
  if (scenario == "killed") return killed(comm, rank);
  all_reduce(comm, rank);
  OK(NCCL(ncclCommDestroy)(comm));
}

bool processes(const std::string &scenario) {
  int victim = -1;
  if (scenario == "killed") victim = ranks - 1;
  else if (scenario == "killed_early") victim = atoi(getenv("FAKE_NCCL_KILLED"));
  else if (scenario != "alike" && scenario != "wrong_on_one") return false;
  ncclUniqueId id;
  OK(NCCL(ncclGetUniqueId)(&id));
  // From NCCL's files, which each rank is to read.
  unsetenv("NCCL_COMM_BLOCKING");
  auto name = hex(id), count = std::to_string(ranks);
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; rank++) {
    auto own = std::to_string(rank);
    const char *arguments[] = {"ranks", scenario.c_str(), count.c_str(), own.c_str(), name.c_str(), nullptr};
    pid_t child;
    CHECK(posix_spawn(&child, "/proc/self/exe", nullptr, nullptr, const_cast<char **>(arguments), environ) == 0);
    children.push_back(child);
  }
  for (int rank = 0; rank < ranks; rank++) {
    int status;
    CHECK(waitpid(children[rank], &status, 0) == children[rank]);
    if (rank == victim) CHECK(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
    else CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 0);
  }
  return true;
}

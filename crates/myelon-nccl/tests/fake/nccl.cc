// A pretended NCCL for tests: ranks are threads or processes, memory is the host's, streams are not looked at. Gathers and reduces for
// real, within small sizes, and writes a line for each call to the file that FAKE_NCCL_LOG names.
//
// Like the real one it calls its own functions through the loader (Bcast calls Broadcast, Destroy calls Finalize), where whoever is
// preloaded gets them first. It lacks functions of newer releases: ncclCommGrow, ncclCommMemStats and others.
#include "nccl.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <csignal>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

namespace {

constexpr size_t SLOT = 512 << 10;
constexpr int RANKS = 16;
constexpr double PATIENCE = 60;

struct Slot {
  std::atomic<uint64_t> deposited, consumed;
  char data[SLOT];
};

struct Shared {
  std::atomic<int> joined;
  Slot slots[RANKS];
};

void log(const char *format, ...) {
  const char *path = getenv("FAKE_NCCL_LOG");
  if (!path) return;
  char line[512];
  va_list arguments;
  va_start(arguments, format);
  int length = vsnprintf(line, sizeof line - 1, format, arguments);
  va_end(arguments);
  line[length++] = '\n';
  int file = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || write(file, line, length) != length) abort();
  close(file);
}

double now() {
  timespec time;
  clock_gettime(CLOCK_MONOTONIC, &time);
  return time.tv_sec + time.tv_nsec * 1e-9;
}

// What NCCL does when it is first called: what its files say comes into the environment.
void read_files() {
  if (const char *blocking = getenv("FAKE_NCCL_FILE_BLOCKING")) setenv("NCCL_COMM_BLOCKING", blocking, 0);
}

// Whether a variable names this rank.
bool names(const char *variable, int rank) {
  const char *value = getenv(variable);
  return value && atoi(value) == rank;
}

// FAKE_NCCL_KILLED names a rank that comes to the second operation and is killed there; where FAKE_NCCL_LATE names one that is held up
// behind the first operation, it is killed meanwhile.
void strike_before(int rank, uint64_t operation) {
  if (operation == 2 && names("FAKE_NCCL_KILLED", rank) && !getenv("FAKE_NCCL_LATE")) raise(SIGKILL);
}

void strike_behind(int rank, uint64_t operation) {
  if (operation != 1) return;
  if (names("FAKE_NCCL_LATE", rank)) sleep(10);
  if (names("FAKE_NCCL_KILLED", rank) && getenv("FAKE_NCCL_LATE"))
    std::thread([] { sleep(5), raise(SIGKILL); }).detach();
}

size_t size_of(int datatype) {
  static const size_t sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return datatype >= 0 && datatype < 12 ? sizes[datatype] : 0;
}

} // namespace

struct ncclComm {
  Shared *shared;
  std::string path;
  int rank, ranks;
  uint64_t operations = 0;
  int splits = 0;
  std::atomic<bool> aborted{false};
  bool finalized = false;
};

namespace {

template <typename Condition> bool wait(ncclComm *comm, Condition condition) {
  for (double end = now() + PATIENCE; !condition(); usleep(50))
    if (comm->aborted || now() > end) return false;
  return true;
}

int join(ncclComm_t *out, const std::string &path, int ranks, int rank) {
  if (ranks < 1 || ranks > RANKS || rank < 0 || rank >= ranks) return ncclInvalidArgument;
  int file = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared))) return ncclSystemError;
  void *memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return ncclSystemError;
  auto *comm = new ncclComm;
  comm->shared = static_cast<Shared *>(memory), comm->path = path, comm->rank = rank, comm->ranks = ranks;
  comm->shared->joined++;
  *out = comm;
  return ncclSuccess;
}

int complete(ncclComm *comm) {
  return wait(comm, [&] { return comm->shared->joined >= comm->ranks; }) ? ncclSuccess : ncclSystemError;
}

enum Kind { Gather, Reduce, Spread, Scatter };

struct Operation {
  ncclComm *comm;
  Kind kind;
  const void *input;
  void *output;
  size_t count;
  int datatype, op, root;
  uint64_t number;
};

thread_local int depth = 0;
thread_local std::vector<Operation> queued;
thread_local std::vector<ncclComm *> joining;
// The first failure of a call in the group, of which nothing runs then.
thread_local int failed = ncclSuccess;

int noted(int code) {
  if (depth && !failed) failed = code;
  return code;
}

int deposit(Operation &operation) {
  auto *comm = operation.comm;
  size_t bytes = operation.count * size_of(operation.datatype) * (operation.kind == Scatter ? comm->ranks : 1);
  if (bytes > SLOT) return ncclInvalidArgument;
  operation.number = ++comm->operations;
  strike_before(comm->rank, operation.number);
  auto &own = comm->shared->slots[comm->rank];
  bool free = wait(comm, [&] {
    for (int rank = 0; rank < comm->ranks; rank++)
      if (comm->shared->slots[rank].consumed < operation.number - 1) return false;
    return true;
  });
  if (!free) return ncclSystemError;
  if (bytes && operation.input) memcpy(own.data, operation.input, bytes);
  own.deposited = operation.number;
  return ncclSuccess;
}

template <typename T> void reduce(const Operation &operation) {
  auto *output = static_cast<T *>(operation.output);
  auto *comm = operation.comm;
  size_t first = operation.kind == Scatter ? comm->rank * operation.count : 0;
  for (size_t i = 0; i < operation.count; i++) {
    T value{};
    for (int rank = 0; rank < comm->ranks; rank++) {
      T other = reinterpret_cast<T *>(comm->shared->slots[rank].data)[first + i];
      value = rank == 0 ? other : operation.op == ncclMax ? (value > other ? value : other) : T(value + other);
    }
    output[i] = operation.op == ncclAvg ? T(value / comm->ranks) : value;
  }
}

int consume(const Operation &operation) {
  auto *comm = operation.comm;
  size_t bytes = operation.count * size_of(operation.datatype);
  bool there = wait(comm, [&] {
    for (int rank = 0; rank < comm->ranks; rank++)
      if (comm->shared->slots[rank].deposited < operation.number) return false;
    return true;
  });
  if (!there) return ncclSystemError;
  auto *output = static_cast<char *>(operation.output);
  auto *slots = comm->shared->slots;
  switch (operation.kind) {
  case Gather:
    for (int rank = 0; rank < comm->ranks; rank++) memcpy(output + rank * bytes, slots[rank].data, bytes);
    break;
  case Spread:
    if (bytes) memcpy(output, slots[operation.root].data, bytes);
    break;
  case Reduce:
  case Scatter:
    if (operation.datatype == ncclFloat32) reduce<float>(operation);
    else if (operation.datatype == ncclFloat64) reduce<double>(operation);
    else if (operation.datatype == ncclInt32) reduce<int>(operation);
    else return ncclInvalidArgument;
  }
  slots[comm->rank].consumed = operation.number;
  strike_behind(comm->rank, operation.number);
  return ncclSuccess;
}

// The operations of a thread in rounds, one a communicator, so that a thread may drive several ranks of one.
int run(std::vector<Operation> operations) {
  while (!operations.empty()) {
    std::vector<Operation> round, rest;
    for (auto &operation : operations) {
      bool taken = false;
      for (auto &other : round) taken |= other.comm == operation.comm;
      (taken ? rest : round).push_back(operation);
    }
    for (auto &operation : round)
      if (int code = deposit(operation)) return code;
    for (auto &operation : round)
      if (int code = consume(operation)) return code;
    operations = rest;
  }
  return ncclSuccess;
}

int submit(const char *name, Operation operation) {
  if (!operation.comm) return noted(ncclInvalidArgument);
  log("%s rank=%d count=%zu type=%d op=%d root=%d in=%p out=%p", name, operation.comm->rank, operation.count,
      operation.datatype, operation.op, operation.root, operation.input, operation.output);
  if (!size_of(operation.datatype)) return noted(ncclInvalidArgument);
  if (depth) return queued.push_back(operation), ncclSuccess;
  return run({operation});
}

int initialise(ncclComm_t *comm, int ranks, const std::string &path, int rank) {
  read_files();
  if (int code = join(comm, path, ranks, rank)) return noted(code);
  if (depth) return joining.push_back(*comm), ncclSuccess;
  return complete(*comm);
}

std::string directory() {
  const char *path = getenv("FAKE_NCCL_DIR");
  return path ? path : "/tmp";
}

} // namespace

extern "C" {

int ncclGetVersion(int *version) {
  *version = 22809;
  return ncclSuccess;
}

int ncclGetUniqueId(ncclUniqueId *id) {
  static std::atomic<int> number{0};
  read_files();
  memset(id, 0x5a, sizeof *id);
  snprintf(id->internal, 64, "%d-%d", getpid(), number++);
  return ncclSuccess;
}

// The last byte shows whether the whole of the id came through.
int ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank) {
  log("InitRank rank=%d of=%d id=%s last=%d", rank, nranks, id.internal, id.internal[127]);
  return initialise(comm, nranks, directory() + "/comm-" + id.internal, rank);
}

int ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config) {
  log("InitRankConfig rank=%d of=%d id=%s last=%d config=%p size=%zu version=%u blocking=%d share=%d", rank, nranks,
      id.internal, id.internal[127], static_cast<void *>(config), config->size, config->version, config->blocking,
      config->splitShare);
  int code = initialise(comm, nranks, directory() + "/comm-" + id.internal, rank);
  return code == ncclSuccess && config->blocking == 0 ? ncclInProgress : code;
}

int ncclCommInitAll(ncclComm_t *comms, int ndev, const int *) {
  ncclUniqueId id;
  ncclGetUniqueId(&id);
  for (int rank = 0; rank < ndev; rank++)
    if (int code = join(&comms[rank], directory() + "/comm-" + id.internal, ndev, rank)) return code;
  return ncclSuccess;
}

int ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *) {
  int own[2] = {color, key}, all[2 * RANKS], rank = 0, ranks = 0;
  log("Split rank=%d color=%d key=%d", comm->rank, color, key);
  if (int code = run({Operation{comm, Gather, own, all, sizeof own, ncclUint8, 0, 0, 0}})) return code;
  *newcomm = nullptr;
  std::string path = comm->path + "-" + std::to_string(comm->splits++) + "-" + std::to_string(color);
  if (color < 0) return ncclSuccess;
  for (int other = 0; other < comm->ranks; other++) {
    if (all[2 * other] != color) continue;
    ranks++;
    rank += all[2 * other + 1] < key || (all[2 * other + 1] == key && other < comm->rank);
  }
  return initialise(newcomm, ranks, path, rank);
}

// Leaves nobody a communicator.
int ncclCommShrink(ncclComm_t comm, int *, int, ncclComm_t *newcomm, ncclConfig_t *, int flags) {
  log("Shrink rank=%d flags=%d", comm->rank, flags);
  *newcomm = nullptr;
  return ncclSuccess;
}

int ncclCommFinalize(ncclComm_t comm) {
  log("Finalize rank=%d", comm->rank);
  comm->finalized = true;
  return ncclSuccess;
}

int ncclCommDestroy(ncclComm_t comm) {
  log("Destroy rank=%d finalized=%d", comm->rank, comm->finalized);
  if (!comm->finalized && ncclCommFinalize(comm)) return ncclInternalError;
  // All have joined long ago.
  unlink(comm->path.c_str());
  munmap(comm->shared, sizeof(Shared));
  delete comm;
  return ncclSuccess;
}

// Kept, for another thread may be inside.
int ncclCommAbort(ncclComm_t comm) {
  log("Abort rank=%d", comm->rank);
  comm->aborted = true;
  return ncclSuccess;
}

int ncclCommGetAsyncError(ncclComm_t comm, int *error) {
  *error = comm->aborted ? ncclSystemError : ncclSuccess;
  return ncclSuccess;
}

int ncclCommCount(ncclComm_t comm, int *count) { return comm ? (*count = comm->ranks, ncclSuccess) : ncclInvalidArgument; }
int ncclCommUserRank(ncclComm_t comm, int *rank) { return comm ? (*rank = comm->rank, ncclSuccess) : ncclInvalidArgument; }
int ncclCommCuDevice(ncclComm_t comm, int *device) { return comm ? (*device = 100 + comm->rank, ncclSuccess) : ncclInvalidArgument; }
const char *ncclGetErrorString(int result) { return result ? "a failure of the pretended NCCL" : "no error"; }
const char *ncclGetLastError(ncclComm_t) { return "words of the pretended NCCL"; }

int ncclAllReduce(const void *input, void *output, size_t count, int datatype, int op, ncclComm_t comm, cudaStream_t) {
  return submit("AllReduce", {comm, Reduce, input, output, count, datatype, op, 0, 0});
}

int ncclAllGather(const void *input, void *output, size_t count, int datatype, ncclComm_t comm, cudaStream_t) {
  return submit("AllGather", {comm, Gather, input, output, count, datatype, 0, 0, 0});
}

int ncclReduceScatter(const void *input, void *output, size_t count, int datatype, int op, ncclComm_t comm, cudaStream_t) {
  return submit("ReduceScatter", {comm, Scatter, input, output, count, datatype, op, 0, 0});
}

int ncclBroadcast(const void *input, void *output, size_t count, int datatype, int root, ncclComm_t comm, cudaStream_t) {
  return submit("Broadcast", {comm, Spread, input, output, count, datatype, 0, root, 0});
}

int ncclBcast(void *buffer, size_t count, int datatype, int root, ncclComm_t comm, cudaStream_t stream) {
  log("Bcast rank=%d", comm->rank);
  return ncclBroadcast(buffer, buffer, count, datatype, root, comm, stream);
}

int ncclSend(const void *, size_t count, int datatype, int peer, ncclComm_t comm, cudaStream_t) {
  log("Send rank=%d count=%zu type=%d peer=%d", comm->rank, count, datatype, peer);
  return ncclSuccess;
}

int ncclRecv(void *, size_t count, int datatype, int peer, ncclComm_t comm, cudaStream_t) {
  log("Recv rank=%d count=%zu type=%d peer=%d", comm->rank, count, datatype, peer);
  return ncclSuccess;
}

int ncclGroupStart() {
  log("GroupStart");
  depth++;
  return ncclSuccess;
}

int ncclGroupSimulateEnd(void *) {
  log("GroupSimulateEnd");
  if (depth == 0) return ncclInvalidUsage;
  if (--depth == 0) joining.clear(), queued.clear(), failed = ncclSuccess;
  return ncclSuccess;
}

int ncclGroupEnd() {
  log("GroupEnd");
  if (depth == 0) return ncclInvalidUsage;
  if (--depth) return ncclSuccess;
  auto comms = std::move(joining);
  auto operations = std::move(queued);
  joining.clear(), queued.clear();
  if (int code = std::exchange(failed, ncclSuccess)) return code;
  for (auto *comm : comms)
    if (int code = complete(comm)) return code;
  return run(operations);
}
}

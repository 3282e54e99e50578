// A program that uses NCCL, one scenario a run: `ranks SCENARIO [RANKS]`. Ends with 0 where all went as it should, else says what did not.
//
// Linked to libnccl.so.2 as programs are; or, built with -DOPENED, opens the file in NCCL_SO_PATH and looks every function up, as Python
// packages do.
#include "ranks.h"

#include <atomic>
#include <chrono>
#include <cstring>
#include <functional>
#include <thread>

// `work` on a thread a rank, with a communicator of all.
static void on_threads(const std::function<void(ncclComm_t, int)> &work, bool destroy = true) {
  ncclUniqueId id;
  OK(NCCL(ncclGetUniqueId)(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([&, rank] {
      ncclComm_t comm;
      OK(NCCL(ncclCommInitRank)(&comm, ranks, id, rank));
      work(comm, rank);
      if (destroy) OK(NCCL(ncclCommDestroy)(comm));
    });
  for (auto &thread : threads) thread.join();
}

// Types and operators, in place and not, nothing at all, and what Myelon does not have.
static void values(ncclComm_t comm, int rank) {
  float one = rank + 1;
  // Not a type of anybody's. First, for what follows ends on no rank before all have read these words.
  EQUAL(NCCL(ncclAllReduce)(&one, &one, 1, 77, ncclSum, comm, nullptr), ncclInvalidArgument);
  CHECK(strstr(NCCL(ncclGetLastError)(nullptr), "pretended"));
  for (size_t count : {size_t(1), size_t(1000), size_t(10007)}) {
    auto input = filled(count, one), output = filled(count, 0.f);
    OK(NCCL(ncclAllReduce)(input.data(), output.data(), count, ncclFloat32, ncclSum, comm, nullptr));
    all_are(output, sum(), __LINE__), all_are(input, one, __LINE__);
    OK(NCCL(ncclAllReduce)(input.data(), input.data(), count, ncclFloat32, ncclSum, comm, nullptr));
    all_are(input, sum(), __LINE__);
  }
  OK(NCCL(ncclAllReduce)(nullptr, nullptr, 0, ncclFloat32, ncclSum, comm, nullptr));
  // Not prepared, so the pretended NCCL's.
  auto doubles = filled(100, double(one));
  OK(NCCL(ncclAllReduce)(doubles.data(), doubles.data(), 100, ncclFloat64, ncclSum, comm, nullptr));
  all_are(doubles, double(sum()), __LINE__);
  auto maxima = filled(100, one);
  OK(NCCL(ncclAllReduce)(maxima.data(), maxima.data(), 100, ncclFloat32, ncclMax, comm, nullptr));
  all_are(maxima, float(ranks), __LINE__);
  // Overlapping, on every rank alike: Myelon's own refusal, in words.
  std::vector<float> overlapping(20);
  EQUAL(NCCL(ncclAllReduce)(&overlapping[0], &overlapping[1], 10, ncclFloat32, ncclSum, comm, nullptr), ncclInvalidArgument);
  CHECK(strstr(NCCL(ncclGetLastError)(comm), "overlap"));
}

static void identity(ncclComm_t comm, int rank) {
  int seen;
  OK(NCCL(ncclGetVersion)(&seen)), EQUAL(seen, 22809);
  OK(NCCL(ncclCommUserRank)(comm, &seen)), EQUAL(seen, rank);
  OK(NCCL(ncclCommCount)(comm, &seen)), EQUAL(seen, ranks);
  OK(NCCL(ncclCommCuDevice)(comm, &seen)), EQUAL(seen, 100 + rank);
  OK(NCCL(ncclCommGetAsyncError)(comm, &seen)), EQUAL(seen, ncclSuccess);
  CHECK(strstr(NCCL(ncclGetErrorString)(ncclSystemError), "pretended"));
  EQUAL(NCCL(ncclCommCount)(nullptr, &seen), ncclInvalidArgument);
  // Functions that this NCCL does not have.
  uint64_t value;
  EQUAL(NCCL(ncclCommMemStats)(comm, 0, &value), ncclInvalidUsage);
  if (ranks == 1) CHECK(strstr(NCCL(ncclGetLastError)(nullptr), "ncclCommMemStats"));
  ncclComm_t grown;
  EQUAL(NCCL(ncclCommGrow)(comm, ranks, nullptr, rank, &grown, nullptr), ncclInvalidUsage);
}

// Nested groups, of both engines' calls and of several communicators; nothing has happened before the outermost end.
static void groups(ncclComm_t comm, int rank) {
  ncclComm_t half;
  OK(NCCL(ncclCommSplit)(comm, rank % 2, -rank, &half, nullptr));
  int members;
  OK(NCCL(ncclCommCount)(half, &members));
  float one = rank + 1, of_half = 0;
  for (int other = rank % 2; other < ranks; other += 2) of_half += other + 1;
  for (int round = 0; round < 3; round++) {
    auto first = filled(100, one), second = filled(200, one), third = filled(50, one), gathered = filled(ranks, 0.f);
    auto spread = filled(5, one);
    OK(NCCL(ncclGroupStart)());
    OK(NCCL(ncclAllReduce)(first.data(), first.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
    // Only one rank sends: who runs the other calls must not depend on it.
    if (rank == 0) OK(NCCL(ncclSend)(first.data(), 1, ncclFloat32, 1, comm, nullptr));
    OK(NCCL(ncclGroupStart)());
    OK(NCCL(ncclAllReduce)(second.data(), second.data(), 200, ncclFloat32, ncclSum, half, nullptr));
    OK(NCCL(ncclAllGather)(&one, gathered.data(), 1, ncclFloat32, comm, nullptr));
    OK(NCCL(ncclGroupEnd)());
    OK(NCCL(ncclAllReduce)(third.data(), third.data(), 50, ncclFloat32, ncclSum, comm, nullptr));
    OK(NCCL(ncclBroadcast)(spread.data(), spread.data(), 5, ncclFloat32, ranks - 1, comm, nullptr));
    usleep(20000);
    all_are(first, one, __LINE__), all_are(second, one, __LINE__), all_are(third, one, __LINE__), all_are(gathered, 0.f, __LINE__);
    OK(NCCL(ncclGroupEnd)());
    all_are(first, sum(), __LINE__), all_are(second, of_half, __LINE__), all_are(third, sum(), __LINE__);
    all_are(spread, float(ranks), __LINE__);
    for (int other = 0; other < ranks; other++) CHECK(gathered[other] == other + 1);
  }
  OK(NCCL(ncclCommDestroy)(half));
}

// A group that is only estimated: nothing of it runs, and it is over.
static void simulated(ncclComm_t comm, int rank) {
  float one = rank + 1;
  auto data = filled(100, one), inner = filled(100, one), gathered = filled(ranks, 0.f);
  OK(NCCL(ncclGroupStart)());
  OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
  OK(NCCL(ncclGroupStart)());
  OK(NCCL(ncclAllReduce)(inner.data(), inner.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
  OK(NCCL(ncclGroupEnd)());
  OK(NCCL(ncclAllGather)(&one, gathered.data(), 1, ncclFloat32, comm, nullptr));
  OK(NCCL(ncclGroupSimulateEnd)(nullptr));
  for (int round = 0; round < 2; round++) {
    auto next = filled(100, one);
    if (round) OK(NCCL(ncclGroupStart)());
    OK(NCCL(ncclAllReduce)(next.data(), next.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
    if (round) OK(NCCL(ncclGroupEnd)());
    all_are(next, sum(), __LINE__), all_are(data, one, __LINE__), all_are(inner, one, __LINE__), all_are(gathered, 0.f, __LINE__);
  }
}

// A wrong operation beside a new communicator in one group: told, and the communicator is there.
static void mixed(ncclComm_t comm, int rank) {
  ncclComm_t half;
  std::vector<float> overlapping(20);
  OK(NCCL(ncclGroupStart)());
  OK(NCCL(ncclAllReduce)(&overlapping[0], &overlapping[1], 10, ncclFloat32, ncclSum, comm, nullptr));
  OK(NCCL(ncclCommSplit)(comm, 0, rank, &half, nullptr));
  EQUAL(NCCL(ncclGroupEnd)(), ncclInvalidArgument);
  auto data = filled(100, rank + 1.f);
  OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, half, nullptr));
  all_are(data, sum(), __LINE__);
  OK(NCCL(ncclCommDestroy)(half));
}

// A call that NCCL refuses: nothing of the group runs, and what comes next does.
static void failed_group(ncclComm_t comm, int rank) {
  float one = rank + 1;
  for (bool before : {true, false}) {
    auto data = filled(100, one), next = filled(100, one), gathered = filled(ranks, 0.f);
    auto wrong = [&] { EQUAL(NCCL(ncclAllGather)(&one, gathered.data(), 1, 77, comm, nullptr), ncclInvalidArgument); };
    OK(NCCL(ncclGroupStart)());
    if (before) wrong();
    OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
    OK(NCCL(ncclAllGather)(&one, gathered.data(), 1, ncclFloat32, comm, nullptr));
    OK(NCCL(ncclGroupStart)());
    if (!before) wrong();
    OK(NCCL(ncclGroupEnd)());
    EQUAL(NCCL(ncclGroupEnd)(), ncclInvalidArgument);
    CHECK(strstr(NCCL(ncclGetLastError)(nullptr), "pretended"));
    all_are(data, one, __LINE__), all_are(gathered, 0.f, __LINE__);
    OK(NCCL(ncclAllReduce)(next.data(), next.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
    all_are(next, sum(), __LINE__);
  }
}

// NCCL lacks the function: nothing was revoked.
static void not_revoked(ncclComm_t comm, int rank) {
  if (rank == 0) EQUAL(NCCL(ncclCommRevoke)(comm, 0), ncclInvalidUsage);
  auto data = filled(100, rank + 1.f);
  OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
  all_are(data, sum(), __LINE__);
}

// Collectives beside the all-reduce, alone and in a group, in place and not.
static void others(ncclComm_t comm, int rank) {
  const size_t count = 1000;
  float one = rank + 1;
  auto expected = [&](const std::vector<float> &gathered) {
    for (size_t i = 0; i < gathered.size(); i++) CHECK(gathered[i] == i / count + 1);
  };
  for (bool grouped : {false, true}) {
    auto own = filled(count, one), gathered = filled(ranks * count, 0.f), in_place = filled(ranks * count, one);
    auto spread = filled(count, one), root_in = filled(count, one), root_out = filled(count, 0.f);
    auto whole = filled(ranks * count, one), part = filled(count, 0.f);
    std::vector<unsigned char> bytes(3 * ranks, rank);
    if (grouped) OK(NCCL(ncclGroupStart)());
    OK(NCCL(ncclAllGather)(own.data(), gathered.data(), count, ncclFloat32, comm, nullptr));
    OK(NCCL(ncclAllGather)(&in_place[rank * count], in_place.data(), count, ncclFloat32, comm, nullptr));
    OK(NCCL(ncclAllGather)(&bytes[3 * rank], bytes.data(), 3, ncclUint8, comm, nullptr));
    OK(NCCL(ncclBcast)(spread.data(), count, ncclFloat32, ranks - 1, comm, nullptr));
    OK(NCCL(ncclBroadcast)(rank == 1 ? root_in.data() : nullptr, root_out.data(), count, ncclFloat32, 1, comm, nullptr));
    OK(NCCL(ncclReduceScatter)(whole.data(), part.data(), count, ncclFloat32, ncclSum, comm, nullptr));
    if (grouped) OK(NCCL(ncclGroupEnd)());
    expected(gathered), expected(in_place);
    for (int i = 0; i < 3 * ranks; i++) CHECK(bytes[i] == i / 3);
    all_are(spread, float(ranks), __LINE__), all_are(root_out, 2.f, __LINE__), all_are(part, sum(), __LINE__);
    OK(NCCL(ncclReduceScatter)(whole.data(), &whole[rank * count], count, ncclFloat32, ncclSum, comm, nullptr));
    for (size_t i = 0; i < count; i++) CHECK(whole[rank * count + i] == sum());
    OK(NCCL(ncclAllReduce)(part.data(), part.data(), count, ncclFloat32, ncclSum, comm, nullptr));
    all_are(part, sum() * ranks, __LINE__);
    // Beyond what is taken over four ranks.
    auto large = filled(100000, one);
    OK(NCCL(ncclBroadcast)(large.data(), large.data(), large.size(), ncclFloat32, 0, comm, nullptr));
    all_are(large, 1.f, __LINE__);
  }
}

// The library's own call of ncclBroadcast, inside ncclBcast, is nobody else's business.
static void itself(ncclComm_t comm, int rank) {
  auto data = filled(10, float(rank));
  OK(NCCL(ncclBcast)(data.data(), 10, ncclFloat32, 1, comm, nullptr));
  all_are(data, 1.f, __LINE__);
  OK(NCCL(ncclCommFinalize)(comm));
}

// A rank that waits alone is freed by an abort of another of its threads, or by what makes a communicator without the others.
static void abort_ends_the_wait(bool shrink) {
  std::atomic<int> waiting{0};
  on_threads(
      [&](ncclComm_t comm, int rank) {
        if (rank == 0) {
          std::thread aborter([&] {
            while (!waiting) usleep(1000);
            usleep(300000);
            ncclComm_t smaller;
            if (shrink) OK(NCCL(ncclCommShrink)(comm, nullptr, 0, &smaller, nullptr, 1));
            else OK(NCCL(ncclCommAbort)(comm));
          });
          auto data = filled(1000, 1.f);
          waiting = 1;
          int code = NCCL(ncclAllReduce)(data.data(), data.data(), 1000, ncclFloat32, ncclSum, comm, nullptr);
          CHECK(code != ncclSuccess);
          CHECK(strstr(NCCL(ncclGetLastError)(nullptr), shrink ? "ncclCommShrink" : "ncclCommAbort"));
          aborter.join();
          if (shrink) {
            // NCCL, which has not shrunk anything here, would wait for the others.
            CHECK(NCCL(ncclAllReduce)(data.data(), data.data(), 1000, ncclFloat32, ncclSum, comm, nullptr) != ncclSuccess);
            OK(NCCL(ncclCommDestroy)(comm));
          }
          waiting = 2;
        } else {
          while (waiting != 2) usleep(1000);
          OK(NCCL(ncclCommAbort)(comm));
        }
      },
      false);
}

// Ranks of one thread, by ncclCommInitAll and by a group of ncclCommInitRank.
static void one_thread() {
  for (bool all : {true, false}) {
    std::vector<ncclComm_t> comms(ranks);
    ncclUniqueId id;
    OK(NCCL(ncclGetUniqueId)(&id));
    if (all) OK(NCCL(ncclCommInitAll)(comms.data(), ranks, nullptr));
    else {
      OK(NCCL(ncclGroupStart)());
      for (int rank = 0; rank < ranks; rank++) OK(NCCL(ncclCommInitRank)(&comms[rank], ranks, id, rank));
      OK(NCCL(ncclGroupEnd)());
    }
    std::vector<std::vector<float>> data;
    for (int rank = 0; rank < ranks; rank++) data.push_back(filled(100, rank + 1.f));
    OK(NCCL(ncclGroupStart)());
    for (int rank = 0; rank < ranks; rank++)
      OK(NCCL(ncclAllReduce)(data[rank].data(), data[rank].data(), 100, ncclFloat32, ncclSum, comms[rank], nullptr));
    OK(NCCL(ncclGroupEnd)());
    for (auto &values : data) all_are(values, sum(), __LINE__);
    for (auto comm : comms) OK(NCCL(ncclCommDestroy)(comm));
  }
}

// Each rank's communicator, made and used on a thread of its own.
static std::vector<ncclComm_t> left_by_threads() {
  std::vector<ncclComm_t> comms(ranks);
  on_threads(
      [&](ncclComm_t comm, int rank) {
        auto data = filled(100, rank + 1.f);
        OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
        all_are(data, sum(), __LINE__);
        comms[rank] = comm;
      },
      false);
  return comms;
}

// One thread takes one rank off after the other: none waits for the next.
static void destroyed_in_turn() {
  auto comms = left_by_threads();
  auto began = std::chrono::steady_clock::now();
  for (auto comm : comms) OK(NCCL(ncclCommDestroy)(comm));
  CHECK(std::chrono::steady_clock::now() - began < std::chrono::seconds(4));
}

// In a group, when what belongs to the main thread is gone.
struct AtExit {
  std::vector<ncclComm_t> comms;
  ~AtExit() {
    for (auto comm : comms) {
      OK(NCCL(ncclGroupStart)());
      OK(NCCL(ncclCommDestroy)(comm));
      OK(NCCL(ncclGroupEnd)());
    }
  }
};
static AtExit at_exit;

static void destroyed_at_exit() {
  at_exit.comms = left_by_threads();
  OK(NCCL(ncclGroupStart)());
  OK(NCCL(ncclGroupEnd)());
}

// A group with one new communicator for each thread, as programs write it that can have more.
static void grouped_init() {
  ncclUniqueId id;
  OK(NCCL(ncclGetUniqueId)(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([&, rank] {
      ncclComm_t comm;
      OK(NCCL(ncclGroupStart)());
      OK(NCCL(ncclCommInitRank)(&comm, ranks, id, rank));
      OK(NCCL(ncclGroupEnd)());
      auto data = filled(100, rank + 1.f);
      OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
      all_are(data, sum(), __LINE__);
      OK(NCCL(ncclCommDestroy)(comm));
    });
  for (auto &thread : threads) thread.join();
}

// A configuration goes through as it is; one that does not block keeps Myelon out.
static void configured(int blocking) {
  ncclUniqueId id;
  OK(NCCL(ncclGetUniqueId)(&id));
  std::vector<std::thread> threads;
  for (int rank = 0; rank < ranks; rank++)
    threads.emplace_back([&, rank] {
      ncclConfig_t config{sizeof(ncclConfig_t), 0xcafebeef, 22809, blocking, INT32_MIN, INT32_MIN, INT32_MIN, nullptr, 41 + rank};
      ncclComm_t comm, child;
      EQUAL(NCCL(ncclCommInitRankConfig)(&comm, ranks, id, rank, &config), blocking ? ncclSuccess : ncclInProgress);
      // Without a configuration a part is as its parent; and one that blocks is made as its parent does everything.
      ncclConfig_t blocks = config;
      blocks.blocking = 1;
      for (auto *other : {static_cast<ncclConfig_t *>(nullptr), &blocks}) {
        if (blocking) break;
        OK(NCCL(ncclCommSplit)(comm, 0, rank, &child, other));
        OK(NCCL(ncclCommDestroy)(child));
      }
      auto data = filled(100, rank + 1.f);
      OK(NCCL(ncclAllReduce)(data.data(), data.data(), 100, ncclFloat32, ncclSum, comm, nullptr));
      all_are(data, sum(), __LINE__);
      OK(NCCL(ncclCommDestroy)(comm));
    });
  for (auto &thread : threads) thread.join();
}

int main(int count, char **arguments) {
  std::string scenario = count > 1 ? arguments[1] : "";
  if (count > 2) ranks = atoi(arguments[2]);
  if (scenario == "values") on_threads(values);
  else if (scenario == "identity") on_threads(identity);
  else if (scenario == "groups") on_threads(groups);
  else if (scenario == "others") on_threads(others);
  else if (scenario == "itself") on_threads(itself);
  else if (scenario == "simulated") on_threads(simulated);
  else if (scenario == "mixed") on_threads(mixed);
  else if (scenario == "not_revoked") on_threads(not_revoked);
  else if (scenario == "abort") abort_ends_the_wait(false);
  else if (scenario == "shrink") abort_ends_the_wait(true);
  else if (scenario == "one_thread") one_thread();
  else if (scenario == "grouped_init") grouped_init();
  else if (scenario == "in_turn") destroyed_in_turn();
  else if (scenario == "at_exit") destroyed_at_exit();
  else if (scenario == "blocking") configured(1);
  else if (scenario == "non_blocking") configured(0);
  else if (scenario == "failed_group") on_threads(failed_group);
  else if (count > 4) process(scenario, atoi(arguments[3]), arguments[4]);
  else if (scenario == "version") {
    int version = 0, code = NCCL(ncclGetVersion)(&version);
    printf("%d %d %s\n", code, version, NCCL(ncclGetLastError)(nullptr));
  } else if (!processes(scenario)) return fprintf(stderr, "unknown scenario '%s'\n", scenario.c_str()), 2;
  return 0;
}

// Three ranks, threads of one process, each with a CPU device of its own and its default stream.
#define _POSIX_C_SOURCE 200809L

#include "expect.h"

#include <pthread.h>
#include <stdint.h>
#include <time.h>

enum { RANKS = 3, COUNT = 1000 };

struct rank {
    int number;
    myelonUniqueId_t id;
    double timeout;
    void (*work)(struct rank *, myelonComm_t);
};

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static void *run(void *argument) {
    struct rank *rank = argument;
    // The others are prepared at their first use, which all ranks come to.
    const myelonDataType_t type = myelonF32;
    const myelonOp_t op = myelonSum;
    myelonOptions_t options;
    myelonComm_t comm;
    OK(myelonOptionsCreate(&options));
    OK(myelonOptionsSetTimeout(options, rank->timeout));
    OK(myelonOptionsSetPrepare(options, &type, &op, 1));
    OK(myelonCommInitRank(&comm, RANKS, &rank->id, rank->number, -1, options));
    OK(myelonOptionsDestroy(options));
    rank->work(rank, comm);
    OK(myelonCommDestroy(comm));
    return NULL;
}

static void on_all_ranks(double timeout, void (*work)(struct rank *, myelonComm_t)) {
    struct rank ranks[RANKS];
    pthread_t threads[RANKS];
    myelonUniqueId_t id;
    OK(myelonGetUniqueId(&id));
    for (int i = 0; i < RANKS; i++) {
        ranks[i] = (struct rank){i, id, timeout, work};
        EXPECT(pthread_create(&threads[i], NULL, run, &ranks[i]) == 0);
    }
    for (int i = 0; i < RANKS; i++) EXPECT(pthread_join(threads[i], NULL) == 0);
}

static void all_reduce(struct rank *rank, myelonComm_t comm) {
    float sum[COUNT];
    int64_t input[COUNT], most[COUNT];
    for (int i = 0; i < COUNT; i++) {
        sum[i] = (float)(rank->number + i);
        input[i] = rank->number == i % RANKS ? i : -i;
    }
    OK(myelonAllReduce(comm, sum, sum, COUNT, myelonF32, myelonSum, NULL));
    OK(myelonAllReduce(comm, input, most, COUNT, myelonI64, myelonMax, NULL));
    uint32_t failed = 7;
    OK(myelonCommQueueStatus(comm, &failed, NULL));
    FAILS(myelonInvalidArgument, "status is ", myelonCommQueueStatus(comm, NULL, NULL));
    OK(myelonCommSynchronize(comm, NULL));
    EXPECT(failed == 0);
    for (int i = 0; i < COUNT; i++) EXPECT(sum[i] == (float)(3 + 3 * i) && most[i] == i);
}

static void batch(struct rank *rank, myelonComm_t comm) {
    _Alignas(64) float first[COUNT], second[COUNT], registered[COUNT] = {0};
    int zero_copy = -1;
    myelonWindow_t window;
    OK(myelonRegister(comm, registered, sizeof registered, &window));
    OK(myelonWindowIsZeroCopy(window, &zero_copy));
    // Threads of one process reach each other's memory.
    EXPECT(zero_copy == 1);
    FAILS(myelonInvalidArgument, "zero_copy is NULL", myelonWindowIsZeroCopy(window, NULL));

    for (int i = 0; i < COUNT; i++) first[i] = (float)(rank->number + 1);
    // The second reads what the first writes.
    myelonOperation_t operations[] = {
        {first, second, COUNT, myelonF32, myelonProd, NULL},
        {second, registered, COUNT, myelonF32, myelonSum, window},
    };
    OK(myelonAllReduceBatch(comm, operations, 2, NULL));
    OK(myelonAllReduceBatch(comm, NULL, 0, NULL));
    OK(myelonCommSynchronize(comm, NULL));
    for (int i = 0; i < COUNT; i++) EXPECT(second[i] == 6 && registered[i] == 18);

    FAILS(myelonInvalidArgument, "operations is NULL", myelonAllReduceBatch(comm, NULL, 2, NULL));
    operations[1].op = (myelonOp_t)9;
    FAILS(myelonInvalidArgument, "operation 1 of a batch of 2: op is 9", myelonAllReduceBatch(comm, operations, 2, NULL));
    operations[1].op = myelonSum;
    operations[1].output = second;
    FAILS(myelonInvalidArgument, "do not lie in the window", myelonAllReduceBatch(comm, operations, 2, NULL));
    // Nothing was launched by these, on any rank.
    OK(myelonCommStatus(comm));
    OK(myelonDeregister(window));
}

static void parts(struct rank *rank, myelonComm_t comm) {
    int32_t all[RANKS * COUNT], part[COUNT], gathered[RANKS * COUNT], told[COUNT];
    const myelonDataType_t type = myelonI32;
    const myelonOp_t op = myelonSum;
    OK(myelonPrepareCollective(comm, myelonCollectiveReduceScatter, &type, &op, 1));
    for (int i = 0; i < RANKS * COUNT; i++) all[i] = i + rank->number;
    for (int i = 0; i < COUNT; i++) told[i] = 100 * rank->number + i;
    OK(myelonReduceScatter(comm, all, part, COUNT, myelonI32, myelonSum, NULL));
    OK(myelonBarrier(comm, NULL));
    OK(myelonAllGather(comm, part, gathered, COUNT, myelonI32, NULL));
    // Elsewhere than on the root the input is nobody's.
    OK(myelonBroadcast(comm, rank->number == 1 ? told : NULL, told, COUNT, myelonI32, 1, NULL));
    OK(myelonCommSynchronize(comm, NULL));
    for (int i = 0; i < RANKS * COUNT; i++) EXPECT(gathered[i] == 3 * i + 3);
    for (int i = 0; i < COUNT; i++) EXPECT(part[i] == gathered[rank->number * COUNT + i] && told[i] == 100 + i);
}

static void buckets(struct rank *rank, myelonComm_t comm) {
    float first[COUNT], second[7], into[7];
    const myelonDataType_t type = myelonF32;
    const myelonOp_t op = myelonSum;
    for (int i = 0; i < COUNT; i++) first[i] = (float)(rank->number * i);
    for (int i = 0; i < 7; i++) second[i] = (float)rank->number;
    myelonBucket_t list[] = {{first, first, COUNT}, {NULL, NULL, 0}, {second, into, 7}};
    OK(myelonPrepareBuckets(comm, &type, &op, 1));
    OK(myelonAllReduceBuckets(comm, list, 3, myelonF32, myelonSum, NULL));
    OK(myelonAllReduceBuckets(comm, NULL, 0, myelonF32, myelonSum, NULL));
    OK(myelonCommSynchronize(comm, NULL));
    for (int i = 0; i < COUNT; i++) EXPECT(first[i] == (float)(3 * i));
    for (int i = 0; i < 7; i++) EXPECT(second[i] == (float)rank->number && into[i] == 3);

    FAILS(myelonInvalidArgument, "buckets is NULL", myelonAllReduceBuckets(comm, NULL, 2, myelonF32, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "op is 9", myelonAllReduceBuckets(comm, list, 3, myelonF32, (myelonOp_t)9, NULL));
    list[2].output = second + 1;
    FAILS(myelonInvalidArgument, "bucket 2", myelonAllReduceBuckets(comm, list, 3, myelonF32, myelonSum, NULL));
    OK(myelonCommStatus(comm));
}

// Ranks 0 and 2 in one child, in turned order by keys of both signs; rank 1 in none.
static void split(struct rank *rank, myelonComm_t comm) {
    myelonComm_t child = comm;
    int child_rank = -1, child_ranks = -1;
    float data[COUNT];
    for (int i = 0; i < COUNT; i++) data[i] = (float)rank->number;
    OK(myelonCommSplit(comm, rank->number == 1 ? -1 : 7, 1 - rank->number, NULL, &child));
    if (rank->number == 1) {
        EXPECT(child == NULL);
    } else {
        OK(myelonCommRank(child, &child_rank));
        OK(myelonCommWorldSize(child, &child_ranks));
        EXPECT(child_rank == (rank->number == 2 ? 0 : 1) && child_ranks == 2);
        OK(myelonAllReduce(child, data, data, COUNT, myelonF32, myelonSum, NULL));
        OK(myelonCommSynchronize(child, NULL));
        for (int i = 0; i < COUNT; i++) EXPECT(data[i] == 2);
    }
    OK(myelonCommDestroy(child));
    // The parent works on.
    OK(myelonBarrier(comm, NULL));
    OK(myelonCommSynchronize(comm, NULL));
}

// The last rank never comes.
static void stall(struct rank *rank, myelonComm_t comm) {
    float data[COUNT] = {0};
    if (rank->number == RANKS - 1) {
        // Until it hears that the others gave up.
        double end = now() + 60;
        while (myelonCommStatus(comm) == myelonSuccess) EXPECT(now() < end);
        return;
    }
    myelonStatus_t status = myelonAllReduce(comm, data, data, COUNT, myelonF32, myelonSum, NULL);
    if (status == myelonSuccess) status = myelonCommSynchronize(comm, NULL);
    EXPECT(status == myelonStalled);
    uint32_t failed = 7;
    OK(myelonCommQueueStatus(comm, &failed, NULL));
    EXPECT(myelonCommSynchronize(comm, NULL) == myelonStalled && failed == 1);
    const char *words[] = {"rank ", "lane ", "expected ", "seen ", "rank 2 had not started this operation"};
    for (size_t i = 0; i < sizeof words / sizeof *words; i++) EXPECT(strstr(myelonGetLastError(), words[i]) != NULL);
    // A wait of this rank's own, or of the one that gave up first.
    myelonErrorInfo_t info;
    OK(myelonGetLastErrorInfo(&info));
    EXPECT(info.rank >= 0 && info.rank < RANKS - 1 && info.peer >= 0 && info.peer < RANKS && info.lane >= 0);
    // It stays so.
    FAILS(myelonStalled, "rank 2", myelonAllReduce(comm, data, data, COUNT, myelonF32, myelonSum, NULL));
}

static void *abort_soon(void *comm) {
    struct timespec soon = {0, 200000000};
    nanosleep(&soon, NULL);
    OK(myelonCommAbort((myelonComm_t)comm, "the test gives up"));
    return NULL;
}

// With no deadline: a second thread of rank 0 ends what all wait for, the last rank in no operation.
static void give_up(struct rank *rank, myelonComm_t comm) {
    float data[COUNT] = {0};
    pthread_t thread;
    myelonStatus_t status = myelonSuccess;
    if (rank->number == 0) EXPECT(pthread_create(&thread, NULL, abort_soon, comm) == 0);
    if (rank->number == RANKS - 1) {
        double end = now() + 60;
        while ((status = myelonCommStatus(comm)) == myelonSuccess) EXPECT(now() < end);
    } else {
        // On a slow machine the abort may come before.
        status = myelonAllReduce(comm, data, data, COUNT, myelonF32, myelonSum, NULL);
        if (status == myelonSuccess) status = myelonCommSynchronize(comm, NULL);
    }
    EXPECT(status == myelonAborted && strstr(myelonGetLastError(), "the test gives up") != NULL);
    if (rank->number == 0) EXPECT(pthread_join(thread, NULL) == 0);
}

// One goes away without a word about why; a destroy of the others ends all the same.
static void leave(struct rank *rank, myelonComm_t comm) {
    static float data[RANKS][COUNT];
    if (rank->number != RANKS - 1) {
        float *own = data[rank->number];
        OK(myelonAllReduce(comm, own, own, COUNT, myelonF32, myelonSum, NULL));
    }
}

int main(void) {
    // Kernels that are not in the cache are compiled between the first operations.
    on_all_ranks(60, all_reduce);
    on_all_ranks(60, batch);
    on_all_ranks(60, parts);
    on_all_ranks(60, split);
    on_all_ranks(60, buckets);
    on_all_ranks(0.5, stall);
    on_all_ranks(0, give_up);
    double begin = now();
    on_all_ranks(0, leave);
    EXPECT(now() - begin < 120);
    puts("ranks: all as expected");
    return 0;
}

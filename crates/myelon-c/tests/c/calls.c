// What needs no peers: names, options, wrong arguments, and a group of one rank.
#include "expect.h"

static void names(void) {
    int version = 0;
    myelonErrorInfo_t info = {0, 0, 0};
    EXPECT(strcmp(myelonGetLastError(), "") == 0);
    OK(myelonGetLastErrorInfo(&info));
    EXPECT(info.rank == -1 && info.peer == -1 && info.lane == -1);
    FAILS(myelonInvalidArgument, "info is NULL", myelonGetLastErrorInfo(NULL));
    OK(myelonGetVersion(&version));
    EXPECT(version == MYELON_VERSION);
    FAILS(myelonInvalidArgument, "myelonGetVersion: version is NULL", myelonGetVersion(NULL));

    for (int status = myelonSuccess; status <= myelonInternalError; status++) {
        const char *text = myelonGetErrorString((myelonStatus_t)status);
        EXPECT(text != NULL && strstr(text, "not a") == NULL);
        for (int other = myelonSuccess; other < status; other++) {
            EXPECT(strcmp(text, myelonGetErrorString((myelonStatus_t)other)) != 0);
        }
    }
    EXPECT(strcmp(myelonGetErrorString((myelonStatus_t)999), "not a myelonStatus_t") == 0);
    EXPECT(strcmp(myelonGetErrorString((myelonStatus_t)-1), "not a myelonStatus_t") == 0);
}

static void options(void) {
    myelonOptions_t options = NULL;
    const myelonDataType_t types[] = {myelonF32, myelonBf16}, wrong_types[] = {myelonF32, (myelonDataType_t)12};
    const myelonOp_t ops[] = {myelonSum, myelonMax};
    OK(myelonOptionsCreate(&options));
    OK(myelonOptionsSetTimeout(options, 0.25));
    OK(myelonOptionsSetTimeout(options, 0));
    OK(myelonOptionsSetMeetingTimeout(options, 600));
    OK(myelonOptionsSetMeetingTimeout(options, 1e9));
    OK(myelonOptionsSetSilence(options, 60));
    OK(myelonOptionsSetPrepare(options, types, ops, 2));
    OK(myelonOptionsSetPrepare(options, NULL, NULL, 0));
    OK(myelonOptionsSetVariant(options, "ring"));
    OK(myelonOptionsSetVariant(options, "auto"));
    OK(myelonOptionsSetVariant(options, NULL));
    OK(myelonOptionsSetMaxLanes(options, 128));
    OK(myelonOptionsSetMaxLanes(options, 1));
    OK(myelonOptionsSetLargeLanes(options, 128));
    OK(myelonOptionsSetFallback(options, myelonFallbackNccl));
    OK(myelonOptionsSetFallback(options, myelonFallbackRefuse));
    OK(myelonOptionsSetShareDevices(options, 1));

    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsCreate(NULL));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetTimeout(NULL, 1));
    FAILS(myelonInvalidArgument, "seconds is -1", myelonOptionsSetTimeout(options, -1));
    FAILS(myelonInvalidArgument, "seconds is NaN", myelonOptionsSetTimeout(options, strtod("nan", NULL)));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetMeetingTimeout(NULL, 1));
    FAILS(myelonInvalidArgument, "seconds is 0: use 0.1 to 86400", myelonOptionsSetMeetingTimeout(options, 0));
    FAILS(myelonInvalidArgument, "seconds is -1: use 0.1 to 86400", myelonOptionsSetSilence(options, -1));
    FAILS(myelonInvalidArgument, "seconds is NaN", myelonOptionsSetSilence(options, strtod("nan", NULL)));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetPrepare(NULL, types, ops, 2));
    FAILS(myelonInvalidArgument, "ops is NULL", myelonOptionsSetPrepare(options, types, NULL, 2));
    FAILS(myelonInvalidArgument, "dtype is 12", myelonOptionsSetPrepare(options, wrong_types, ops, 2));
    FAILS(myelonInvalidArgument, "warp_drive", myelonOptionsSetVariant(options, "warp_drive"));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetVariant(NULL, "ring"));
    FAILS(myelonInvalidArgument, "lanes is 0", myelonOptionsSetMaxLanes(options, 0));
    FAILS(myelonInvalidArgument, "lanes is 129", myelonOptionsSetMaxLanes(options, 129));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetMaxLanes(NULL, 8));
    FAILS(myelonInvalidArgument, "lanes is 129", myelonOptionsSetLargeLanes(options, 129));
    FAILS(myelonInvalidArgument, "1 (nccl)", myelonOptionsSetFallback(options, (myelonFallback_t)2));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetFallback(NULL, myelonFallbackNccl));
    FAILS(myelonInvalidArgument, "options is NULL", myelonOptionsSetShareDevices(NULL, 1));
    OK(myelonOptionsDestroy(options));
    OK(myelonOptionsDestroy(NULL));
}

static void no_handle(void) {
    int number;
    const char *text;
    float data[4] = {0};
    myelonUniqueId_t id;
    myelonComm_t comm;
    myelonWindow_t window;
    FAILS(myelonInvalidArgument, "id is NULL", myelonGetUniqueId(NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommInitEnv(NULL, NULL));
    FAILS(myelonInvalidArgument, "MYELON_RANK", myelonCommInitEnv(&comm, NULL));
    OK(myelonGetUniqueId(&id));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommInitRank(NULL, 1, &id, 0, -1, NULL));
    FAILS(myelonInvalidArgument, "id is NULL", myelonCommInitRank(&comm, 1, NULL, 0, -1, NULL));
    FAILS(myelonInvalidArgument, "a world of 9 ranks", myelonCommInitRank(&comm, 9, &id, 0, -1, NULL));
    FAILS(myelonInvalidArgument, "world_size is -1", myelonCommInitRank(&comm, -1, &id, 0, -1, NULL));
    FAILS(myelonInvalidArgument, "rank is 2 in a world of 2", myelonCommInitRank(&comm, 2, &id, 2, -1, NULL));
    FAILS(myelonInvalidArgument, "rank is -1", myelonCommInitRank(&comm, 2, &id, -1, -1, NULL));
    FAILS(myelonInvalidArgument, "device is -2", myelonCommInitRank(&comm, 1, &id, 0, -2, NULL));
    id.bytes[40] ^= 1;
    FAILS(myelonInvalidArgument, "checksum", myelonCommInitRank(&comm, 1, &id, 0, -1, NULL));

    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommRank(NULL, &number));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommWorldSize(NULL, &number));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommDevice(NULL, &number));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommEngine(NULL, &text));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommStatus(NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommSynchronize(NULL, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommQueueStatus(NULL, NULL, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommAbort(NULL, "why"));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonPrepare(NULL, NULL, NULL, 0));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonAllReduce(NULL, data, data, 4, myelonF32, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonAllReduceBatch(NULL, NULL, 0, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonReduceScatter(NULL, data, data, 4, myelonF32, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonAllGather(NULL, data, data, 4, myelonF32, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonBroadcast(NULL, data, data, 4, myelonF32, 0, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonBarrier(NULL, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonPrepareCollective(NULL, myelonCollectiveAllGather, NULL, NULL, 0));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonCommSplit(NULL, 0, 0, NULL, &comm));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonAllReduceBuckets(NULL, NULL, 0, myelonF32, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonPrepareBuckets(NULL, NULL, NULL, 0));
    FAILS(myelonInvalidArgument, "comm is NULL", myelonRegister(NULL, data, sizeof data, &window));
    FAILS(myelonInvalidArgument, "window is NULL", myelonWindowIsZeroCopy(NULL, &number));
    OK(myelonCommDestroy(NULL));
    OK(myelonDeregister(NULL));
}

static void alone(void) {
    int rank = -1, ranks = -1, device = 0;
    const char *engine = NULL;
    double data[3] = {1, 2, 3}, into[3] = {0};
    const myelonDataType_t type = myelonF64;
    const myelonOp_t op = myelonAvg, wrong_op = (myelonOp_t)5;
    myelonUniqueId_t id;
    myelonComm_t comm = NULL, child = NULL;
    myelonWindow_t window = NULL;
    OK(myelonGetUniqueId(&id));
    OK(myelonCommInitRank(&comm, 1, &id, 0, -1, NULL));
    OK(myelonCommRank(comm, &rank));
    OK(myelonCommWorldSize(comm, &ranks));
    OK(myelonCommDevice(comm, &device));
    OK(myelonCommEngine(comm, &engine));
    EXPECT(rank == 0 && ranks == 1 && device == -1 && strcmp(engine, "myelon") == 0);
    FAILS(myelonInvalidArgument, "rank is NULL", myelonCommRank(comm, NULL));
    FAILS(myelonInvalidArgument, "world_size is NULL", myelonCommWorldSize(comm, NULL));
    FAILS(myelonInvalidArgument, "device is NULL", myelonCommDevice(comm, NULL));
    FAILS(myelonInvalidArgument, "engine is NULL", myelonCommEngine(comm, NULL));

    OK(myelonPrepare(comm, &type, &op, 1));
    FAILS(myelonInvalidArgument, "op is 5", myelonPrepare(comm, &type, &wrong_op, 1));
    OK(myelonAllReduce(comm, data, into, 3, myelonF64, myelonAvg, NULL));
    OK(myelonCommSynchronize(comm, NULL));
    OK(myelonCommStatus(comm));
    EXPECT(memcmp(data, into, sizeof data) == 0);
    OK(myelonAllReduce(comm, NULL, NULL, 0, myelonF64, myelonAvg, NULL));

    FAILS(myelonInvalidArgument, "dtype is -7", myelonAllReduce(comm, data, into, 3, (myelonDataType_t)-7, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "op is 77", myelonAllReduce(comm, data, into, 3, myelonF64, (myelonOp_t)77, NULL));
    FAILS(myelonInvalidArgument, "input is 0x0", myelonAllReduce(comm, NULL, into, 3, myelonF64, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "overlap", myelonAllReduce(comm, data, data + 1, 2, myelonF64, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "exceed any memory", myelonAllReduce(comm, data, data, (size_t)-1, myelonF64, myelonSum, NULL));
    FAILS(myelonInvalidArgument, "op is 77", myelonReduceScatter(comm, data, into, 3, myelonF64, (myelonOp_t)77, NULL));
    FAILS(myelonInvalidArgument, "dtype is 40", myelonAllGather(comm, data, into, 3, (myelonDataType_t)40, NULL));
    FAILS(myelonInvalidArgument, "root is -1", myelonBroadcast(comm, data, into, 3, myelonF64, -1, NULL));
    FAILS(myelonInvalidArgument, "rank", myelonBroadcast(comm, data, into, 3, myelonF64, 1, NULL));
    FAILS(myelonInvalidArgument, "collective is 4",
          myelonPrepareCollective(comm, (myelonCollective_t)4, &type, &op, 1));
    FAILS(myelonInvalidArgument, "out is NULL", myelonCommSplit(comm, 0, 0, NULL, NULL));
    FAILS(myelonInvalidArgument, "color is -2", myelonCommSplit(comm, -2, 0, NULL, &child));
    EXPECT(child == NULL);
    OK(myelonCommStatus(comm));
    FAILS(myelonInvalidArgument, "window is NULL", myelonRegister(comm, data, sizeof data, NULL));
    FAILS(myelonInvalidArgument, "no memory to register", myelonRegister(comm, NULL, sizeof data, &window));

    // In the wrong order, which says so and harms nothing.
    OK(myelonRegister(comm, data, sizeof data, &window));
    OK(myelonCommDestroy(comm));
    FAILS(myelonInvalidArgument, "deregister the window first", myelonDeregister(window));
}

int main(void) {
    names();
    options();
    no_handle();
    alone();
    puts("calls: all as expected");
    return 0;
}

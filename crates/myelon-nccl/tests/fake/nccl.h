// What the tests use of NCCL's interface, with its numbers.
#pragma once
#include <cstddef>
#include <cstdint>

extern "C" {
typedef struct ncclComm *ncclComm_t;
typedef void *cudaStream_t;
typedef struct {
  char internal[128];
} ncclUniqueId;
typedef struct {
  size_t size;
  unsigned int magic;
  unsigned int version;
  int blocking;
  int cgaClusterSize;
  int minCTAs;
  int maxCTAs;
  const char *netName;
  int splitShare;
} ncclConfig_t;

enum { ncclSuccess = 0, ncclSystemError = 2, ncclInternalError = 3, ncclInvalidArgument = 4, ncclInvalidUsage = 5, ncclRemoteError = 6, ncclInProgress = 7 };
enum { ncclUint8 = 1, ncclInt32 = 2, ncclFloat32 = 7, ncclFloat64 = 8 };
enum { ncclSum = 0, ncclMax = 2, ncclAvg = 4 };

int ncclGetVersion(int *version);
int ncclGetUniqueId(ncclUniqueId *id);
int ncclCommInitRank(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank);
int ncclCommInitRankConfig(ncclComm_t *comm, int nranks, ncclUniqueId id, int rank, ncclConfig_t *config);
int ncclCommInitAll(ncclComm_t *comms, int ndev, const int *devlist);
int ncclCommSplit(ncclComm_t comm, int color, int key, ncclComm_t *newcomm, ncclConfig_t *config);
int ncclCommShrink(ncclComm_t comm, int *exclude, int excluded, ncclComm_t *newcomm, ncclConfig_t *config, int flags);
int ncclCommFinalize(ncclComm_t comm);
int ncclCommDestroy(ncclComm_t comm);
int ncclCommAbort(ncclComm_t comm);
// Weak, for the pretended library lacks them.
int ncclCommGrow(ncclComm_t comm, int nranks, const ncclUniqueId *id, int rank, ncclComm_t *newcomm, ncclConfig_t *config) __attribute__((weak));
int ncclCommMemStats(ncclComm_t comm, int stat, uint64_t *value) __attribute__((weak));
int ncclCommRevoke(ncclComm_t comm, int flags) __attribute__((weak));
int ncclCommGetAsyncError(ncclComm_t comm, int *error);
int ncclCommCount(ncclComm_t comm, int *count);
int ncclCommUserRank(ncclComm_t comm, int *rank);
int ncclCommCuDevice(ncclComm_t comm, int *device);
const char *ncclGetErrorString(int result);
const char *ncclGetLastError(ncclComm_t comm);
int ncclAllReduce(const void *sendbuff, void *recvbuff, size_t count, int datatype, int op, ncclComm_t comm, cudaStream_t stream);
int ncclAllGather(const void *sendbuff, void *recvbuff, size_t count, int datatype, ncclComm_t comm, cudaStream_t stream);
int ncclReduceScatter(const void *sendbuff, void *recvbuff, size_t recvcount, int datatype, int op, ncclComm_t comm, cudaStream_t stream);
int ncclBroadcast(const void *sendbuff, void *recvbuff, size_t count, int datatype, int root, ncclComm_t comm, cudaStream_t stream);
int ncclBcast(void *buff, size_t count, int datatype, int root, ncclComm_t comm, cudaStream_t stream);
int ncclSend(const void *sendbuff, size_t count, int datatype, int peer, ncclComm_t comm, cudaStream_t stream);
int ncclRecv(void *recvbuff, size_t count, int datatype, int peer, ncclComm_t comm, cudaStream_t stream);
int ncclGroupStart();
int ncclGroupEnd();
int ncclGroupSimulateEnd(void *info);
}

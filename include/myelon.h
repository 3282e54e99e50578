// Myelon in C: all-reduce and other collectives over the GPUs of one node. Link with -lmyelon_ccl, or what
// `pkg-config --cflags --libs myelon-ccl` prints.
//
// Made of crates/myelon-c/src; do not edit.
//
// Every function that returns a myelonStatus_t says what went wrong in words by myelonGetLastError, on the same thread. A NULL
// handle and a number that is no enumerator are errors, a handle that was destroyed is undefined behaviour. Functions that are
// called collective are called by every rank, in the same order on each. Results of functions are written on success alone.

#ifndef MYELON_H
#define MYELON_H

#include <stddef.h>
#include <stdint.h>

// 0.1.0: 10000 a major, 100 a minor, 1 a patch release.
#define MYELON_VERSION 100

// How a call ended. myelonGetLastError says more of what is not myelonSuccess.
typedef enum {
    // All went well.
    myelonSuccess = 0,
    // The call, or a variable of the environment, was wrong. Nothing was launched and nothing is lost.
    myelonInvalidArgument = 1,
    // The request is valid, but this machine, variant or build cannot serve it. Nothing was launched.
    myelonUnsupported = 2,
    // A wait inside a kernel passed its deadline. Output undefined: destroy the communicator and make a new one.
    myelonStalled = 3,
    // A peer's process ended or stopped answering, or it left while an operation still waited for it. Output undefined: destroy the
    // communicator.
    myelonPeerLost = 4,
    // Ranks disagree on something that must be equal: an operation, a setting, the version.
    myelonPeerMismatch = 5,
    // This rank, or a peer, called myelonCommAbort. Destroy the communicator.
    myelonAborted = 6,
    // A step that every rank takes by itself failed on a peer; here it went well.
    myelonPeerFailed = 7,
    // The driver, a GPU, NCCL or the compiler of kernels failed, or a peer's memory cannot be reached.
    myelonDeviceError = 8,
    // The operating system failed, a library is missing, or the ranks did not find each other.
    myelonSystemError = 9,
    // A fault of this library. Please report it, with the text of myelonGetLastError.
    myelonInternalError = 10,
} myelonStatus_t;

// Element type of a collective. Buffers are aligned to the element.
typedef enum {
    // IEEE 754 binary32.
    myelonF32 = 0,
    // IEEE 754 binary64.
    myelonF64 = 1,
    // IEEE 754 binary16, accumulated in binary32.
    myelonF16 = 2,
    // bfloat16, accumulated in binary32.
    myelonBf16 = 3,
    // 8-bit float, 4 exponent bits, no infinity; accumulated in binary32.
    myelonE4m3 = 4,
    // 8-bit float, 5 exponent bits; accumulated in binary32.
    myelonE5m2 = 5,
    // Signed 8-bit integer, wrapping.
    myelonI8 = 6,
    // Unsigned 8-bit integer, wrapping.
    myelonU8 = 7,
    // Signed 32-bit integer, wrapping.
    myelonI32 = 8,
    // Unsigned 32-bit integer, wrapping.
    myelonU32 = 9,
    // Signed 64-bit integer, wrapping.
    myelonI64 = 10,
    // Unsigned 64-bit integer, wrapping.
    myelonU64 = 11,
} myelonDataType_t;

// What a reduction does with the elements of all ranks.
typedef enum {
    // x0 + x1 + ..., integers wrapping.
    myelonSum = 0,
    // x0 * x1 * ..., integers wrapping.
    myelonProd = 1,
    // Smallest; a NaN anywhere gives NaN.
    myelonMin = 2,
    // Largest; a NaN anywhere gives NaN.
    myelonMax = 3,
    // Sum divided by the world size; integers divide the wrapped sum, toward zero.
    myelonAvg = 4,
} myelonOp_t;

// Which collective, for myelonPrepareCollective.
typedef enum {
    // myelonAllReduce, also in batches.
    myelonCollectiveAllReduce = 0,
    // myelonReduceScatter.
    myelonCollectiveReduceScatter = 1,
    // myelonAllGather.
    myelonCollectiveAllGather = 2,
    // myelonBroadcast.
    myelonCollectiveBroadcast = 3,
} myelonCollective_t;

// What to do where the ranks cannot reach each other's memory.
typedef enum {
    // Say what is missing: bringing a communicator up is an error.
    myelonFallbackRefuse = 0,
    // Run on NCCL, whose kernels have no deadline. myelonCommEngine says which of the two runs.
    myelonFallbackNccl = 1,
} myelonFallback_t;

// A communicator.
typedef struct MyelonComm MyelonComm;

// Settings of a communicator.
typedef struct MyelonOptions MyelonOptions;

// Memory that every rank registered.
typedef struct MyelonWindow MyelonWindow;

// The numbers of the last call on this thread that failed; -1 where its error has none.
typedef struct {
    // The rank that noticed.
    int rank;
    // The rank that it is about: the one waited for, lost, or of another opinion.
    int peer;
    // The lane of a wait that passed its deadline.
    int lane;
} myelonErrorInfo_t;

// Settings of a communicator, for all ranks alike. Used by one thread at a time.
typedef MyelonOptions *myelonOptions_t;

// Leads the ranks of one group to each other. Who has these bytes can join: pass them over a channel that only the ranks read.
typedef struct {
    // To be passed on whole.
    uint8_t bytes[128];
} myelonUniqueId_t;

// A group of ranks that work together, seen from one of them: 1 to 8 ranks of one node. Several threads may use one at once;
// their calls take turns. Every rank issues the same operations in the same order, on a thread of its own: a rank that waits for
// another one on the same thread waits until its deadline.
typedef MyelonComm *myelonComm_t;

// A cudaStream_t or CUstream of the communicator's GPU; NULL is the default stream. On the CPU device NULL is the only one.
typedef void *myelonStream_t;

// Memory that every rank of a communicator registered: each its own, all of one size.
typedef MyelonWindow *myelonWindow_t;

// One all-reduce as a value, for myelonAllReduceBatch.
typedef struct {
    // First element of this rank's operand.
    const void *input;
    // First element of this rank's result; equals input to work in place, else does not overlap it.
    void *output;
    // Elements. Equal on all ranks, as are dtype and op.
    size_t count;
    // Element type.
    myelonDataType_t dtype;
    // Operator.
    myelonOp_t op;
    // The window that output lies in, at one offset on all ranks, so that results can go there without a copy; or NULL.
    myelonWindow_t window;
} myelonOperation_t;

// One buffer of a list, for myelonAllReduceBuckets.
typedef struct {
    // First element of this rank's operand.
    const void *input;
    // First element of this rank's result; equals input to work in place, else does not overlap it.
    void *output;
    // Elements. Equal on all ranks.
    size_t count;
} myelonBucket_t;

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// What the last call on this thread that failed says of it: the rank, what was expected, what was seen, and the fix where there
// is one. "" if none has failed. Valid until the next call on this thread that fails.
const char *myelonGetLastError(void);

// A status in a few words. Valid for good; never NULL, whatever the number.
const char *myelonGetErrorString(myelonStatus_t status);

// The version of the library that is loaded, as MYELON_VERSION counts.
myelonStatus_t myelonGetVersion(int *version);

// The numbers of what myelonGetLastError says in words. All of them -1 if no call on this thread has failed.
myelonStatus_t myelonGetLastErrorInfo(myelonErrorInfo_t *info);

// Settings as the environment has them (MYELON_TIMEOUT and others), to be changed by the functions below and then given to all
// ranks alike. myelonOptionsDestroy gives them back; communicators that were made with them do not need them any more.
myelonStatus_t myelonOptionsCreate(myelonOptions_t *options);

// Gives settings back. NULL is fine.
myelonStatus_t myelonOptionsDestroy(myelonOptions_t options);

// The longest wait inside a kernel, in seconds; 0 waits until aborted. 30 unless MYELON_TIMEOUT says otherwise.
myelonStatus_t myelonOptionsSetTimeout(myelonOptions_t options, double seconds);

// The longest wait for other ranks that have joined, where ranks meet on the host, in seconds: in myelonPrepare, myelonCommSplit and
// other calls that are collective and queue nothing, and at the first operation of a type. 30 unless set; more than a day counts as a
// day. A rank that ends or aborts ends such a wait before. To join, ranks have 30 seconds whatever this says. A communicator that
// myelonCommSplit makes takes this and its silence after those of the one that it is made from.
myelonStatus_t myelonOptionsSetMeetingTimeout(myelonOptions_t options,
                                              double seconds);

// How long a rank may be silent, in seconds, before it counts as lost: a process that is stopped, or that its machine leaves no time.
// 0.1 to a day, 5 unless set; one that ends is lost at once. It is told to myelonGetUniqueIdWith, or on rank 0 to myelonCommInitEnv,
// and holds for the whole group.
myelonStatus_t myelonOptionsSetSilence(myelonOptions_t options,
                                       double seconds);

// Which n pairs of a data type and an operator are compiled and loaded when a communicator comes up, in place of the sum of
// myelonF32. Others are at their first use, which takes seconds where they are not in the cache, and is an error in a capture.
myelonStatus_t myelonOptionsSetPrepare(myelonOptions_t options,
                                       const myelonDataType_t *dtypes,
                                       const myelonOp_t *ops,
                                       size_t n);

// A variant to use wherever it can serve, by its name; NULL, or "auto", for the lane table's choice.
myelonStatus_t myelonOptionsSetVariant(myelonOptions_t options, const char *name);

// Most lanes of an operation, 1 to 128: each is a CTA and takes an SM from kernels beside it, so fewer are for programs that compute
// meanwhile. Large messages take longer. As many as are fastest unless this or MYELON_MAX_LANES says otherwise.
myelonStatus_t myelonOptionsSetMaxLanes(myelonOptions_t options,
                                        uint32_t lanes);

// Most lanes of messages of 4 MiB and more, of one rank's part where a collective has parts, 1 to 128: while other kernels run, these
// take their SMs for longest. Smaller ones keep their lanes. As many as are fastest unless this or MYELON_LARGE_LANES says otherwise.
myelonStatus_t myelonOptionsSetLargeLanes(myelonOptions_t options,
                                          uint32_t lanes);

// What to do where the ranks cannot reach each other's memory; myelonFallbackRefuse unless set.
myelonStatus_t myelonOptionsSetFallback(myelonOptions_t options, myelonFallback_t fallback);

// Whether several ranks may use one GPU, not 0 for yes: for tests of correctness alone.
myelonStatus_t myelonOptionsSetShareDevices(myelonOptions_t options, int share);

// Makes an id for a new group, on one of its ranks or on a process beside them, which passes it to all ranks. That process serves
// the meeting on a thread: it lives until every rank has destroyed its communicator, and is not forked after this call.
myelonStatus_t myelonGetUniqueId(myelonUniqueId_t *id);

// As myelonGetUniqueId, of a group with the silence that options have.
myelonStatus_t myelonGetUniqueIdWith(myelonUniqueId_t *id, myelonOptions_t options);

// Brings up the communicator of one rank of world_size. Collective: every rank calls it with the same id and world size, each
// with its own rank, and it returns once all have, or after 30 seconds with the missing ranks.
//
// Ranks are processes, or threads of one. device is the ordinal of the rank's GPU as CUDA numbers it, or -1 for the CPU device,
// which runs the same kernels, slowly, on host memory. options may be NULL: then the environment says it all.
myelonStatus_t myelonCommInitRank(myelonComm_t *comm,
                                  int world_size,
                                  const myelonUniqueId_t *id,
                                  int rank,
                                  int device,
                                  myelonOptions_t options);

// Brings up the communicator of the rank that mpirun, srun, torchrun or MYELON_RANK made of this process, on the GPU of its local
// rank, or on the CPU device where there is no GPU. Collective. options as above.
myelonStatus_t myelonCommInitEnv(myelonComm_t *comm,
                                 myelonOptions_t options);

// Makes a communicator of the ranks of comm that give the same color, on the same devices, in the order of their keys, then of their
// ranks in comm. Collective over comm. color -1 is none: *out is then NULL. It has memory, kernels and an order of operations of its
// own, lives on when comm is destroyed, and is to be destroyed itself. options are its own, as above. While several communicators of
// a process use a GPU their kernels may run at the same time: all ranks issue the operations of the two in the same order.
myelonStatus_t myelonCommSplit(myelonComm_t comm,
                               int color,
                               int key,
                               myelonOptions_t options,
                               myelonComm_t *out);

// Ends a communicator: waits a bounded time for its last operations, ends what still runs then, and says goodbye to the peers.
// Never waits longer than some seconds. NULL is fine; a handle that was destroyed before, or that another thread still uses, is
// undefined behaviour. Replays of graphs that hold an operation of it count as operations: they were launched before, and for them it waits
// until everything that the process queued on the GPU has ended; no stream of the GPU is being captured then.
myelonStatus_t myelonCommDestroy(myelonComm_t comm);

// Ends every running and future operation of a communicator, on this rank at once and on its peers as soon as they hear of it.
// From any thread. why, which may be NULL, is in the error that all ranks then get. The communicator is still to be destroyed.
myelonStatus_t myelonCommAbort(myelonComm_t comm,
                               const char *why);

// What went wrong so far with the operations of a communicator, without waiting for them.
myelonStatus_t myelonCommStatus(myelonComm_t comm);

// Copies a word into 4 bytes of device memory, in the order of the stream and behind the operation before: 0 where every operation of
// this rank that ended so far did so with its data, else 1. For work on the GPU that must not use results that never came; it can be
// captured. What it was, myelonCommStatus says. The stream is as for an operation. myelonUnsupported where operations run on NCCL.
myelonStatus_t myelonCommQueueStatus(myelonComm_t comm,
                                     uint32_t *status,
                                     myelonStream_t stream);

// Waits until the stream has passed everything queued on it, and says what went wrong with the operations of the communicator.
// Bounded, unless the timeout is 0 or NCCL runs the operations: every wait inside a kernel has the deadline. It ends when a peer is lost
// in any case.
myelonStatus_t myelonCommSynchronize(myelonComm_t comm,
                                     myelonStream_t stream);

// The rank of this communicator, from 0.
myelonStatus_t myelonCommRank(myelonComm_t comm, int *rank);

// How many ranks there are.
myelonStatus_t myelonCommWorldSize(myelonComm_t comm, int *world_size);

// The ordinal of the rank's GPU as CUDA numbers it, -1 for the CPU device.
myelonStatus_t myelonCommDevice(myelonComm_t comm, int *device);

// What runs the operations: "myelon", or "nccl" after a fallback. Valid for good.
myelonStatus_t myelonCommEngine(myelonComm_t comm, const char **engine);

// Compiles and loads the kernels of n pairs of a data type and an operator ahead of their first use, which a capture needs.
// Collective: every rank passes the same pairs.
myelonStatus_t myelonPrepare(myelonComm_t comm,
                             const myelonDataType_t *dtypes,
                             const myelonOp_t *ops,
                             size_t n);

// Reduces count elements of every rank's input into every rank's output. Collective: every rank calls it with the same count,
// dtype and op, in the same order among the operations of the communicator.
//
// Both buffers hold count elements in the memory of the rank's device (host memory on the CPU device), aligned to the element;
// output equals input, or does not overlap it. A count of 0 does nothing, on every rank.
//
// Queued on the stream, after the operation before it on the same communicator, whatever stream that was on; the result is there
// when the stream has passed it. The stream exists until myelonCommSynchronize on it, or the next operation, has returned. It may
// be capturing a graph, if the data type and operator were prepared: a replay is then an operation of its own, which has
// ended before a buffer is freed, and was launched before the communicator is destroyed.
//
// The first use of a data type and operator that were not prepared compiles and loads kernels, and returns when all ranks have.
//
// On a GPU, the calling thread has the GPU's primary context current afterwards, as after cudaSetDevice.
myelonStatus_t myelonAllReduce(myelonComm_t comm,
                               const void *input,
                               void *output,
                               size_t count,
                               myelonDataType_t dtype,
                               myelonOp_t op,
                               myelonStream_t stream);

// As one myelonAllReduce for each of n operations, in their order, for less of the host's time. All are checked before the first
// is launched, and an error names the operation by its place from 0: a wrong one loses nothing.
myelonStatus_t myelonAllReduceBatch(myelonComm_t comm,
                                    const myelonOperation_t *operations,
                                    size_t n,
                                    myelonStream_t stream);

// Reduces a list of n buffers of one type by one operator as one operation: small ones, such as the gradients of many tensors, cost a
// part of a launch each. Buckets have no order among themselves, and no output overlaps an operand of another one. All are checked
// before anything is launched, and an error names the bucket by its place from 0. Otherwise as myelonAllReduce.
myelonStatus_t myelonAllReduceBuckets(myelonComm_t comm,
                                      const myelonBucket_t *buckets,
                                      size_t n,
                                      myelonDataType_t dtype,
                                      myelonOp_t op,
                                      myelonStream_t stream);

// As myelonPrepare, for lists of buckets.
myelonStatus_t myelonPrepareBuckets(myelonComm_t comm, const myelonDataType_t *dtypes, const myelonOp_t *ops, size_t n);

// Copies the root's input into every rank's output; elsewhere input is ignored, and may be NULL. count elements. On the root output
// equals input, or does not overlap it. Otherwise as myelonAllReduce.
myelonStatus_t myelonBroadcast(myelonComm_t comm,
                               const void *input,
                               void *output,
                               size_t count,
                               myelonDataType_t dtype,
                               int root,
                               myelonStream_t stream);

// Reduces every rank's input, of which each rank gets its part into output. count is that of a part: input has one for each rank, in
// rank order. In place, output is this rank's part of input; else they do not overlap. Otherwise as myelonAllReduce.
myelonStatus_t myelonReduceScatter(myelonComm_t comm,
                                   const void *input,
                                   void *output,
                                   size_t count,
                                   myelonDataType_t dtype,
                                   myelonOp_t op,
                                   myelonStream_t stream);

// Copies every rank's input into every rank's output, one after another in rank order. count is that of one input: output has room for
// one of each rank. In place, input is this rank's part of output; else they do not overlap. Otherwise as myelonAllReduce.
myelonStatus_t myelonAllGather(myelonComm_t comm,
                               const void *input,
                               void *output,
                               size_t count,
                               myelonDataType_t dtype,
                               myelonStream_t stream);

// Holds the stream until the streams of all ranks have come to this barrier. An operation as any other, with its place in their
// order; the host does not wait. Nothing has to be prepared for it.
myelonStatus_t myelonBarrier(myelonComm_t comm,
                             myelonStream_t stream);

// As myelonPrepare, for a collective of the caller's choice. Where it has no operator, any will do in ops.
myelonStatus_t myelonPrepareCollective(myelonComm_t comm,
                                       myelonCollective_t which,
                                       const myelonDataType_t *dtypes,
                                       const myelonOp_t *ops,
                                       size_t n);

// Registers memory of every rank's, so that results can be stored right into it by operations that name the window. Collective:
// every rank registers a range of its own, of the same size, in the same order. Not on any stream, and may synchronise.
//
// Where one rank's memory cannot be mapped by the others it is a window all the same, and operations run as they do without.
// The memory lives until myelonDeregister has returned. After an operation that failed it lives until every rank's stream has passed
// what was queued by then, for what was running may still store there; after one of the variant ring_copy_engine, until all ranks
// have destroyed their communicators.
myelonStatus_t myelonRegister(myelonComm_t comm,
                              void *ptr,
                              size_t bytes,
                              myelonWindow_t *window);

// Gives a window back, when this rank's operations have ended, and returns when every rank has: then the memory can be freed.
// Collective; before the communicator is destroyed. The handle is of no use afterwards, whatever is returned. NULL is fine, and
// then nothing is waited for.
myelonStatus_t myelonDeregister(myelonWindow_t window);

// Whether every rank maps every other's memory, 1 or 0; the same on all ranks.
myelonStatus_t myelonWindowIsZeroCopy(myelonWindow_t window, int *zero_copy);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* MYELON_H */

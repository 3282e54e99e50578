//! All-reduce: alone, in batches, over buckets.

use std::ffi::c_void;

use myelon::device::DevicePtr;
use myelon::{Bucket, Operation};

use crate::border::list;
use crate::codes::{DataTypeCode, OpCode, data_type, myelonStatus_t, operator};
use crate::communicator::known;
use crate::guard::{Fault, guard};
use crate::handles::{myelonComm_t, myelonStream_t, myelonWindow_t, stream_handle};
use crate::options::pairs;

/// One all-reduce as a value, for myelonAllReduceBatch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct myelonOperation_t {
    /// First element of this rank's operand.
    pub input: *const c_void,
    /// First element of this rank's result; equals input to work in place, else does not overlap it.
    pub output: *mut c_void,
    /// Elements. Equal on all ranks, as are dtype and op.
    pub count: usize,
    /// Element type.
    pub dtype: DataTypeCode,
    /// Operator.
    pub op: OpCode,
    /// The window that output lies in, at one offset on all ranks, so that results can go there without a copy; or NULL.
    pub window: myelonWindow_t,
}

/// Reduces count elements of every rank's input into every rank's output. Collective: every rank calls it with the same count,
/// dtype and op, in the same order among the operations of the communicator.
///
/// Both buffers hold count elements in the memory of the rank's device (host memory on the CPU device), aligned to the element;
/// output equals input, or does not overlap it. A count of 0 does nothing, on every rank.
///
/// Queued on the stream, after the operation before it on the same communicator, whatever stream that was on; the result is there
/// when the stream has passed it. The stream exists until myelonCommSynchronize on it, or the next operation, has returned. It may
/// be capturing a graph, if the data type and operator were prepared: a replay is then an operation of its own, which has
/// ended before a buffer is freed, and was launched before the communicator is destroyed.
///
/// The first use of a data type and operator that were not prepared compiles and loads kernels, and returns when all ranks have.
///
/// On a GPU, the calling thread has the GPU's primary context current afterwards, as after cudaSetDevice.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonAllReduce(
    comm: myelonComm_t,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: DataTypeCode,
    op: OpCode,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonAllReduce", || {
        // SAFETY: the caller's word.
        let communicator = unsafe { known(comm) }?;
        let (dtype, op) = (data_type(dtype)?, operator(op)?);
        // SAFETY: the same, in the words of the header.
        unsafe {
            communicator.all_reduce(pointer(input), pointer(output), count as u64, dtype, op, stream_handle(stream))
        }?;
        Ok(())
    })
}

/// As one myelonAllReduce for each of n operations, in their order, for less of the host's time. All are checked before the first
/// is launched, and an error names the operation by its place from 0: a wrong one loses nothing.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonAllReduceBatch(
    comm: myelonComm_t,
    operations: *const myelonOperation_t,
    n: usize,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonAllReduceBatch", || {
        // SAFETY: the caller's word.
        let (communicator, given) = unsafe { (known(comm)?, list(operations, n, "operations")?) };
        let mut batch = Vec::with_capacity(n);
        for (place, operation) in given.iter().enumerate() {
            // SAFETY: the same: a window that is named exists.
            batch.push(unsafe { of(operation) }.map_err(|fault| Fault {
                text: format!("operation {place} of a batch of {n}: {}", fault.text),
                ..fault
            })?);
        }
        // SAFETY: the same, in the words of the header.
        unsafe { communicator.all_reduce_batch(&batch, stream_handle(stream)) }?;
        Ok(())
    })
}

/// One buffer of a list, for myelonAllReduceBuckets.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct myelonBucket_t {
    /// First element of this rank's operand.
    pub input: *const c_void,
    /// First element of this rank's result; equals input to work in place, else does not overlap it.
    pub output: *mut c_void,
    /// Elements. Equal on all ranks.
    pub count: usize,
}

/// Reduces a list of n buffers of one type by one operator as one operation: small ones, such as the gradients of many tensors, cost a
/// part of a launch each. Buckets have no order among themselves, and no output overlaps an operand of another one. All are checked
/// before anything is launched, and an error names the bucket by its place from 0. Otherwise as myelonAllReduce.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonAllReduceBuckets(
    comm: myelonComm_t,
    buckets: *const myelonBucket_t,
    n: usize,
    dtype: DataTypeCode,
    op: OpCode,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonAllReduceBuckets", || {
        // SAFETY: the caller's word.
        let (communicator, given) = unsafe { (known(comm)?, list(buckets, n, "buckets")?) };
        let (dtype, op) = (data_type(dtype)?, operator(op)?);
        let buckets: Vec<_> = given
            .iter()
            .map(|&myelonBucket_t { input, output, count }| Bucket {
                input: pointer(input),
                output: pointer(output),
                count: count as u64,
            })
            .collect();
        // SAFETY: the same, in the words of the header.
        unsafe { communicator.all_reduce_buckets(&buckets, dtype, op, stream_handle(stream)) }?;
        Ok(())
    })
}

/// As myelonPrepare, for lists of buckets.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonPrepareBuckets(
    comm: myelonComm_t,
    dtypes: *const DataTypeCode,
    ops: *const OpCode,
    n: usize,
) -> myelonStatus_t {
    guard("myelonPrepareBuckets", || {
        // SAFETY: the caller's word.
        let (communicator, pairs) = unsafe { (known(comm)?, pairs(dtypes, ops, n)?) };
        Ok(communicator.prepare_buckets(&pairs)?)
    })
}

/// # Safety
/// A window that is not NULL was not deregistered, and is not for as long as the operation is used.
unsafe fn of<'a>(operation: &myelonOperation_t) -> Result<Operation<'a>, Fault> {
    let &myelonOperation_t { input, output, count, dtype, op, window } = operation;
    Ok(Operation {
        input: pointer(input),
        output: pointer(output),
        count: count as u64,
        dtype: data_type(dtype)?,
        op: operator(op)?,
        // SAFETY: the caller's promise.
        window: unsafe { window.as_ref() }.map(|window| &window.window),
    })
}

/// An address in the memory of a device.
pub(crate) fn pointer<T>(address: *const T) -> DevicePtr {
    DevicePtr(address as u64)
}

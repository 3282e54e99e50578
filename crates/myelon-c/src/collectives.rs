//! The other collectives, and the barrier.

use std::ffi::{c_int, c_void};

use myelon::Rank;

use crate::codes::{CollectiveCode, DataTypeCode, OpCode, collective, data_type, myelonStatus_t, operator};
use crate::communicator::{known, unsigned};
use crate::guard::guard;
use crate::handles::{myelonComm_t, myelonStream_t, stream_handle};
use crate::operations::pointer;
use crate::options::pairs;

/// Copies the root's input into every rank's output; elsewhere input is ignored, and may be NULL. count elements. On the root output
/// equals input, or does not overlap it. Otherwise as myelonAllReduce.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonBroadcast(
    comm: myelonComm_t,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: DataTypeCode,
    root: c_int,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonBroadcast", || {
        // SAFETY: the caller's word.
        let (communicator, stream) = unsafe { (known(comm)?, stream_handle(stream)) };
        let (dtype, root) = (data_type(dtype)?, Rank(unsigned("root", root)?));
        // SAFETY: the same, in the words of the header.
        unsafe { communicator.broadcast(pointer(input), pointer(output), count as u64, dtype, root, stream) }?;
        Ok(())
    })
}

/// Reduces every rank's input, of which each rank gets its part into output. count is that of a part: input has one for each rank, in
/// rank order. In place, output is this rank's part of input; else they do not overlap. Otherwise as myelonAllReduce.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonReduceScatter(
    comm: myelonComm_t,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: DataTypeCode,
    op: OpCode,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonReduceScatter", || {
        // SAFETY: the caller's word.
        let (communicator, stream) = unsafe { (known(comm)?, stream_handle(stream)) };
        let (dtype, op) = (data_type(dtype)?, operator(op)?);
        // SAFETY: the same, in the words of the header.
        unsafe { communicator.reduce_scatter(pointer(input), pointer(output), count as u64, dtype, op, stream) }?;
        Ok(())
    })
}

/// Copies every rank's input into every rank's output, one after another in rank order. count is that of one input: output has room for
/// one of each rank. In place, input is this rank's part of output; else they do not overlap. Otherwise as myelonAllReduce.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonAllGather(
    comm: myelonComm_t,
    input: *const c_void,
    output: *mut c_void,
    count: usize,
    dtype: DataTypeCode,
    stream: myelonStream_t,
) -> myelonStatus_t {
    guard("myelonAllGather", || {
        // SAFETY: the caller's word.
        let (communicator, stream) = unsafe { (known(comm)?, stream_handle(stream)) };
        let dtype = data_type(dtype)?;
        // SAFETY: the same, in the words of the header.
        unsafe { communicator.all_gather(pointer(input), pointer(output), count as u64, dtype, stream) }?;
        Ok(())
    })
}

/// Holds the stream until the streams of all ranks have come to this barrier. An operation as any other, with its place in their
/// order; the host does not wait. Nothing has to be prepared for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonBarrier(comm: myelonComm_t, stream: myelonStream_t) -> myelonStatus_t {
    guard("myelonBarrier", || {
        // SAFETY: the caller's word, in the words of the header.
        unsafe { known(comm)?.barrier(stream_handle(stream)) }?;
        Ok(())
    })
}

/// As myelonPrepare, for a collective of the caller's choice. Where it has no operator, any will do in ops.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonPrepareCollective(
    comm: myelonComm_t,
    which: CollectiveCode,
    dtypes: *const DataTypeCode,
    ops: *const OpCode,
    n: usize,
) -> myelonStatus_t {
    guard("myelonPrepareCollective", || {
        let which = collective(which)?;
        // SAFETY: the caller's word.
        let (communicator, pairs) = unsafe { (known(comm)?, pairs(dtypes, ops, n)?) };
        Ok(communicator.prepare_collective(which, &pairs)?)
    })
}

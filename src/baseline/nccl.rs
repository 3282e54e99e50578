//! A communicator of NCCL with bounded waits.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use super::agreement;
use super::connect::{Prepared, prepare, start};
use super::library::{Library, NcclVersion, Provider};
use super::live::{PARTING_PATIENCE, Shared};
use crate::device::{DevicePtr, StreamHandle};
use crate::error::{Error, Result};
use crate::types::{Collective, DType, Rank, ReduceOp, WorldSize};

/// Gives the bytes of every rank to every rank, in rank order; blocks until all have called it.
pub type AllGather<'a> = dyn Fn(&[u8]) -> Result<Vec<Vec<u8>>> + 'a;

/// One rank's NCCL communicator. Dropped without [`NcclCommunicator::finalize`] it is aborted, which ends its kernels.
#[derive(Debug)]
pub struct NcclCommunicator {
    shared: Arc<Shared>,
}

impl NcclCommunicator {
    /// Connects the ranks of a world through the library behind NCCL's functions that is named; every rank calls it once, at about
    /// the same time.
    ///
    /// `all_gather` is called exactly once, also where this rank cannot take part. `ordinal` is this rank's GPU.
    /// `patience` bounds this and every later wait for the other ranks.
    ///
    /// Errors: the first that a rank met before the exchange, on every rank ([`Error::Nccl`] on the others);
    /// [`Error::PeerMismatch`] where NCCL's versions differ; [`Error::Nccl`] where NCCL fails or does not come back.
    pub fn connect(
        provider: Provider,
        all_gather: &AllGather<'_>,
        rank: Rank,
        world: WorldSize,
        ordinal: u32,
        patience: Duration,
    ) -> Result<Self> {
        let prepared = prepare(provider, rank, world, ordinal);
        let ours = prepared.as_ref().map(|prepared| (prepared.nccl.version, prepared.id.as_ref()));
        let contributions = all_gather(&agreement::contribution(ours))?;
        // The own failure says more than the verdict that is made of it.
        let Prepared { nccl, context, .. } = prepared?;
        let id = agreement::agree(provider, rank, world.get(), &contributions)?;
        let handle = start(nccl, context.clone(), world, id, patience)?;
        Ok(Self { shared: Arc::new(Shared::new(nccl, context, patience, handle)) })
    }

    /// Release of NCCL in use.
    pub fn version(&self) -> NcclVersion {
        self.shared.nccl.version
    }

    /// Whether this release reduces a type; [`Error::Unsupported`] if not.
    pub fn supports(&self, dtype: DType) -> Result<()> {
        self.shared.nccl.reduction(Collective::AllReduce, dtype, ReduceOp::Sum).map(drop)
    }

    /// Queues an all-reduce of `count` elements; `output` may equal `input`.
    ///
    /// Errors: [`Error::Unsupported`] for a type this NCCL lacks, [`Error::Nccl`] otherwise.
    ///
    /// # Safety
    /// Both addresses hold `count` elements this rank's GPU can reach, until the stream passes the operation.
    pub unsafe fn all_reduce(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        let ((dtype, op), count) = (self.shared.nccl.reduction(Collective::AllReduce, dtype, op)?, elements(count)?);
        if count == 0 && self.shared.nccl.provider == Provider::Mscclpp {
            // MSCCL++ refuses what has no elements.
            return Ok(());
        }
        self.shared.context.bind()?;
        self.shared.call("ncclAllReduce", |library, handle| {
            // SAFETY: the communicator is live and locked; buffers and stream are the caller's promise.
            unsafe {
                (library.functions.ncclAllReduce)(
                    input.0 as usize as *const _,
                    output.0 as usize as *mut _,
                    count,
                    dtype,
                    op,
                    handle.get(),
                    stream.raw() as usize as *mut _,
                )
            }
        })
    }

    /// Queues a reduce-scatter, of which every rank gets `count` elements; `output` may be this rank's part of `input`.
    ///
    /// Errors: as [`NcclCommunicator::all_reduce`].
    ///
    /// # Safety
    /// As [`NcclCommunicator::all_reduce`]; `input` holds as many elements for every rank.
    pub unsafe fn reduce_scatter(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        let ((dtype, op), count) =
            (self.shared.nccl.reduction(Collective::ReduceScatter, dtype, op)?, elements(count)?);
        self.shared.context.bind()?;
        self.shared.call("ncclReduceScatter", |library, handle| {
            // SAFETY: the communicator is live and locked; buffers and stream are the caller's promise.
            unsafe {
                (library.functions.ncclReduceScatter)(
                    input.0 as usize as *const _,
                    output.0 as usize as *mut _,
                    count,
                    dtype,
                    op,
                    handle.get(),
                    stream.raw() as usize as *mut _,
                )
            }
        })
    }

    /// Queues an all-gather of `count` elements of every rank; `input` may be this rank's part of `output`.
    ///
    /// Errors: [`Error::Nccl`].
    ///
    /// # Safety
    /// As [`NcclCommunicator::all_reduce`]; `output` holds as many elements for every rank.
    pub unsafe fn all_gather(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        stream: StreamHandle,
    ) -> Result<()> {
        let (dtype, count) = (self.shared.nccl.moved_type(Collective::AllGather, dtype)?, elements(count)?);
        self.shared.context.bind()?;
        self.shared.call("ncclAllGather", |library, handle| {
            // SAFETY: the communicator is live and locked; buffers and stream are the caller's promise.
            unsafe {
                (library.functions.ncclAllGather)(
                    input.0 as usize as *const _,
                    output.0 as usize as *mut _,
                    count,
                    dtype,
                    handle.get(),
                    stream.raw() as usize as *mut _,
                )
            }
        })
    }

    /// Queues a broadcast of `count` elements of `root`; `output` may equal `input`, which only the root has to have.
    ///
    /// Errors: [`Error::Nccl`].
    ///
    /// # Safety
    /// As [`NcclCommunicator::all_reduce`].
    pub unsafe fn broadcast(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        root: Rank,
        stream: StreamHandle,
    ) -> Result<()> {
        let (dtype, count) = (self.shared.nccl.moved_type(Collective::Broadcast, dtype)?, elements(count)?);
        // WHY: NCCL looks at the input of every rank, and it may be null where it is ignored.
        let input = if self.shared.nccl.rank == root { input } else { output };
        self.shared.context.bind()?;
        self.shared.call("ncclBroadcast", |library, handle| {
            // SAFETY: the communicator is live and locked; buffers and stream are the caller's promise.
            unsafe {
                (library.functions.ncclBroadcast)(
                    input.0 as usize as *const _,
                    output.0 as usize as *mut _,
                    count,
                    dtype,
                    root.0 as c_int,
                    handle.get(),
                    stream.raw() as usize as *mut _,
                )
            }
        })
    }

    /// Whether anything failed in the background since the last call. Never waits: while another thread is in a call, nothing is known.
    ///
    /// Errors: [`Error::Nccl`] with the failure; the communicator is then of no more use.
    pub fn check(&self) -> Result<()> {
        let mut failure: c_int = 0;
        self.shared.call_unless_busy("ncclCommGetAsyncError", |library, handle| {
            // SAFETY: the communicator is live and locked; the code goes to a local.
            unsafe { (library.functions.ncclCommGetAsyncError)(handle.get(), &mut failure) }
        })?;
        self.shared.nccl.check("an operation in the background", failure)
    }

    /// Waits for everything queued, on all ranks, and gives the communicator back. Every rank calls it.
    ///
    /// Errors: [`Error::InvalidArgument`] while symmetric buffers of it live; [`Error::Nccl`] where NCCL fails or the
    /// other ranks do not come, and the communicator is then left behind.
    pub fn finalize(&self) -> Result<()> {
        if Arc::strong_count(&self.shared) > 1 {
            return Err(Error::invalid("symmetric buffers of this NCCL communicator are still alive: drop them first"));
        }
        let Some(handle) = self.shared.close("it was finalized")? else { return Ok(()) };
        self.shared.part("ncclCommFinalize", self.shared.patience, move |library, context| {
            context.bind()?;
            if let Some(finalize) = library.functions.ncclCommFinalize {
                // SAFETY: the communicator is live, and `close` left this the only user.
                let code = unsafe { finalize(handle.get()) };
                library.check("ncclCommFinalize", code)?;
            }
            // SAFETY: as above; not used afterwards.
            let code = unsafe { (library.functions.ncclCommDestroy)(handle.get()) };
            library.check("ncclCommDestroy", code)
        })
    }

    /// Ends whatever runs and gives the communicator back; the other ranks need not take part. Idempotent.
    ///
    /// Errors: [`Error::Nccl`] where a call of another thread never returns or NCCL does not let go; the communicator
    /// is then left behind.
    pub fn abort(&self) -> Result<()> {
        let Some(handle) = self.shared.close("it was aborted")? else { return Ok(()) };
        self.shared.part("ncclCommAbort", PARTING_PATIENCE, move |library, context| {
            context.bind()?;
            // SAFETY: the communicator is live, and `close` left this the only user; not used afterwards.
            let code = unsafe { (library.functions.ncclCommAbort)(handle.get()) };
            library.check("ncclCommAbort", code)
        })
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }
}

impl Drop for NcclCommunicator {
    fn drop(&mut self) {
        if let Err(error) = self.abort() {
            tracing::warn!(%error, "an NCCL communicator was left behind");
        }
    }
}

/// Runs `work` with NCCL's calls of this thread grouped: for one thread that drives several communicators.
///
/// Errors: those of `work`, else [`Error::Nccl`] where the group does not start or end.
pub fn group<T>(rank: Rank, work: impl FnOnce() -> Result<T>) -> Result<T> {
    let library = Library::open(Provider::Nccl)?.of(rank);
    // SAFETY: no arguments; the group is ended below on every path that does not unwind.
    library.check("ncclGroupStart", unsafe { (library.functions.ncclGroupStart)() })?;
    let outcome = work();
    // SAFETY: ends the group that was started above on this thread.
    let ended = unsafe { (library.functions.ncclGroupEnd)() };
    let outcome = outcome?;
    library.check("ncclGroupEnd", ended)?;
    Ok(outcome)
}

fn elements(count: u64) -> Result<usize> {
    usize::try_from(count).map_err(|_| Error::invalid(format!("{count} elements do not fit the address space")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_rank_that_cannot_take_part_still_tells_the_others() {
        let calls = Cell::new(0);
        let said = std::cell::RefCell::new(Vec::new());
        let all_gather = |bytes: &[u8]| {
            calls.set(calls.get() + 1);
            *said.borrow_mut() = bytes.to_vec();
            Ok(vec![bytes.to_vec()])
        };
        // No machine has this many GPUs, so the preparation fails everywhere: for want of a library, or of the GPU.
        let world = WorldSize::new(1).unwrap();
        let outcome =
            NcclCommunicator::connect(Provider::Nccl, &all_gather, Rank(0), world, 4096, Duration::from_secs(10));
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::LibraryMissing { .. } | Error::InvalidArgument(_)), "{error}");
        assert_eq!(calls.get(), 1);
        let said = said.into_inner();
        assert_eq!(said[..4], [0; 4]);
        assert_eq!(String::from_utf8_lossy(&said[4..]), error.to_string());
    }
}

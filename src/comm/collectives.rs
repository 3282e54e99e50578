//! Reduce-scatter, all-gather and broadcast: what an all-reduce is made of, and what programs need beside it.

use super::engine::{Engine, Found, KernelEngine, Queue};
use super::{Call, Communicator, Operation};
use crate::baseline::NcclCommunicator;
use crate::device::{DevicePtr, StreamHandle};
use crate::error::Result;
use crate::types::{Collective, DType, Rank, ReduceOp};
use crate::variant::Choice;

impl Communicator {
    /// Copies the `input` of rank `root` into every rank's `output`.
    ///
    /// Shape: `count` elements, aligned to the element; any count, 0 included. On the root, `output` equals `input` (in place) or
    /// does not overlap it; elsewhere `input` is ignored and may be null.
    ///
    /// Ordering: queued on `stream`, as one operation in the sequence of the communicator's; the result is there when the stream has
    /// passed. Can be captured into a graph once the type is prepared, by [`Communicator::prepare_collective`] or an earlier call.
    ///
    /// Errors: as [`Communicator::all_reduce`]; [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a root that is no rank.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`].
    pub unsafe fn broadcast(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        root: Rank,
        stream: StreamHandle,
    ) -> Result<()> {
        let (collective, op) = (Collective::Broadcast, ReduceOp::Sum);
        // SAFETY: the caller's promise is that function's.
        unsafe { self.call(&Call { collective, input, output, count, dtype, op, root }, stream) }
    }

    /// Reduces every rank's `input`, of which each rank gets its part into `output`.
    ///
    /// Shape: `count` elements of the result, on every rank; `input` has one such part for each rank, in rank order. In place,
    /// `output` is this rank's part of `input`: `input` plus rank times `count` elements. Else they do not overlap.
    ///
    /// Ordering: as [`Communicator::broadcast`]. In which order ranks are reduced, and how often narrow floats are rounded, hangs on the
    /// variant, as in an all-reduce.
    ///
    /// Errors: as [`Communicator::all_reduce`].
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`]; `input` is valid for world size times `count` elements.
    pub unsafe fn reduce_scatter(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        let (collective, root) = (Collective::ReduceScatter, Rank(0));
        // SAFETY: the caller's promise is that function's.
        unsafe { self.call(&Call { collective, input, output, count, dtype, op, root }, stream) }
    }

    /// Copies the `input` of every rank into every rank's `output`, one after another in rank order.
    ///
    /// Shape: `count` elements of each rank; `output` has one such part for each rank. In place, `input` is this rank's part of
    /// `output`: `output` plus rank times `count` elements. Else they do not overlap.
    ///
    /// Ordering: as [`Communicator::broadcast`].
    ///
    /// Errors: as [`Communicator::all_reduce`].
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`]; `output` is valid for world size times `count` elements.
    pub unsafe fn all_gather(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        stream: StreamHandle,
    ) -> Result<()> {
        let (collective, op, root) = (Collective::AllGather, ReduceOp::Sum, Rank(0));
        // SAFETY: the caller's promise is that function's.
        unsafe { self.call(&Call { collective, input, output, count, dtype, op, root }, stream) }
    }

    /// One operation of any collective, as a value: what [`Communicator::all_reduce`] and its siblings do.
    ///
    /// Errors: those of the function that the call stands for.
    ///
    /// # Safety
    /// As that function.
    pub unsafe fn call(&self, call: &Call, stream: StreamHandle) -> Result<()> {
        if call.collective == Collective::AllReduce {
            // SAFETY: the caller's promise is that function's.
            return unsafe { self.issue_one(&Operation::of(&call.request(), call.input, call.output), stream, None) };
        }
        match &*self.engine {
            // SAFETY: as above.
            Engine::Kernels(kernels) => unsafe { self.launch_call(kernels, None, call, stream) },
            // SAFETY: as above.
            Engine::Nccl(nccl) => unsafe { self.issue_call(nccl, call, stream) },
        }
    }

    /// As [`Communicator::call`], with a variant of that collective and a shape of the caller's. Every rank makes the same choice.
    ///
    /// Errors: besides, [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a variant of another collective, and
    /// [`Error::Unsupported`](crate::Error::Unsupported) on NCCL, which has no variants.
    ///
    /// # Safety
    /// As [`Communicator::call`].
    pub unsafe fn call_as(&self, choice: &Choice, call: &Call, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is that function's.
        unsafe { self.launch_call(self.kernels()?, Some(choice), call, stream) }
    }

    /// Prepares what a collective takes for these types and operators, at every size. Collective.
    ///
    /// Where there is no operator, any does; types of one size share their kernels.
    pub fn prepare_collective(&self, collective: Collective, types: &[(DType, ReduceOp)]) -> Result<()> {
        match &*self.engine {
            Engine::Nccl(_) => Ok(()),
            Engine::Kernels(_) if collective == Collective::AllReduce => self.prepare_types(types),
            Engine::Kernels(kernels) => {
                kernels.prepare(&*self.bootstrap, &self.device, &kernels.plans_of(collective, types)?)
            }
        }
    }

    /// # Safety
    /// As [`Communicator::call`].
    unsafe fn launch_call(
        &self,
        kernels: &KernelEngine,
        choice: Option<&Choice>,
        call: &Call,
        stream: StreamHandle,
    ) -> Result<()> {
        call.check(self.rank(), self.world_size())?;
        let (collective, request) = (call.collective, call.request());
        let mut found = kernels.find(collective, choice, &request)?;
        self.status()?;
        if call.count == 0 {
            return Ok(());
        }
        if let Found::Missing(plan) = &found {
            self.prepare_missing(kernels, std::slice::from_ref(plan), stream)?;
            found = kernels.find(collective, choice, &request)?;
        }
        let ready = found.ready().expect("prepare loads what it is given");
        // SAFETY: the caller's promise is this function's.
        let launch = |queue: &Queue<'_>| unsafe { kernels.launch_call(&*self.device, ready, call, queue) };
        self.launch_in_turn(stream, None, launch)
    }

    /// # Safety
    /// As [`Communicator::call`].
    unsafe fn issue_call(&self, nccl: &NcclCommunicator, call: &Call, stream: StreamHandle) -> Result<()> {
        call.check(self.rank(), self.world_size())?;
        self.status()?;
        let &Call { collective, input, output, count, dtype, op, root } = call;
        // SAFETY: the caller's promise is this function's.
        self.order.issue(stream, None, || unsafe {
            match collective {
                Collective::AllReduce => nccl.all_reduce(input, output, count, dtype, op, stream),
                Collective::ReduceScatter => nccl.reduce_scatter(input, output, count, dtype, op, stream),
                Collective::AllGather => nccl.all_gather(input, output, count, dtype, stream),
                Collective::Broadcast => nccl.broadcast(input, output, count, dtype, root, stream),
            }
        })
    }
}

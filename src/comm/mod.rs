//! [`Communicator`]: one operation from request to launch.

mod barrier;
mod batch;
mod bucket;
mod buckets;
mod call;
mod collectives;
mod copies;
mod cuda_slices;
mod engine;
mod init;
mod kernels;
mod life;
mod memo;
mod nccl;
mod operation;
mod options;
mod order;
mod place;
mod presence;
mod register;
mod split;
mod tables;

use std::cell::Cell;
use std::fmt;
use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use crate::bootstrap::Bootstrap;
use crate::device::{Device, DevicePtr, StreamHandle};
use crate::error::{Error, Result};
use crate::types::{Collective, DType, Rank, ReduceOp, WorldSize};
use crate::variant::{Choice, Plan, Request};

use engine::{Engine, Found, KernelEngine, Queue};
use order::{Order, Owner};

pub use bucket::Bucket;
pub use call::Call;
pub use cuda_slices::Element;
pub use operation::Operation;
pub use options::{Fallback, Options};

/// A group of ranks that reduce and exchange together, seen from one of them.
///
/// Ordering: an operation is ordered by the stream it is given, after the operation before it on the same communicator,
/// whatever stream that was on. Every rank issues the same operations in the same order.
///
/// Errors: an operation that fails after its launch (a peer that never comes, an abort) is reported by
/// [`Communicator::synchronize`] and by the next call. Its output is undefined, the communicator is of no further use, and a
/// new one in the same processes works.
///
/// Threads: may be shared; calls from several threads take turns.
///
/// Drop: waits a bounded time for the last operation and for replays that were launched before, and ends what still runs then. To wait
/// for replays it waits for all that this process has on the device, where an operation was captured. While a stream of the device is
/// being captured that cannot be done: the replays are stopped then, that capture is lost, and the heap's memory is never freed. A graph
/// that holds an operation of this communicator is not launched afterwards.
pub struct Communicator {
    // Dropped by hand: leaked when a kernel cannot be proven to have ended.
    engine: ManuallyDrop<Engine>,
    device: Arc<dyn Device>,
    bootstrap: Arc<dyn Bootstrap>,
    order: Order,
    /// Which of this process's communicators it is.
    id: u64,
    /// Whether the peers have been told of a fault that this rank found.
    told: AtomicBool,
}

impl Communicator {
    /// This rank.
    pub fn rank(&self) -> Rank {
        self.bootstrap.rank()
    }

    /// Ranks in the group.
    pub fn world_size(&self) -> WorldSize {
        self.bootstrap.world_size()
    }

    /// The device this rank runs on.
    pub fn device(&self) -> &Arc<dyn Device> {
        &self.device
    }

    /// The control plane, for a caller that has something of its own to agree on. Collectives on it are in the same
    /// order on all ranks as everything else.
    pub fn bootstrap(&self) -> &Arc<dyn Bootstrap> {
        &self.bootstrap
    }

    /// Bytes of device memory this communicator holds on this rank; 0 on NCCL, which does not say.
    pub fn footprint_bytes(&self) -> u64 {
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.footprint_bytes(),
            Engine::Nccl(_) => 0,
        }
    }

    /// What runs the operations: `myelon`, or `nccl` after a fallback.
    pub fn engine(&self) -> &'static str {
        match &*self.engine {
            Engine::Kernels(_) => "myelon",
            Engine::Nccl(_) => "nccl",
        }
    }

    /// Reduces `count` elements of every rank's `input` into every rank's `output`, with the variant the table chooses.
    ///
    /// Shape: `count` elements, aligned to the element; any count, 0 included. `output` equals `input` (in place) or does
    /// not overlap it.
    ///
    /// Ordering: queued on `stream`; the result is there when the stream has passed. Can be captured into a graph once
    /// the type and operator are prepared, into up to 16 at once.
    ///
    /// Errors: [`Error::InvalidArgument`] and [`Error::Unsupported`] before anything is launched; errors of operations
    /// before this one, see [`Communicator`].
    ///
    /// # Safety
    /// - `input` and `output` are valid for `count` elements on this rank's device until the stream has passed the operation.
    /// - `stream` belongs to this rank's device and exists until [`Communicator::synchronize`] on it, the communicator's drop, or
    ///   the next operation has returned. As the next counts one with elements, without an error, outside a capture. With
    ///   [`Options::transient_streams`] until this call has returned.
    /// - Where the operation was captured, every replay is launched before the communicator is dropped, with a driver older than 12.5 has
    ///   ended by then, and has ended before an operand is freed.
    pub unsafe fn all_reduce(
        &self,
        input: DevicePtr,
        output: DevicePtr,
        count: u64,
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        let operation = Operation { input, output, count, dtype, op, window: None };
        // SAFETY: the caller's promise is that function's.
        unsafe { self.issue_one(&operation, stream, None) }
    }

    /// As [`Communicator::all_reduce`], of an operation as a value: the form that can name a window of
    /// [`Communicator::register`], into which results then go without a copy.
    ///
    /// All ranks name windows that were registered together, and outputs at one offset of them: this rank stores into the next
    /// rank's memory at the offset of its own output.
    ///
    /// Errors: besides, [`Error::InvalidArgument`] for an output that is not in its window, and for another communicator's window;
    /// [`Error::PeerMismatch`] where the ranks' windows or offsets differ, or some name none.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`].
    pub unsafe fn all_reduce_operation(&self, operation: &Operation<'_>, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is that function's.
        unsafe { self.issue_one(operation, stream, None) }
    }

    /// # Safety
    /// As [`Communicator::all_reduce`]; an owner keeps the stream, in place of the caller.
    unsafe fn issue_one(&self, operation: &Operation<'_>, stream: StreamHandle, owner: Option<Owner>) -> Result<()> {
        match &*self.engine {
            // SAFETY: the caller's promise is that function's.
            Engine::Kernels(kernels) => unsafe { self.launch_one(kernels, None, operation, stream, owner) },
            Engine::Nccl(nccl) => {
                operation.check()?;
                self.check_window(operation)?;
                self.status()?;
                let &Operation { input, output, count, dtype, op, .. } = operation;
                // SAFETY: as above.
                self.order.issue(stream, owner, || unsafe { nccl.all_reduce(input, output, count, dtype, op, stream) })
            }
        }
    }

    /// As [`Communicator::all_reduce_operation`], with a variant and shape of the caller's. Every rank makes the same choice.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`].
    pub unsafe fn all_reduce_as(&self, choice: &Choice, operation: &Operation<'_>, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch_one(self.kernels()?, Some(choice), operation, stream, None) }
    }

    /// # Safety
    /// As [`Communicator::issue_one`].
    unsafe fn launch_one(
        &self,
        kernels: &KernelEngine,
        choice: Option<&Choice>,
        operation: &Operation<'_>,
        stream: StreamHandle,
        owner: Option<Owner>,
    ) -> Result<()> {
        operation.check()?;
        self.check_window(operation)?;
        let mut found = kernels.find(Collective::AllReduce, choice, &operation.request())?;
        operation.check_output(found.plan().kernel.output)?;
        self.status()?;
        if operation.count == 0 {
            return Ok(());
        }
        if let Found::Missing(plan) = &found {
            self.prepare_missing(kernels, std::slice::from_ref(plan), stream)?;
            found = kernels.find(Collective::AllReduce, choice, &operation.request())?;
        }
        let ready = found.ready().expect("prepare loads what it is given");
        // SAFETY: the caller's promise is this function's.
        let launch = |queue: &Queue<'_>| unsafe { kernels.launch(&*self.device, ready, operation, queue) };
        self.launch_in_turn(stream, owner, launch)
    }

    /// Queues the launches of an operation, or of several, in their turn.
    ///
    /// WHY: a failure behind that ends the communicator. The words of an operation are the same for all of its launches, so a rank that
    /// repeated the call would be a launch ahead of its peers, and none would know. In a capture nothing has run.
    fn launch_in_turn(
        &self,
        stream: StreamHandle,
        owner: Option<Owner>,
        launches: impl FnOnce(&Queue<'_>) -> Result<()>,
    ) -> Result<()> {
        let queue = Queue { stream, has_any: Cell::new(false) };
        self.order.issue(stream, owner, || launches(&queue)).inspect_err(|error| {
            let is_in_part = || queue.has_any.get() && matches!(self.device.is_capturing(stream), Ok(false));
            if error.is_of_lost_device() {
                self.abort(&error.to_string());
            } else if is_in_part() {
                self.abort(&format!("an operation was launched in part: {error}"));
            }
        })
    }

    /// What [`Communicator::all_reduce`] would take for a request: what [`Options::choice`] forces, else the lane table's choice,
    /// else the rule's.
    ///
    /// Errors: [`Error::Unsupported`] on NCCL, which does not say.
    pub fn choose(&self, request: &Request) -> Result<Choice> {
        self.choose_of(Collective::AllReduce, request)
    }

    /// As [`Communicator::choose`], for a request of any collective: of one rank's part, where there are parts.
    ///
    /// Errors: as [`Communicator::choose`].
    pub fn choose_of(&self, collective: Collective, request: &Request) -> Result<Choice> {
        self.kernels()?.choose(collective, request).map(|(choice, _)| choice)
    }

    /// How a request would run under a choice.
    pub fn plan(&self, choice: &Choice, request: &Request) -> Result<Plan> {
        self.kernels()?.plan(choice, request)
    }

    /// Compiles and loads what the plans need, on all ranks. Collective; every rank passes the same plans.
    ///
    /// A case that was not prepared prepares itself at its first use, which is an error inside a graph capture.
    pub fn prepare(&self, plans: &[Plan]) -> Result<()> {
        self.kernels()?.prepare(&*self.bootstrap, &self.device, plans)
    }

    /// Prepares everything the table may choose for all-reduces of these types and operators, at every size. Collective.
    pub fn prepare_types(&self, types: &[(DType, ReduceOp)]) -> Result<()> {
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.prepare_types(&*self.bootstrap, &self.device, types),
            Engine::Nccl(_) => Ok(()),
        }
    }

    fn kernels(&self) -> Result<&KernelEngine> {
        match &*self.engine {
            Engine::Kernels(kernels) => Ok(kernels),
            Engine::Nccl(_) => {
                Err(Error::unsupported("this communicator fell back to NCCL, which has no variants to choose from"))
            }
        }
    }

    /// Prepares plans that were found without their kernels, which no capture can. All ranks find the same.
    fn prepare_missing(&self, kernels: &KernelEngine, plans: &[Plan], stream: StreamHandle) -> Result<()> {
        if let Some(first) = plans.first()
            && self.device.is_capturing(stream)?
        {
            return Err(Error::invalid(format!(
                "{} is not prepared, and cannot be while its stream is being captured: call prepare before the capture",
                first.kernel
            )));
        }
        kernels.prepare(&*self.bootstrap, &self.device, plans)
    }
}

impl fmt::Debug for Communicator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Communicator")
            .field("rank", &self.rank())
            .field("world_size", &self.world_size())
            .field("device", &self.device)
            .field("engine", &self.engine())
            .finish_non_exhaustive()
    }
}

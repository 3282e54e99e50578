//! What runs the operations of a communicator: Myelon's kernels, or NCCL where those cannot reach the peers.

mod buckets;
mod early;
mod find;
mod prepare;

use std::cell::Cell;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};

pub(super) use find::{Found, Ready};

use self::early::EarlyLaunches;
use super::barrier;
use super::copies::CopyStreams;
use super::kernels::KernelTable;
use super::memo::Memo;
use super::nccl::NcclEngine;
use super::presence::Presence;
use super::{Call, Operation, Options};
use crate::abi::{Args, BARRIER, HeapState, MAX_LANES, bytes_of};
use crate::bootstrap::{Bootstrap, ControlEvent, Listener, agree};
use crate::device::{Device, DeviceKind, DevicePtr, KernelHandle, LaunchShape, StreamHandle};
use crate::error::Result;
use crate::memory::{HeapLimits, SymmetricHeap};
use crate::table::Dispatcher;
use crate::types::{DType, Output, Rank, ReduceOp, WorldSize};
use crate::variant::BARRIER_THREADS;
use crate::watch::{Departures, Watch};

/// Where launches of operations go.
pub(super) struct Queue<'stream> {
    pub(super) stream: StreamHandle<'stream>,
    /// Whether any has, in part at least.
    pub(super) has_any: Cell<bool>,
}

/// One of the two.
pub(super) enum Engine {
    /// The kernels in `cuda/`.
    Kernels(Box<KernelEngine>),
    /// NCCL, by [`Options::fallback`].
    Nccl(NcclEngine),
}

impl Engine {
    /// What hears the control plane for it: one listener, whichever engine came up.
    pub(super) fn listener(&self) -> Listener {
        match self {
            Self::Kernels(kernels) => kernels.listener(),
            Self::Nccl(nccl) => nccl.listener(),
        }
    }
}

/// Heap, control page, kernels and table of one rank.
pub(super) struct KernelEngine {
    // Dropped before the heap, which it looks into.
    departures: Departures,
    heap: SymmetricHeap,
    watch: Arc<Watch>,
    kernels: KernelTable,
    memo: Memo<Ready>,
    /// Of lists of buckets.
    bucket_memo: Memo<Ready>,
    barrier: KernelHandle,
    presence: Presence,
    copies: CopyStreams,
    has_value_operations: bool,
    dispatcher: Dispatcher,
    /// What all launches have in common; the rest is 0.
    args: Args,
    early: EarlyLaunches,
    /// The rank that this one sends to in a ring.
    next: Rank,
    /// Types and operators that were prepared, for what comes later.
    prepared: Mutex<Vec<(DType, ReduceOp)>>,
    /// Whether operations may name a window that is zero-copy.
    has_windows: AtomicBool,
    sentinel: bool,
    large_lanes: u32,
    kind: DeviceKind,
    arch: String,
    world_size: WorldSize,
}

impl KernelEngine {
    /// Maps the heaps. Collective; fails on all ranks or on none.
    pub(super) fn create(
        device: &Arc<dyn Device>,
        bootstrap: &Arc<dyn Bootstrap>,
        options: &Options,
        dispatcher: Dispatcher,
        limits: HeapLimits,
        sharers: u32,
    ) -> Result<Self> {
        let (rank, world_size) = (bootstrap.rank(), bootstrap.world_size());
        let (layout, bytes) = limits.layout(world_size)?;
        let heap = SymmetricHeap::create(device, &**bootstrap, layout, bytes)?;
        let watch = Arc::new(agree(&**bootstrap, "making control pages", Watch::new(device, rank, world_size))?);
        let departures = Departures::new(device, &watch, DevicePtr(heap.bases()[rank.index()]), heap.layout());
        let departures = agree(&**bootstrap, "making ready for goodbyes", departures)?;
        let args = Args {
            input: 0,
            output: 0,
            count: 0,
            next_output: 0,
            heap: heap.bases(),
            own_heap: heap.bases()[rank.0 as usize],
            control: watch.page().0,
            // Kernels double it where they wait for a peer's own wait to end.
            deadline_ns: options.timeout.as_nanos().min(u128::from(u64::MAX / 2)) as u64,
            descriptor: 0,
            layout: *heap.layout(),
            rank: rank.0,
            chunk_bytes: 0,
            slots: 0,
            copy_lanes: 0,
            copy_chunk_bytes: 0,
            copied_packs: 0,
            copy_slots: 0,
            first_step: 0,
            end_step: 0,
            part_bytes: 0,
            root: 0,
            early: 0,
        };
        Ok(Self {
            departures,
            heap,
            watch,
            kernels: KernelTable::new(sharers),
            memo: Memo::new(),
            bucket_memo: Memo::new(),
            barrier: agree(&**bootstrap, "loading the barrier", barrier::load(device, world_size))?,
            presence: Presence::of(&device.properties().identity),
            copies: CopyStreams::new(device),
            has_value_operations: device.has_value_operations(),
            dispatcher,
            args,
            early: EarlyLaunches::default(),
            next: Rank((rank.0 + 1) % world_size.get()),
            prepared: Mutex::default(),
            has_windows: AtomicBool::new(false),
            sentinel: options.sentinel,
            large_lanes: options.large_lanes.unwrap_or(MAX_LANES),
            kind: device.properties().kind,
            arch: device.properties().arch.clone(),
            world_size,
        })
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    fn listener(&self) -> Listener {
        let (watch, goodbyes) = (Arc::downgrade(&self.watch), self.departures.goodbyes());
        Arc::new(move |event| match event {
            ControlEvent::PeerLeft { rank } => goodbyes.hear(rank),
            event => {
                if let Some(watch) = watch.upgrade() {
                    watch.hear(event);
                }
            }
        })
    }

    /// A word of this rank's: 1 once a kernel has ended without its data.
    pub(super) fn fault_word(&self) -> DevicePtr {
        // INVARIANT: claimed before the kernel ends and never taken back, so work queued behind an operation that failed reads 1.
        DevicePtr(self.args.own_heap + self.args.layout.state + std::mem::offset_of!(HeapState, fault_claimed) as u64)
    }

    /// Whether all ranks are in this process.
    pub(super) fn is_within_process(&self) -> bool {
        self.heap.is_within_process()
    }

    pub(super) fn footprint_bytes(&self) -> u64 {
        self.heap.bytes()
    }

    /// Launches the operation that `ready` was made for, piece by piece and step by step.
    ///
    /// # Safety
    /// As [`super::Communicator::all_reduce`].
    pub(super) unsafe fn launch(
        &self,
        device: &dyn Device,
        ready: &Ready,
        operation: &Operation<'_>,
        queue: &Queue<'_>,
    ) -> Result<()> {
        let way = ready.plan.kernel.output;
        // A plan with direct outputs is one of an operation in a zero-copy window.
        let next_output = operation
            .window
            .filter(|_| way != Output::Staged)
            .and_then(|window| window.at(self.next, window.offset_of(operation.output)));
        // SAFETY: the caller's promise is this function's.
        unsafe {
            self.launch_as(device, ready, &Call::all_reduce(operation), operation.descriptor(), next_output, queue)
        }
    }

    /// As [`KernelEngine::launch`], of any collective, in no window.
    ///
    /// # Safety
    /// As [`super::Communicator::call`].
    pub(super) unsafe fn launch_call(
        &self,
        device: &dyn Device,
        ready: &Ready,
        call: &Call,
        queue: &Queue<'_>,
    ) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch_as(device, ready, call, call.descriptor(), None, queue) }
    }

    /// `descriptor`: what ranks compare. `next_output`: the next rank's result, where outputs are direct.
    ///
    /// # Safety
    /// As [`super::Communicator::call`].
    unsafe fn launch_as(
        &self,
        device: &dyn Device,
        ready: &Ready,
        call: &Call,
        descriptor: u64,
        next_output: Option<DevicePtr>,
        queue: &Queue<'_>,
    ) -> Result<()> {
        let Ready { plan, kernel } = ready;
        let &Call { input, output, count, dtype, root, .. } = call;
        let element_bytes = dtype.size_bytes() as u64;
        let shape = self.launch_shape(ready);
        let launches = plan.pieces(count).flat_map(|piece| plan.launches().map(move |steps| (piece, steps)));
        for ((offset, elements), steps) in launches {
            let args = Args {
                input: input.offset(offset * element_bytes).0,
                output: output.offset(offset * element_bytes).0,
                count: elements,
                next_output: next_output.map_or(0, |next| next.offset(offset * element_bytes).0),
                // Of the whole message: pieces alike do not make messages alike.
                descriptor,
                chunk_bytes: plan.chunk_bytes,
                slots: plan.slots,
                copy_lanes: plan.copied.lanes as u16,
                copy_chunk_bytes: plan.copied.chunk_bytes,
                copied_packs: plan.copied_packs(elements),
                copy_slots: plan.copied.slots,
                first_step: steps.start,
                end_step: steps.end,
                part_bytes: count * element_bytes,
                root: root.0,
                early: self.lets_up_early(&shape, queue.stream).into(),
                ..self.args
            };
            // SAFETY: `Args` is what every collective kernel takes; heap and page live until no kernel runs, the operands
            // by the caller's promise.
            let launch = || unsafe { device.launch(kernel.handle, shape, bytes_of(&args), queue.stream) };
            if plan.kernel.variant.transfer.has_copies() {
                // Before: of a kernel and its copies some may be.
                queue.has_any.set(true);
                // SAFETY: as above.
                unsafe { self.copies.issue(plan, &args, queue.stream, launch)? };
            } else {
                launch()?;
                queue.has_any.set(true);
            }
        }
        Ok(())
    }

    fn launch_shape(&self, Ready { plan, kernel }: &Ready) -> LaunchShape {
        LaunchShape {
            grid: plan.lanes,
            block: plan.kernel.threads,
            shared_bytes: plan.shared_bytes,
            dependent: plan.kernel.variant.dependent && self.presence.is_alone() && kernel.fits_twice(plan),
        }
    }

    /// Whether a launch lets up the next one before its own turn.
    fn lets_up_early(&self, shape: &LaunchShape, stream: StreamHandle) -> bool {
        self.early.lets_up_next(shape, stream)
    }

    /// Launches a meeting of all ranks' streams.
    ///
    /// # Safety
    /// `stream` exists.
    pub(super) unsafe fn launch_barrier(&self, device: &dyn Device, stream: StreamHandle) -> Result<()> {
        let args = Args { descriptor: BARRIER, ..self.args };
        let shape = LaunchShape {
            grid: 1,
            block: BARRIER_THREADS,
            shared_bytes: 0,
            // One CTA always fits beside another.
            dependent: self.presence.is_alone(),
        };
        // SAFETY: the barrier takes `Args` and touches heap and page only, which live until no kernel runs.
        unsafe { device.launch(self.barrier, shape, bytes_of(&args), stream) }
    }
}

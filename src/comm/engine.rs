//! What runs the operations of a communicator: Myelon's kernels, or NCCL where those cannot reach the peers.

mod buckets;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::barrier::{self, NcclEngine};
use super::copies::CopyStreams;
use super::kernels::{KernelTable, Loaded};
use super::memo::Memo;
use super::presence::Presence;
use super::{Call, Operation, Options};
use crate::abi::{Args, BARRIER, bytes_of};
use crate::bootstrap::{Bootstrap, agree};
use crate::device::{Device, DeviceKind, DevicePtr, KernelHandle, LaunchShape, StreamHandle};
use crate::error::{Error, Result};
use crate::memory::{HeapLimits, SymmetricHeap};
use crate::table::{Decision, Dispatcher, Origin};
use crate::types::{Collective, DType, Output, Rank, ReduceOp, WorldSize};
use crate::variant::{BARRIER_THREADS, Choice, Plan, Request, Terrain, Transfer};
use crate::watch::Watch;

/// One of the two.
pub(super) enum Engine {
    /// The kernels in `cuda/`.
    Kernels(Box<KernelEngine>),
    /// NCCL, by [`Options::fallback`].
    Nccl(NcclEngine),
}

/// Heap, control page, kernels and table of one rank.
pub(super) struct KernelEngine {
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
    /// The rank that this one sends to in a ring.
    next: Rank,
    /// Types and operators that were prepared, for what comes later.
    prepared: Mutex<Vec<(DType, ReduceOp)>>,
    /// Whether operations may name a window that is zero-copy.
    has_windows: AtomicBool,
    sentinel: bool,
    kind: DeviceKind,
    arch: String,
    world_size: WorldSize,
}

impl KernelEngine {
    /// Maps the heaps and listens to the control plane. Collective; fails on all ranks or on none.
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
        let listener = Arc::downgrade(&watch);
        bootstrap.listen(Arc::new(move |event| {
            if let Some(watch) = listener.upgrade() {
                watch.hear(event);
            }
        }));
        let args = Args {
            input: 0,
            output: 0,
            count: 0,
            next_output: 0,
            heap: heap.bases(),
            own_heap: heap.bases()[rank.0 as usize],
            control: watch.page().0,
            deadline_ns: options.timeout.as_nanos() as u64,
            descriptor: 0,
            layout: *heap.layout(),
            rank: rank.0,
            chunk_bytes: 0,
            slots: 0,
            first_step: 0,
            end_step: 0,
            part_bytes: 0,
            root: 0,
            padding: 0,
        };
        Ok(Self {
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
            next: Rank((rank.0 + 1) % world_size.get()),
            prepared: Mutex::default(),
            has_windows: AtomicBool::new(false),
            sentinel: options.sentinel,
            kind: device.properties().kind,
            arch: device.properties().arch.clone(),
            world_size,
        })
    }

    pub(super) fn watch(&self) -> &Watch {
        &self.watch
    }

    pub(super) fn footprint_bytes(&self) -> u64 {
        self.heap.bytes()
    }

    /// What the communicator takes for a request of a collective, and why. A row of a table or of the rule is cut to what this heap has room for,
    /// for it must run in any; what was forced is refused later where it does not fit.
    pub(super) fn choose(&self, collective: Collective, request: &Request) -> Result<(Choice, Origin<'_>)> {
        let Decision { choice, origin } = self.dispatcher.choose_of(collective, request)?;
        let choice = match origin {
            Origin::Forced => choice.clone(),
            Origin::Table(..) | Origin::Rule(_) | Origin::Manifest => choice.within(self.heap.layout()),
        };
        Ok((choice, origin))
    }

    pub(super) fn plan(&self, choice: &Choice, request: &Request) -> Result<Plan> {
        let terrain = Terrain {
            device: self.kind,
            world_size: self.world_size,
            layout: self.heap.layout(),
            sentinel: self.sentinel,
            arch: &self.arch,
        };
        if choice.variant.transfer == Transfer::CopyEngine && !self.has_value_operations {
            return Err(Error::unsupported(format!(
                "variant {} needs streams that wait for words in memory, which this device lacks",
                choice.variant.name
            )));
        }
        Plan::new(&terrain, request, choice)
    }

    /// What a request of a collective becomes under a choice of the caller's, or under the communicator's own.
    ///
    /// Errors: besides those of [`Plan::new`], [`Error::InvalidArgument`](crate::Error::InvalidArgument) for a grid that is
    /// not resident as a whole, and for a variant of another collective.
    pub(super) fn find(&self, collective: Collective, choice: Option<&Choice>, request: &Request) -> Result<Found<'_>> {
        if let Some(choice) = choice {
            choice.variant.implements(collective)?;
        }
        if let Some(ready) = self.memo.get(collective, choice, request) {
            return Ok(Found::Known(ready));
        }
        let decided = if choice.is_none() { Some(self.choose(collective, request)?) } else { None };
        let taken = choice.or(decided.as_ref().map(|(choice, _)| choice)).expect("one of the two is there");
        let plan = self.plan(taken, request)?;
        let Some(kernel) = self.kernels.get(&plan.kernel) else { return Ok(Found::Missing(plan)) };
        kernel.check_resident(&plan)?;
        let ready = Ready { plan, kernel };
        let found = self.memo.keep(collective, choice, request, ready).map_or_else(Found::New, Found::Known);
        // What is kept is decided once.
        if let (Some((choice, origin)), Found::Known(_)) = (decided, &found) {
            let Request { dtype, op, .. } = request;
            let bytes = request.bytes();
            tracing::debug!(rank = self.args.rank, "{collective}, {dtype} {op} of {bytes} bytes: {choice} ({origin})");
        }
        Ok(found)
    }

    pub(super) fn prepare(&self, bootstrap: &dyn Bootstrap, device: &Arc<dyn Device>, plans: &[Plan]) -> Result<()> {
        if plans.iter().any(|plan| plan.kernel.variant.transfer == Transfer::CopyEngine) {
            agree(bootstrap, "making streams for copies", self.copies.prepare())?;
        }
        self.kernels.prepare(bootstrap, device, plans.iter().map(|plan| (&plan.kernel, plan.shared_bytes)))
    }

    pub(super) fn prepare_types(
        &self,
        bootstrap: &dyn Bootstrap,
        device: &Arc<dyn Device>,
        types: &[(DType, ReduceOp)],
    ) -> Result<()> {
        let plans = self.plans_of(Collective::AllReduce, types)?;
        self.prepared().extend(types);
        if plans.is_empty() { Ok(()) } else { self.prepare(bootstrap, device, &plans) }
    }

    /// Plans of what a collective takes for these types and operators, at every size.
    pub(super) fn plans_of(&self, collective: Collective, types: &[(DType, ReduceOp)]) -> Result<Vec<Plan>> {
        let has_windows = collective == Collective::AllReduce && self.has_windows.load(Ordering::Relaxed);
        let mut plans: Vec<Plan> = Vec::new();
        for &(dtype, op) in types {
            let registered = [false, true].into_iter().filter(|&registered| !registered || has_windows);
            let sizes = registered.flat_map(|registered| self.dispatcher.sizes().map(move |size| (size, registered)));
            for (size, registered) in sizes {
                let request = Request { count: size.div_ceil(dtype.size_bytes() as u64), dtype, op, registered };
                let plan = self.plan(&self.choose(collective, &request)?.0, &request)?;
                if !plans.iter().any(|known| known.kernel == plan.kernel) {
                    plans.push(plan);
                }
            }
        }
        Ok(plans)
    }

    /// From now on operations may name zero-copy windows: prepares for these what was prepared for others. Collective.
    pub(super) fn expect_windows(&self, bootstrap: &dyn Bootstrap, device: &Arc<dyn Device>) -> Result<()> {
        if self.has_windows.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let types = std::mem::take(&mut *self.prepared());
        self.prepare_types(bootstrap, device, &types)
    }

    fn prepared(&self) -> MutexGuard<'_, Vec<(DType, ReduceOp)>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
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
        stream: StreamHandle,
    ) -> Result<()> {
        let way = ready.plan.kernel.output;
        if way == Output::Landing && operation.input == operation.output {
            return Err(Error::invalid(
                "output=landing: sums on their way land in the output, so it lies apart from the input on every rank; ask for \
                 output=direct to work in place",
            ));
        }
        // A plan with direct outputs is one of an operation in a zero-copy window.
        let next_output = operation
            .window
            .filter(|_| way != Output::Staged)
            .and_then(|window| window.at(self.next, window.offset_of(operation.output)));
        // SAFETY: the caller's promise is this function's.
        unsafe {
            self.launch_as(device, ready, &Call::all_reduce(operation), operation.descriptor(), next_output, stream)
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
        stream: StreamHandle,
    ) -> Result<()> {
        // SAFETY: the caller's promise is this function's.
        unsafe { self.launch_as(device, ready, call, call.descriptor(), None, stream) }
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
        stream: StreamHandle,
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
                first_step: steps.start,
                end_step: steps.end,
                part_bytes: count * element_bytes,
                root: root.0,
                ..self.args
            };
            // SAFETY: `Args` is what every collective kernel takes; heap and page live until no kernel runs, the operands
            // by the caller's promise.
            let launch = || unsafe { device.launch(kernel.handle, shape, bytes_of(&args), stream) };
            match plan.kernel.variant.transfer {
                Transfer::Kernel => launch()?,
                // SAFETY: as above.
                Transfer::CopyEngine => unsafe { self.copies.issue(plan, &args, stream, launch)? },
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

/// A request that can be launched.
pub(super) struct Ready {
    plan: Plan,
    kernel: Loaded,
}

/// What a request has become.
pub(super) enum Found<'a> {
    /// The same as before.
    Known(&'a Ready),
    /// A launch that is not kept.
    New(Ready),
    /// A plan whose kernel is not prepared.
    Missing(Plan),
}

impl Found<'_> {
    pub(super) fn ready(&self) -> Option<&Ready> {
        match self {
            Self::Known(ready) => Some(ready),
            Self::New(ready) => Some(ready),
            Self::Missing(_) => None,
        }
    }

    pub(super) fn missing(&self) -> Option<&Plan> {
        match self {
            Self::Known(_) | Self::New(_) => None,
            Self::Missing(plan) => Some(plan),
        }
    }
}

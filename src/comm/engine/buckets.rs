//! Lists of buckets on Myelon's kernels: which run together, how, and their launches.

use std::sync::Arc;

use super::{Found, KernelEngine, Queue, Ready};
use crate::abi::{Args, BucketArgs, bytes_of};
use crate::bootstrap::Bootstrap;
use crate::comm::bucket::{Bucket, Tables, packs_of};
use crate::device::Device;
use crate::error::Result;
use crate::types::{Collective, DType, ReduceOp};
use crate::variant::{Choice, Plan, Request};

/// A bucket of this size is an operation of its own where the choice for it has no form for buckets: what a launch more costs is
/// little there, and what another variant would cost is not.
const ALONE_BYTES: u64 = 1 << 20;

/// How a list runs. The same on all ranks.
pub(in crate::comm) struct Arrangement {
    /// Places of the buckets that are operations of their own, in order.
    alone: Vec<usize>,
    /// The message that the others are together, in elements that fill its packs; `None` without any.
    pub(in crate::comm) together: Option<Request>,
}

impl Arrangement {
    /// The buckets that run together, those without elements left out.
    pub(in crate::comm) fn together<'a>(&'a self, buckets: &'a [Bucket]) -> impl Iterator<Item = Bucket> + 'a {
        let is_together = |place: &usize| self.alone.binary_search(place).is_err();
        let together = buckets.iter().enumerate().filter(move |(place, _)| is_together(place));
        together.map(|(_, bucket)| *bucket).filter(|bucket| bucket.count > 0)
    }

    /// The buckets that are operations of their own.
    pub(in crate::comm) fn alone<'a>(&'a self, buckets: &'a [Bucket]) -> impl Iterator<Item = &'a Bucket> + 'a {
        self.alone.iter().map(|&place| &buckets[place])
    }
}

impl KernelEngine {
    /// Which buckets run together, under a choice of the caller's or the communicator's own.
    pub(in crate::comm) fn arrange(
        &self,
        choice: Option<&Choice>,
        buckets: &[Bucket],
        dtype: DType,
        op: ReduceOp,
    ) -> Result<Arrangement> {
        let request = |count| Request { count, dtype, op, registered: false };
        let mut arrangement = Arrangement { alone: Vec::new(), together: None };
        for (place, bucket) in buckets.iter().enumerate().filter(|_| choice.is_none()) {
            let request = request(bucket.count);
            if request.bytes() >= ALONE_BYTES && !self.choose(Collective::AllReduce, &request)?.0.variant.buckets {
                arrangement.alone.push(place);
            }
        }
        let packs = arrangement.together(buckets).map(|bucket| packs_of(bucket.count, dtype)).sum::<u64>();
        if packs > 0 {
            let together = request(packs * dtype.pack_elements());
            if choice.is_some() || self.dispatcher.choose_for_buckets(&together)?.is_some() {
                arrangement.together = Some(together);
            } else {
                arrangement.alone = (0..buckets.len()).filter(|&place| buckets[place].count > 0).collect();
            }
        }
        Ok(arrangement)
    }

    /// As [`KernelEngine::find`], for a list of which `request` is the whole.
    pub(in crate::comm) fn find_buckets(&self, choice: Option<&Choice>, request: &Request) -> Result<Found<'_>> {
        if let Some(ready) = self.bucket_memo.get(Collective::AllReduce, choice, request) {
            return Ok(Found::Known(ready));
        }
        let plan = self.plan_buckets(choice, request)?;
        let Some(kernel) = self.kernels.get(&plan.kernel) else { return Ok(Found::Missing(plan)) };
        kernel.check_resident(&plan)?;
        let ready = Ready { plan, kernel };
        let kept = self.bucket_memo.keep(Collective::AllReduce, choice, request, ready);
        Ok(kept.map_or_else(Found::New, Found::Known))
    }

    fn plan_buckets(&self, choice: Option<&Choice>, request: &Request) -> Result<Plan> {
        let own = match choice {
            Some(_) => None,
            None => self
                .dispatcher
                .choose_for_buckets(request)?
                .map(|decision| decision.on(&self.terrain(), request.bytes())),
        };
        let choice = choice.or(own.as_ref()).expect("an arrangement puts together what there is a choice for");
        self.plan(choice, request)?.of_buckets()
    }

    /// Prepares everything that may be chosen for lists of these types and operators. Collective.
    pub(in crate::comm) fn prepare_buckets(
        &self,
        bootstrap: &dyn Bootstrap,
        device: &Arc<dyn Device>,
        types: &[(DType, ReduceOp)],
    ) -> Result<()> {
        let mut plans: Vec<Plan> = Vec::new();
        for &(dtype, op) in types {
            for size in self.dispatcher.sizes() {
                let request = Request { count: size.div_ceil(dtype.size_bytes() as u64), dtype, op, registered: false };
                if self.dispatcher.choose_for_buckets(&request)?.is_none() {
                    continue;
                }
                let plan = self.plan_buckets(None, &request)?;
                if !plans.iter().any(|known| known.kernel == plan.kernel) {
                    plans.push(plan);
                }
            }
        }
        if plans.is_empty() { Ok(()) } else { self.prepare(bootstrap, device, &plans) }
    }

    /// Launches a list: as few launches as its buckets and packs fit into.
    ///
    /// # Safety
    /// As [`crate::Communicator::all_reduce_buckets`], for what `buckets` gives.
    pub(in crate::comm) unsafe fn launch_buckets(
        &self,
        device: &dyn Device,
        ready: &Ready,
        buckets: impl Iterator<Item = Bucket>,
        descriptor: u64,
        queue: &Queue<'_>,
    ) -> Result<()> {
        let (plan, shape) = (&ready.plan, self.launch_shape(ready));
        let dtype = plan.kernel.dtype;
        let args = Args { descriptor, chunk_bytes: plan.chunk_bytes, slots: plan.slots, ..self.args };
        for (table, packs) in Tables::new(buckets, dtype, plan.piece_elements / dtype.pack_elements()) {
            let (count, early) = (packs * dtype.pack_elements(), self.lets_up_early(&shape, queue.stream).into());
            let args = BucketArgs { args: Args { count, early, ..args }, table };
            // SAFETY: a kernel for buckets takes `BucketArgs`; heap and page live until no kernel runs, the operands by the
            // caller's promise.
            unsafe { device.launch(ready.kernel.handle, shape, bytes_of(&args), queue.stream)? };
            queue.has_any.set(true);
        }
        Ok(())
    }
}

//! A list of buffers as one operation.

use super::Communicator;
use super::bucket::{self, Bucket};
use super::engine::{Engine, Found, KernelEngine};
use crate::baseline;
use crate::device::StreamHandle;
use crate::error::Result;
use crate::types::{Collective, DType, ReduceOp};
use crate::variant::{Choice, Plan};

impl Communicator {
    /// Reduces a list of buffers of one type by one operator, as one operation: the gradients of many small tensors in one launch.
    ///
    /// Shape: any number of buckets, none included, of any counts, 0 included; addresses as for [`Communicator::all_reduce`]. All
    /// ranks give the same counts in the same order. Together the buckets are one message, in which each begins at a pack of 16
    /// bytes: what chooses goes by that size. A launch takes 128 buckets and as many bytes as a message of one launch has; more
    /// are cut into several launches. What is chosen has a form for buckets (`buckets` in the manifest); where the lane table's
    /// choice for the size has none, it is the rule's, or else the manifest's last variant with one, which cuts large lists into
    /// launches. A bucket of 1 MiB or more whose own choice has none is an operation of its own behind the others, and so is every
    /// bucket where no variant has one.
    ///
    /// Results: the variants with a form for buckets reduce in the order of ranks and round once, wherever an element lies. So
    /// each bucket has the bits that an all-reduce of it by any of these would have, alone or as part of a contiguous message; one
    /// that is an operation of its own those of [`Communicator::all_reduce`].
    ///
    /// [`Communicator::all_reduce_batch`] is for operations that have an order, or differ in type or operator: each is one launch
    /// by the variant for its own size. This is for buffers that have none: small ones cost a small part of a launch.
    ///
    /// Ordering: as [`Communicator::all_reduce`]; buckets have no order among themselves. Can be captured once
    /// [`Communicator::prepare_buckets`] has prepared the type and operator.
    ///
    /// Errors: as [`Communicator::all_reduce`], naming the bucket by its place from 0. All are checked before anything is launched.
    /// Ranks whose lists differ are a [`Error::PeerMismatch`](crate::Error::PeerMismatch).
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`], for the operands of every bucket; and no output overlaps an operand of another bucket.
    pub unsafe fn all_reduce_buckets(
        &self,
        buckets: &[Bucket],
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        match &*self.engine {
            // SAFETY: the caller's promise is that function's.
            Engine::Kernels(kernels) => unsafe { self.launch_list(kernels, None, buckets, dtype, op, stream) },
            Engine::Nccl(nccl) => {
                bucket::check(buckets, dtype, op)?;
                nccl.supports(dtype)?;
                self.status()?;
                let mut filled = buckets.iter().filter(|bucket| bucket.count > 0).peekable();
                if filled.peek().is_none() {
                    return Ok(());
                }
                self.order.issue(stream, None, || {
                    baseline::group(self.rank(), || {
                        filled.try_for_each(|&Bucket { input, output, count }| {
                            // SAFETY: as above.
                            unsafe { nccl.all_reduce(input, output, count, dtype, op, stream) }
                        })
                    })
                })
            }
        }
    }

    /// As [`Communicator::all_reduce_buckets`], with a variant and shape of the caller's for all buckets together. Every rank makes
    /// the same choice.
    ///
    /// Errors: besides, [`Error::Unsupported`](crate::Error::Unsupported) for a variant without a form for buckets, and on NCCL.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce_buckets`].
    pub unsafe fn all_reduce_buckets_as(
        &self,
        choice: &Choice,
        buckets: &[Bucket],
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        // SAFETY: the caller's promise is that function's.
        unsafe { self.launch_list(self.kernels()?, Some(choice), buckets, dtype, op, stream) }
    }

    /// Prepares lists of buckets of these types and operators, of every size. Collective. Buckets that are operations of their own
    /// are what [`Communicator::prepare_types`] prepares.
    pub fn prepare_buckets(&self, types: &[(DType, ReduceOp)]) -> Result<()> {
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.prepare_buckets(&*self.bootstrap, &self.device, types),
            Engine::Nccl(_) => Ok(()),
        }
    }

    /// # Safety
    /// As [`Communicator::all_reduce_buckets`].
    unsafe fn launch_list(
        &self,
        kernels: &KernelEngine,
        choice: Option<&Choice>,
        buckets: &[Bucket],
        dtype: DType,
        op: ReduceOp,
        stream: StreamHandle,
    ) -> Result<()> {
        bucket::check(buckets, dtype, op)?;
        let arrangement = kernels.arrange(choice, buckets, dtype, op)?;
        let find = || {
            let together = arrangement.together.as_ref().map(|request| kernels.find_buckets(choice, request));
            let alone = arrangement
                .alone(buckets)
                .map(|bucket| kernels.find(Collective::AllReduce, None, &bucket.operation(dtype, op).request()));
            Ok((together.transpose()?, alone.collect::<Result<Vec<_>>>()?))
        };
        let mut found = find()?;
        self.status()?;
        let missing: Vec<Plan> = found.0.iter().chain(&found.1).filter_map(Found::missing).cloned().collect();
        if !missing.is_empty() {
            self.prepare_missing(kernels, &missing, stream)?;
            found = find()?;
        }
        let (together, alone) = found;
        if together.is_none() && alone.is_empty() {
            return Ok(());
        }
        let ready = |found| Found::ready(found).expect("prepare loads what it is given");
        self.launch_in_turn(stream, None, |queue| {
            if let Some(found) = &together {
                let (list, descriptor) = (arrangement.together(buckets), bucket::descriptor_of(buckets, dtype, op));
                // SAFETY: the caller's promise is this function's.
                unsafe { kernels.launch_buckets(&*self.device, ready(found), list, descriptor, queue)? };
            }
            arrangement.alone(buckets).zip(&alone).try_for_each(|(bucket, found)| {
                // SAFETY: as above.
                unsafe { kernels.launch(&*self.device, ready(found), &bucket.operation(dtype, op), queue) }
            })
        })
    }
}

//! Several operations by one call: checked together, then launched in order, each by a launch of its own. A list of buffers that is
//! one operation is in [`super::buckets`].

use super::engine::{Engine, KernelEngine};
use super::{Communicator, Operation};
use crate::baseline::NcclCommunicator;
use crate::device::StreamHandle;
use crate::error::Result;
use crate::types::Collective;
use crate::variant::{Choice, Plan};

impl Communicator {
    /// As one [`Communicator::all_reduce`] for each of `operations`, in their order, for less of the host's time. Each is an
    /// operation of its own, on all ranks; a later one may read what an earlier one writes.
    ///
    /// Shape: any number of operations, none included, of any types, operators and counts.
    ///
    /// Ordering: queued on `stream`, with no operation of another thread in between. Can be captured into a graph once every
    /// type and operator is prepared.
    ///
    /// Errors: as [`Communicator::all_reduce`], naming the operation by its place from 0. All are checked before any is
    /// launched: a wrong one loses nothing.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`], for the operands of every operation.
    pub unsafe fn all_reduce_batch(&self, operations: &[Operation<'_>], stream: StreamHandle) -> Result<()> {
        match &*self.engine {
            // SAFETY: the caller's promise is that function's.
            Engine::Kernels(kernels) => unsafe { self.launch_batch(kernels, None, operations, stream) },
            // SAFETY: as above.
            Engine::Nccl(nccl) => unsafe { self.issue_batch(nccl, operations, stream) },
        }
    }

    /// As [`Communicator::all_reduce_batch`], with a variant and shape of the caller's for all of them. Every rank makes the
    /// same choice.
    ///
    /// Errors: besides, [`Error::Unsupported`](crate::Error::Unsupported) on NCCL, which has no variants.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce_batch`].
    pub unsafe fn all_reduce_batch_as(
        &self,
        choice: &Choice,
        operations: &[Operation<'_>],
        stream: StreamHandle,
    ) -> Result<()> {
        // SAFETY: the caller's promise is that function's.
        unsafe { self.launch_batch(self.kernels()?, Some(choice), operations, stream) }
    }

    /// # Safety
    /// As [`Communicator::all_reduce_batch`].
    unsafe fn launch_batch(
        &self,
        kernels: &KernelEngine,
        choice: Option<&Choice>,
        operations: &[Operation<'_>],
        stream: StreamHandle,
    ) -> Result<()> {
        let find = || {
            each(operations, |operation| {
                self.check_window(operation)?;
                let found = kernels.find(Collective::AllReduce, choice, &operation.request())?;
                operation.check_output(found.plan().kernel.output)?;
                Ok(found)
            })
        };
        let mut found = find()?;
        self.status()?;
        let missing: Vec<Plan> = found.iter().filter_map(|(_, found)| found.missing().cloned()).collect();
        if !missing.is_empty() {
            self.prepare_missing(kernels, &missing, stream)?;
            found = find()?;
        }
        if found.is_empty() {
            return Ok(());
        }
        self.launch_in_turn(stream, None, |queue| {
            found.iter().try_for_each(|(operation, found)| {
                let ready = found.ready().expect("prepare loads what it is given");
                // SAFETY: the caller's promise is this function's.
                unsafe { kernels.launch(&*self.device, ready, operation, queue) }
            })
        })
    }

    /// # Safety
    /// As [`Communicator::all_reduce_batch`].
    unsafe fn issue_batch(
        &self,
        nccl: &NcclCommunicator,
        operations: &[Operation<'_>],
        stream: StreamHandle,
    ) -> Result<()> {
        let supported = each(operations, |operation| nccl.supports(operation.dtype))?;
        self.status()?;
        if supported.is_empty() {
            return Ok(());
        }
        // WHY: no group of NCCL's: the operations of a group have no order, and a later one may read what an earlier one writes.
        self.order.issue(stream, None, || {
            supported.iter().try_for_each(|&(&Operation { input, output, count, dtype, op, .. }, ())| {
                // SAFETY: the caller's promise is this function's.
                unsafe { nccl.all_reduce(input, output, count, dtype, op, stream) }
            })
        })
    }
}

/// Every operation with what `find` makes of it, but for those without elements, which are checked all the same.
///
/// Errors: that of the first wrong operation, with its place.
fn each<'a, T>(
    operations: &'a [Operation<'_>],
    find: impl Fn(&Operation<'_>) -> Result<T>,
) -> Result<Vec<(&'a Operation<'a>, T)>> {
    let mut found = Vec::with_capacity(operations.len());
    for (place, operation) in operations.iter().enumerate() {
        let outcome = operation.check().and_then(|()| find(operation));
        let outcome = outcome
            .map_err(|error| error.in_part(format_args!("operation {place} of a batch of {}", operations.len())))?;
        if operation.count > 0 {
            found.push((operation, outcome));
        }
    }
    Ok(found)
}

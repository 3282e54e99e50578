//! Kernels made ready before the operations that need them. Collective: nobody compiles while a peer's kernel waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, MutexGuard, PoisonError};

use super::KernelEngine;
use crate::bootstrap::{Bootstrap, agree};
use crate::device::Device;
use crate::error::Result;
use crate::types::{Collective, DType, ReduceOp};
use crate::variant::{Plan, Request};

impl KernelEngine {
    pub(in crate::comm) fn prepare(
        &self,
        bootstrap: &dyn Bootstrap,
        device: &Arc<dyn Device>,
        plans: &[Plan],
    ) -> Result<()> {
        if plans.iter().any(|plan| plan.kernel.variant.transfer.has_copies()) {
            agree(bootstrap, "making streams for copies", self.copies.prepare())?;
        }
        self.kernels.prepare(bootstrap, device, plans.iter().map(|plan| (&plan.kernel, plan.shared_bytes)))
    }

    pub(in crate::comm) fn prepare_types(
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
    pub(in crate::comm) fn plans_of(&self, collective: Collective, types: &[(DType, ReduceOp)]) -> Result<Vec<Plan>> {
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
    pub(in crate::comm) fn expect_windows(&self, bootstrap: &dyn Bootstrap, device: &Arc<dyn Device>) -> Result<()> {
        if self.has_windows.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        let types = self.prepared().clone();
        let plans = self.plans_of(Collective::AllReduce, &types);
        let prepared =
            plans.and_then(|plans| if plans.is_empty() { Ok(()) } else { self.prepare(bootstrap, device, &plans) });
        // The next window tries again.
        prepared.inspect_err(|_| self.has_windows.store(false, Ordering::Relaxed))
    }

    fn prepared(&self) -> MutexGuard<'_, Vec<(DType, ReduceOp)>> {
        self.prepared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

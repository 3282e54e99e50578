//! From a request to what can be launched: choice, plan, and the kernel that is there.

use super::KernelEngine;
use crate::comm::kernels::Loaded;
use crate::error::{Error, Result};
use crate::table::Origin;
use crate::types::Collective;
use crate::variant::{Choice, Plan, Request, Terrain};

/// A request that can be launched.
pub(in crate::comm) struct Ready {
    pub(super) plan: Plan,
    pub(super) kernel: Loaded,
}

/// What a request has become.
pub(in crate::comm) enum Found<'a> {
    /// The same as before.
    Known(&'a Ready),
    /// A launch that is not kept.
    New(Ready),
    /// A plan whose kernel is not prepared.
    Missing(Plan),
}

impl Found<'_> {
    pub(in crate::comm) fn plan(&self) -> &Plan {
        match self {
            Self::Known(Ready { plan, .. }) | Self::New(Ready { plan, .. }) | Self::Missing(plan) => plan,
        }
    }

    pub(in crate::comm) fn ready(&self) -> Option<&Ready> {
        match self {
            Self::Known(ready) => Some(ready),
            Self::New(ready) => Some(ready),
            Self::Missing(_) => None,
        }
    }

    pub(in crate::comm) fn missing(&self) -> Option<&Plan> {
        match self {
            Self::Known(_) | Self::New(_) => None,
            Self::Missing(plan) => Some(plan),
        }
    }
}

impl KernelEngine {
    /// What the communicator takes for a request of a collective, and why.
    pub(in crate::comm) fn choose(&self, collective: Collective, request: &Request) -> Result<(Choice, Origin<'_>)> {
        self.dispatcher.decide(collective, request, &self.terrain())
    }

    pub(super) fn terrain(&self) -> Terrain<'_> {
        Terrain {
            device: self.kind,
            world_size: self.world_size,
            layout: self.heap.layout(),
            sentinel: self.sentinel,
            arch: &self.arch,
            large_lanes: self.large_lanes,
            value_operations: self.has_value_operations,
        }
    }

    pub(in crate::comm) fn plan(&self, choice: &Choice, request: &Request) -> Result<Plan> {
        if choice.variant.transfer.has_copies() && !self.has_value_operations {
            return Err(Error::unsupported(format!(
                "variant {} needs streams that wait for words in memory, which this device lacks",
                choice.variant.name
            )));
        }
        Plan::new(&self.terrain(), request, choice)
    }

    /// What a request of a collective becomes under a choice of the caller's, or under the communicator's own.
    ///
    /// Errors: besides those of [`Plan::new`], [`Error::InvalidArgument`] for a grid that is
    /// not resident as a whole, and for a variant of another collective.
    pub(in crate::comm) fn find(
        &self,
        collective: Collective,
        choice: Option<&Choice>,
        request: &Request,
    ) -> Result<Found<'_>> {
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
}

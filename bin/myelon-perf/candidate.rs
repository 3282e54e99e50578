//! A candidate at one size: what runs it, and in which shape.

use myelon_ccl::Result;
use myelon_ccl::measure::compare::AUTO;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::variant::{Choice, Manifest, Plan, Request};

use crate::bench::Bench;
use crate::job::{Candidate, Job};

/// What queues an operation.
#[derive(Debug)]
pub(crate) enum Engine {
    /// The communicator's own choice, by the call that users make.
    Auto,
    /// This variant.
    Variant(Choice),
    /// Another library.
    Rival(Baseline),
}

/// A candidate of a case. Equal on all ranks.
#[derive(Debug)]
pub(crate) struct Planned {
    /// As it was asked for.
    pub(crate) requested: String,
    /// What runs.
    pub(crate) variant: String,
    /// None where a baseline chooses for itself.
    pub(crate) plan: Option<Plan>,
    /// Whether an operation is one launch of one kernel of Myelon's.
    pub(crate) is_one_launch: bool,
    pub(crate) request: Request,
    pub(crate) engine: Engine,
}

/// Plans every candidate of a job at one size, and the kernels they need.
///
/// Errors: those of [`Communicator::choose`](myelon_ccl::Communicator::choose) and
/// [`Communicator::plan`](myelon_ccl::Communicator::plan), the same on all ranks.
pub(crate) fn plan(bench: &Bench, job: &Job, against: &[Baseline], size: Bytes) -> Result<(Vec<Planned>, Vec<Plan>)> {
    let communicator = bench.communicator();
    let request = Request { count: size.elements(job.dtype), dtype: job.dtype, op: job.op };
    let (mut planned, mut plans) = (Vec::new(), Vec::new());
    for candidate in &job.candidates {
        let (requested, choice, engine) = match candidate {
            Candidate::Auto => (AUTO, communicator.choose(&request)?, Engine::Auto),
            Candidate::Variant(name, shape) => {
                let choice = Choice { shape: *shape, ..Choice::of(Manifest::embedded().get(name)?) };
                (name.as_str(), choice.clone(), Engine::Variant(choice))
            }
        };
        let plan = communicator.plan(&choice, &request)?;
        planned.push(Planned {
            requested: requested.to_owned(),
            variant: choice.variant.name.clone(),
            plan: Some(plan.clone()),
            is_one_launch: plan.pieces(request.count).count() * plan.launches().count() == 1,
            request,
            engine,
        });
        plans.push(plan);
    }
    for &baseline in against {
        if bench.rival_supports(baseline, &request)? {
            planned.push(Planned {
                requested: baseline.name().to_owned(),
                variant: baseline.name().to_owned(),
                plan: None,
                is_one_launch: false,
                request,
                engine: Engine::Rival(baseline),
            });
        }
    }
    Ok((planned, plans))
}

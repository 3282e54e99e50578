//! A candidate at one size: what runs it, and in which shape.

use myelon_ccl::Result;
use myelon_ccl::measure::Baseline;
use myelon_ccl::measure::against::AUTO;
use myelon_ccl::variant::{Choice, Manifest, Plan, Request, Shape};

use super::bench::Bench;

/// Something to time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Candidate {
    /// What the lane table chooses.
    Auto,
    /// A variant that supports the types and operators it is listed under.
    Variant(String, Shape),
}

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

/// How the host issues operations: one by one, or one of these.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Issue {
    /// Operations a graph; 0 without graphs.
    pub(crate) graph: u32,
    /// Operations a call; 0 without batches.
    pub(crate) batch: u32,
    /// Whether a small kernel runs behind each, without batches.
    pub(crate) between: bool,
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
    /// Of all parts together, where the bench's collective has parts.
    pub(crate) request: Request,
    pub(crate) issue: Issue,
    pub(crate) engine: Engine,
}

/// A candidate's plan for one request.
///
/// Errors: those of [`Communicator::choose`](myelon_ccl::Communicator::choose) and
/// [`Communicator::plan`](myelon_ccl::Communicator::plan), the same on all ranks.
pub(crate) fn plan(bench: &Bench, candidate: &Candidate, request: Request, issue: Issue) -> Result<Planned> {
    let (communicator, part) = (bench.communicator(), bench.part_of(&request));
    let (requested, choice, engine) = match candidate {
        Candidate::Auto => (AUTO, communicator.choose_of(bench.collective(), &part)?, Engine::Auto),
        Candidate::Variant(name, shape) => {
            let choice = Choice { shape: *shape, ..Choice::of(Manifest::embedded().get(name)?) };
            (name.as_str(), choice.clone(), Engine::Variant(choice))
        }
    };
    let plan = communicator.plan(&choice, &part)?;
    Ok(Planned {
        requested: requested.to_owned(),
        variant: choice.variant.name.clone(),
        is_one_launch: plan.pieces(part.count).count() * plan.launches().count() == 1,
        plan: Some(plan),
        request,
        issue,
        engine,
    })
}

/// The libraries among `against` that have the type and operator. Collective.
pub(crate) fn rivals(bench: &Bench, against: &[Baseline], request: Request, issue: Issue) -> Result<Vec<Planned>> {
    let mut all = Vec::new();
    for &baseline in against {
        if bench.rival_supports(baseline, &request)? {
            let planned = Planned {
                requested: baseline.name().to_owned(),
                variant: baseline.name().to_owned(),
                plan: None,
                is_one_launch: false,
                request,
                issue,
                engine: Engine::Rival(baseline),
            };
            // WHY: MSCCL++ connects the ranks for a size at its first operation, by calls that a capture may refuse.
            if baseline == Baseline::Mscclpp {
                bench.issue(&planned)?;
                bench.finish()?;
            }
            all.push(planned);
        }
    }
    Ok(all)
}

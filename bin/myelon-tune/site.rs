//! A rank's communicator and bench, and a round measured there.

use std::cell::Cell;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use myelon_ccl::bootstrap::{Bootstrap, RendezvousServer, TcpBootstrap, TcpOptions, agree};
use myelon_ccl::device::Device;
use myelon_ccl::measure::stats::slowest_rank;
use myelon_ccl::table::Buffers;
use myelon_ccl::verify::Verifier;
use myelon_ccl::{Communicator, Error, Rank, Result};
use serde::{Deserialize, Serialize};

use crate::bench::{Bench, Room};
use crate::broadcast::broadcast;
use crate::candidate::{Candidate, Issue, Planned, plan, rivals};
use crate::exchange;
use crate::gauge::Gauge;
use crate::place::DEADLINE;
use crate::request::TuneRequest;
use crate::search::Round;
use crate::space::{Case, Entrant, OP};

/// Operations that are verified before a candidate is timed; with graphs, two replays.
const CHECK: u32 = 1;
/// Untimed repeats before the timed ones.
const WARMUP: u32 = 1;
/// Most characters of an error that are passed on.
const MOST_TEXT: usize = 400;

/// Where a rank measures: gone after a stall, and then made anew.
pub(crate) struct Site {
    bench: Bench,
    /// By class.
    verifiers: BTreeMap<usize, Verifier>,
}

/// What a round showed of one candidate. The same on all ranks.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The slowest rank's times, microseconds an operation.
    Times(Vec<f32>),
    /// It cannot run this case.
    Refused(String),
    /// It is out.
    Dropped(String),
}

/// How a round ended. The same on all ranks.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// By entrant; none for those that a bad one came before.
    pub(crate) verdicts: BTreeMap<usize, Verdict>,
    /// One was wrong or stalled: nobody knows what it has left in the heap, so the site is of no further use.
    pub(crate) is_lost: bool,
}

impl Outcome {
    fn lost_by(mut self, entrant: usize, why: String, bytes: u64) -> Self {
        self.verdicts.insert(entrant, Verdict::Dropped(format!("{why} ({bytes} bytes)")));
        self.is_lost = true;
        self
    }

    fn refuse(&mut self, entrant: usize, why: impl Into<String>) {
        self.verdicts.insert(entrant, Verdict::Refused(why.into()));
    }
}

/// A candidate before it is timed, as all ranks see it.
enum Seen {
    Right,
    Refused(String),
    Bad(String),
}

/// What one rank tells after a step of a round.
#[derive(Serialize, Deserialize, Default)]
struct Report {
    wrong: u64,
    refused: Option<String>,
    fault: Option<Fault>,
}

/// An error that ended a step on one rank.
#[derive(Clone, Serialize, Deserialize)]
struct Fault {
    /// Place in the round of the candidate that was running.
    place: usize,
    /// A wait stalled, or ranks differed: a new communicator may go on without the candidate.
    by_candidate: bool,
    text: String,
}

impl Fault {
    fn of(place: usize, error: &Error) -> Self {
        let by_candidate = matches!(error, Error::Stalled { .. } | Error::PeerMismatch { .. });
        Self { place, by_candidate, text: cut(error) }
    }
}

fn cut(error: &Error) -> String {
    error.to_string().chars().take(MOST_TEXT).collect()
}

/// How a step ended, on all ranks.
enum Step<T> {
    Done(T),
    /// The communicators are of no further use; this candidate is to blame.
    Faulty(usize, String),
}

impl Site {
    /// A new communicator over the ranks of `control`, which outlives it. Collective.
    pub(crate) fn connect(control: &dyn Bootstrap, device: &Arc<dyn Device>, request: &TuneRequest) -> Result<Self> {
        let options = TcpOptions { deadline: DEADLINE, ..TcpOptions::default() };
        let is_first = control.rank() == Rank(0);
        let server = is_first.then(|| RendezvousServer::start(&options)).transpose();
        let server = agree(control, "opening a place to meet", server)?;
        let own = server.as_ref().map_or(String::new(), |server| server.id().to_text());
        let id = broadcast(control, "naming the place to meet", &own)?.parse()?;
        let bootstrap = TcpBootstrap::connect(&id, control.rank(), control.world_size(), &options)?;
        let bootstrap = server.into_iter().fold(bootstrap, TcpBootstrap::hosting);
        let communicator = Communicator::connect(Arc::clone(device), Arc::new(bootstrap), request.options.clone())?;
        let bytes = request.space.sizes.last().copied().unwrap_or(0);
        let are = |buffers| request.space.classes.iter().any(|class| class.buffers == buffers);
        let (window, plain) = (are(Buffers::Registered), are(Buffers::Plain));
        let room = Room { bytes, against: request.rivals.clone(), window, registered: !plain, ..Room::default() };
        Ok(Self { bench: Bench::new(communicator, &room)?, verifiers: BTreeMap::new() })
    }

    pub(crate) fn communicator(&self) -> &Communicator {
        self.bench.communicator()
    }

    /// Whether results can go straight into their memory, on all ranks.
    pub(crate) fn is_registered(&self) -> bool {
        self.bench.is_registered()
    }

    /// Verifies what `verified` lacks and times what is right. Collective.
    ///
    /// Errors: a lost rank, and what has nothing to do with a candidate.
    pub(crate) fn measure(
        &mut self,
        control: &dyn Bootstrap,
        request: &TuneRequest,
        round: &Round,
        verified: &mut BTreeSet<(Case, usize)>,
    ) -> Result<Outcome> {
        let (bytes, mut outcome) = (round.case.1, Outcome::default());
        let planned = self.plan(request, round, &mut outcome)?;
        let planned = self.prepare(planned, round, request, &mut outcome)?;
        let verifier = &self.verifiers[&round.case.0];
        let gauge = Gauge::new(&self.bench, CHECK, WARMUP);

        let (mut timed, mut right) = (Vec::new(), Vec::new());
        for (entrant, planned) in planned {
            if !verified.contains(&(round.case, entrant)) {
                match verify(control, &gauge, &planned, verifier)? {
                    Seen::Right => drop(verified.insert((round.case, entrant))),
                    Seen::Refused(why) => {
                        outcome.refuse(entrant, why);
                        continue;
                    }
                    Seen::Bad(why) => return Ok(outcome.lost_by(entrant, why, bytes)),
                }
            }
            timed.push(entrant);
            right.push(planned);
        }
        match time(control, &gauge, &right, round.repeats, verifier)? {
            Step::Done(series) => {
                outcome.verdicts.extend(timed.into_iter().zip(series.into_iter().map(Verdict::Times)));
                Ok(outcome)
            }
            Step::Faulty(place, why) => Ok(outcome.lost_by(timed[place], why, bytes)),
        }
    }

    /// The candidates of a round that can be planned, which all ranks find alike.
    fn plan(&self, request: &TuneRequest, round: &Round, outcome: &mut Outcome) -> Result<Vec<(usize, Planned)>> {
        let (reduced, issue) =
            (request.space.request(round.case), Issue { graph: request.graph_of(round.case.1), ..Issue::default() });
        let mut planned = Vec::new();
        let is_possible = !reduced.registered || self.is_registered();
        for &entrant in &round.entrants {
            if !is_possible {
                outcome.refuse(entrant, "the ranks cannot map each other's operands");
                continue;
            }
            let one = match &request.space.entrants[entrant] {
                Entrant::Myelon(choice) => {
                    let candidate = Candidate::Variant(choice.variant.name.clone(), choice.shape);
                    plan(&self.bench, &candidate, reduced, issue)
                }
                Entrant::Rival(baseline) => rivals(&self.bench, &[*baseline], reduced, issue)?
                    .pop()
                    .ok_or_else(|| Error::unsupported(format!("{baseline} lacks {} {OP}", reduced.dtype))),
            };
            match one {
                Ok(one) => planned.push((entrant, one)),
                Err(error) => outcome.refuse(entrant, error.to_string()),
            }
        }
        Ok(planned)
    }

    /// Compiles and loads, together, or one by one where that fails, so that only those are left out that it fails for.
    fn prepare(
        &mut self,
        planned: Vec<(usize, Planned)>,
        round: &Round,
        request: &TuneRequest,
        outcome: &mut Outcome,
    ) -> Result<Vec<(usize, Planned)>> {
        let communicator = self.bench.communicator();
        if let Entry::Vacant(vacant) = self.verifiers.entry(round.case.0) {
            let dtype = request.space.classes[round.case.0].dtype;
            vacant.insert(Verifier::prepare(communicator.device(), dtype, OP)?);
        }
        let plans: Vec<_> = planned.iter().filter_map(|(_, planned)| planned.plan.clone()).collect();
        if communicator.prepare(&plans).is_ok() {
            return Ok(planned);
        }
        communicator.status()?;
        let mut prepared = Vec::new();
        for (entrant, planned) in planned {
            match planned.plan.as_ref().map_or(Ok(()), |plan| communicator.prepare(std::slice::from_ref(plan))) {
                Ok(()) => prepared.push((entrant, planned)),
                Err(error @ (Error::PeerLost { .. } | Error::Bootstrap { .. } | Error::Aborted { .. })) => {
                    return Err(error);
                }
                Err(error) => outcome.refuse(entrant, error.to_string()),
            }
        }
        Ok(prepared)
    }

    /// Takes leave of the other ranks. Collective.
    pub(crate) fn close(self) -> Result<()> {
        self.bench.close()
    }
}

/// What all ranks together see of one candidate.
fn verify(control: &dyn Bootstrap, gauge: &Gauge<'_>, planned: &Planned, verifier: &Verifier) -> Result<Seen> {
    let own = match gauge.verify(planned, verifier) {
        Ok(wrong) => Report { wrong, ..Report::default() },
        // Before anything was launched, and on all ranks alike.
        Err(error @ (Error::InvalidArgument(_) | Error::Unsupported(_))) => {
            Report { refused: Some(cut(&error)), ..Report::default() }
        }
        Err(error) => Report { fault: Some(Fault::of(0, &error)), ..Report::default() },
    };
    let reports = exchange::words(control, "comparing verdicts", &own)?;
    if let Some((_, why)) = blame(control, &reports)? {
        return Ok(Seen::Bad(why));
    }
    if let Some(why) = reports.iter().find_map(|report| report.refused.clone()) {
        return Ok(Seen::Refused(why));
    }
    let wrong = reports.iter().fold(0u64, |sum, report| sum.saturating_add(report.wrong));
    Ok(if wrong == 0 { Seen::Right } else { Seen::Bad(format!("{wrong} wrong elements")) })
}

/// The slowest rank's times of each candidate.
fn time(
    control: &dyn Bootstrap,
    gauge: &Gauge<'_>,
    planned: &[Planned],
    repeats: u32,
    verifier: &Verifier,
) -> Result<Step<Vec<Vec<f32>>>> {
    let turn = Cell::new(0);
    let own = gauge.time(repeats, planned, verifier, |place| turn.set(place));
    let fault = own.as_ref().err().map(|error| Fault::of(turn.get(), error));
    let reports = exchange::words(control, "comparing outcomes", &Report { fault, ..Report::default() })?;
    if let Some((place, why)) = blame(control, &reports)? {
        return Ok(Step::Faulty(place, why));
    }
    let slowest = |own: Vec<f32>| -> Result<Vec<f32>> {
        let ranks_us = exchange::series(control, "comparing times", &own)?;
        Ok(slowest_rank(&ranks_us)?.into_iter().map(|us| us as f32).collect())
    };
    own?.into_iter().map(slowest).collect::<Result<_>>().map(Step::Done)
}

/// The candidate that is to blame for a fault of any rank, and what it did; none where there is no fault.
///
/// Errors: a fault that is no candidate's.
fn blame(control: &dyn Bootstrap, reports: &[Report]) -> Result<Option<(usize, String)>> {
    let faults = || (0..).zip(reports).filter_map(|(rank, report)| Some((Rank(rank), report.fault.as_ref()?)));
    let Some((peer, first)) = faults().next() else { return Ok(None) };
    // A rank that was only told to stop may have been a candidate further on.
    let by_candidate =
        faults().map(|(_, fault)| fault).filter(|fault| fault.by_candidate).min_by_key(|fault| fault.place);
    match by_candidate {
        Some(fault) => Ok(Some((fault.place, fault.text.clone()))),
        None => {
            let (rank, detail) = (control.rank(), first.text.clone());
            Err(Error::PeerFailed { rank, peer, environment: false, detail })
        }
    }
}

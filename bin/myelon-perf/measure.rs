//! What one rank does from its communicator to its share of the outcome: a sweep, studies, or overlaps.

use std::io::ErrorKind;

use myelon_ccl::measure::text::counted;
use myelon_ccl::{Communicator, Error, Result};

use crate::bench::Bench;
use crate::common::interrupt::Interrupt;
use crate::request::SweepRequest;
use crate::{ablate, overlap, sweep};

/// What rank 0 shows and stores at the end of a run.
pub(crate) trait Output {
    /// Prints what a run that did not fail amounts to.
    fn verdict(&self);
    /// How many rows there are by now.
    fn measured(&self) -> usize;
    /// Writes the files: everything measured so far.
    fn store(&self) -> Result<()>;
}

/// How a run that did not fail ended. Equal on all ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    /// Wrong elements on all ranks together.
    pub(crate) wrong: u64,
    /// An interrupt came before the last case.
    pub(crate) interrupted: bool,
}

/// Measures on this rank. Collective. Returns how many elements were wrong on all ranks together.
///
/// Errors: the first on this rank; the other ranks are told, and end with an error too. On rank 0, an interrupt as well. What rank
/// 0 has measured by then is stored all the same.
pub(crate) fn measure(communicator: Communicator, request: &SweepRequest, interrupt: &Interrupt) -> Result<u64> {
    let bench = Bench::new(communicator, &request.room())?;
    match &request.studies {
        None if request.overlap => {
            let mut printer = None;
            let outcome = overlap::run(&bench, request, interrupt, &mut printer);
            conclude(bench, request, outcome, printer)
        }
        None => {
            let mut printer = None;
            let outcome = sweep::run(&bench, request, interrupt, &mut printer);
            conclude(bench, request, outcome, printer)
        }
        Some(studies) => {
            let mut printer = None;
            let outcome = ablate::run(&bench, request, studies, interrupt, &mut printer);
            conclude(bench, request, outcome, printer)
        }
    }
}

fn conclude(bench: Bench, request: &SweepRequest, outcome: Result<End>, output: Option<impl Output>) -> Result<u64> {
    if let Err(error) = &outcome {
        bench.communicator().abort(&error.to_string());
    }
    // WHY: before the verdict, which nothing may follow.
    let outcome = outcome.and_then(|end| bench.close().map(|()| end));
    let Some(output) = output else { return outcome.map(|end| end.wrong) };
    if outcome.is_ok() {
        output.verdict();
    }
    let is_whole = matches!(outcome, Ok(End { interrupted: false, .. }));
    // WHY: files of an earlier run are worth more than none.
    let stored = if is_whole || output.measured() > 0 { output.store() } else { Ok(()) };
    // WHY: the failure on the way first: it says more than one that may follow from it.
    outcome.and_then(|end| match end.interrupted {
        true => stored.and(Err(interrupted(output.measured(), request))),
        false => stored.map(|()| end.wrong),
    })
}

/// Where a run was cut, and where its rows are.
fn interrupted(measured: usize, request: &SweepRequest) -> Error {
    let files: Vec<_> = request.json.iter().chain(&request.csv).map(|path| path.display().to_string()).collect();
    let kept = match (measured, files.len()) {
        (0, _) | (_, 0) => String::new(),
        (_, 1) => format!(", which {} has", files[0]),
        _ => format!(", which {} have", files.join(" and ")),
    };
    Error::io(format!("rank 0 was cut after {}{kept}", counted(measured, "row")), ErrorKind::Interrupted)
}

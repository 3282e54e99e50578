//! What one rank does from its communicator to its share of the outcome: a sweep, studies, or overlaps.

use myelon_ccl::{Communicator, Result};

use crate::bench::Bench;
use crate::request::SweepRequest;
use crate::{ablate, overlap, sweep};

/// What rank 0 shows and stores at the end of a run.
pub(crate) trait Output {
    /// Prints what a run that came to its end amounts to.
    fn verdict(&self);
    /// Writes the files: everything measured so far.
    fn store(&self) -> Result<()>;
}

/// Measures on this rank. Collective. Returns how many elements were wrong on all ranks together.
///
/// Errors: the first on this rank; the other ranks are told, and end with an error too. What rank 0 has measured by
/// then is stored all the same.
pub(crate) fn measure(communicator: Communicator, request: &SweepRequest) -> Result<u64> {
    let bench = Bench::new(communicator, &request.room())?;
    match &request.studies {
        None if request.overlap => {
            let mut printer = None;
            let outcome = overlap::run(&bench, request, &mut printer);
            conclude(bench, outcome, printer)
        }
        None => {
            let mut printer = None;
            let outcome = sweep::run(&bench, request, &mut printer);
            conclude(bench, outcome, printer)
        }
        Some(studies) => {
            let mut printer = None;
            let outcome = ablate::run(&bench, request, studies, &mut printer);
            conclude(bench, outcome, printer)
        }
    }
}

fn conclude(bench: Bench, outcome: Result<u64>, output: Option<impl Output>) -> Result<u64> {
    if let Err(error) = &outcome {
        bench.communicator().abort(&error.to_string());
    }
    // WHY: before the verdict, which nothing may follow.
    let outcome = outcome.and_then(|wrong| bench.close().map(|()| wrong));
    let Some(output) = output else { return outcome };
    if outcome.is_ok() {
        output.verdict();
    }
    // WHY: the failure on the way first: it says more than one that may follow from it.
    let stored = output.store();
    outcome.and_then(|wrong| stored.map(|()| wrong))
}

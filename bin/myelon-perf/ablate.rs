//! Studies on one rank: every group prepared, then measured case by case, until the time is spent.

use std::time::Instant;

use myelon_ccl::measure::against::AUTO;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::study::{self, Group, Study};
use myelon_ccl::variant::Request;
use myelon_ccl::verify::Verifier;
use myelon_ccl::{Rank, Result};

use crate::bench::Bench;
use crate::candidate::{Candidate, Issue, Planned, plan, rivals};
use crate::common::interrupt::Interrupt;
use crate::exchange;
use crate::machine;
use crate::measure::End;
use crate::request::SweepRequest;
use crate::studies::StudyRequest;
use crate::study_printer::StudyPrinter;
use crate::sweep::Sweep;

/// Every study in turn, until an interrupt comes to a rank. Collective. `printer` is filled on rank 0 only.
pub(crate) fn run(
    bench: &Bench,
    request: &SweepRequest,
    studies: &StudyRequest,
    interrupt: &Interrupt,
    printer: &mut Option<StudyPrinter>,
) -> Result<End> {
    let started = Instant::now();
    let studies = &studies.clone().in_windows(bench.is_registered())?;
    let communicator = bench.communicator();
    let seats = machine::seats(communicator)?;
    if communicator.rank() == Rank(0) {
        let caution = machine::caution(request.device, &seats);
        let provenance = machine::provenance(communicator)?;
        *printer = Some(StudyPrinter::start(request, studies, provenance, &machine::lines(&seats), caution));
    }
    let verifier = Verifier::prepare(communicator.device(), Study::DTYPE, Study::OP)?;
    let sweep = Sweep::new(bench, request);
    let mut run = Run { bench, studies, sweep, verifier: &verifier, started, interrupt, interrupted: false, printer };
    for study in &studies.studies {
        if !run.interrupted {
            run.study(study)?;
        }
    }
    Ok(End { wrong: run.sweep.wrong(), interrupted: run.interrupted })
}

fn issue_of(entrant: &study::Candidate) -> Issue {
    Issue { graph: entrant.graph, batch: entrant.batch, between: false }
}

struct Run<'a> {
    bench: &'a Bench,
    studies: &'a StudyRequest,
    sweep: Sweep<'a>,
    verifier: &'a Verifier,
    started: Instant,
    interrupt: &'a Interrupt,
    interrupted: bool,
    printer: &'a mut Option<StudyPrinter>,
}

/// One group at one size.
struct Case {
    size: Bytes,
    planned: Vec<Planned>,
    labels: Vec<String>,
}

impl Run<'_> {
    fn study(&mut self, study: &Study) -> Result<()> {
        if let Some(printer) = self.printer {
            printer.begin(study);
        }
        let whole = self.groups(study)?;
        if let Some(printer) = self.printer {
            printer.end(study, whole, self.interrupted);
        }
        Ok(())
    }

    /// Whether there was time for all of it.
    fn groups(&mut self, study: &Study) -> Result<bool> {
        for group in &study.groups {
            if self.is_over()? {
                return Ok(false);
            }
            let cases = group.sizes.iter().map(|&size| self.case(group, size)).collect::<Result<Vec<_>>>()?;
            let plans: Vec<_> = cases.iter().flat_map(|case| &case.planned).filter_map(|it| it.plan.clone()).collect();
            self.bench.communicator().prepare(&plans)?;
            for Case { size, planned, labels } in cases {
                if self.is_over()? {
                    return Ok(false);
                }
                if let Some(printer) = self.printer {
                    printer.announce(format!("{} {} {size}", study.name, group.title));
                }
                let rows = self.sweep.case(group.repeats, &planned, self.verifier)?;
                if let Some(printer) = self.printer {
                    printer.rows(group, labels.into_iter().zip(rows).collect());
                }
            }
        }
        Ok(true)
    }

    /// Whether no further case starts. Rank 0's clock decides, for all ranks go on or stop together, or an interrupt of any. Collective.
    fn is_over(&mut self) -> Result<bool> {
        let bootstrap = &**self.bench.communicator().bootstrap();
        self.interrupted = self.interrupt.came_to_any(bootstrap)?;
        let own = self.started.elapsed() >= self.studies.budget;
        Ok(exchange::decision(bootstrap, "looking at the clock", own)? || self.interrupted)
    }

    fn case(&self, group: &Group, size: Bytes) -> Result<Case> {
        let (count, dtype, op) = (size.elements(Study::DTYPE), Study::DTYPE, Study::OP);
        let request = |registered| Request { count, dtype, op, registered };
        let (mut planned, mut labels) = (Vec::new(), Vec::new());
        for entrant in group.entrants() {
            let candidate = match entrant.variant.as_str() {
                AUTO => Candidate::Auto,
                name => Candidate::Variant(name.to_owned(), entrant.shape),
            };
            let of_entrant = plan(self.bench, &candidate, request(entrant.shape.is_direct()), issue_of(entrant))?;
            planned.push(Planned { requested: entrant.to_string(), ..of_entrant });
            labels.push(entrant.label.clone());
        }
        for rival in rivals(self.bench, &group.against, request(false), issue_of(&group.baseline))? {
            labels.push(rival.requested.parse::<Baseline>()?.label().to_owned());
            planned.push(rival);
        }
        Ok(Case { size, planned, labels })
    }
}

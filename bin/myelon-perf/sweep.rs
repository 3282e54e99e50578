//! The loop of one rank: every case verified, then timed, candidates taking turns.

use std::collections::BTreeMap;

use myelon_ccl::baseline;
use myelon_ccl::measure::{Baseline, Bytes, Provenance, Row, Series, Summary};
use myelon_ccl::variant::{Plan, Request};
use myelon_ccl::verify::Verifier;
use myelon_ccl::{Rank, Result};

use crate::bench::Bench;
use crate::candidate::{Issue, Planned, plan, rivals};
use crate::common::interrupt::Interrupt;
use crate::exchange;
use crate::gauge::Gauge;
use crate::host::HostTimes;
use crate::job::Job;
use crate::machine;
use crate::measure::End;
use crate::printer::Printer;
use crate::request::SweepRequest;

/// Every job in turn, until an interrupt comes to a rank. Collective. `printer` is filled on rank 0 only.
pub(crate) fn run(
    bench: &Bench,
    request: &SweepRequest,
    interrupt: &Interrupt,
    printer: &mut Option<Printer>,
) -> Result<End> {
    let communicator = bench.communicator();
    let seats = machine::seats(communicator)?;
    if communicator.rank() == Rank(0) {
        let caution = machine::caution(request.device, &seats);
        let cases = (request.jobs.len() * request.sizes.clone().count()) as u64;
        let provenance = Provenance { peers: peers(&request.against)?, ..machine::provenance(communicator)? };
        *printer = Some(Printer::start(request, provenance, &machine::lines(&seats), caution, cases));
    }
    let mut sweep = Sweep::new(bench, request);
    let mut interrupted = false;
    for job in &request.jobs {
        interrupted = interrupted || sweep.job(job, interrupt, printer)?;
    }
    if let Some(printer) = printer {
        printer.host_time(sweep.host.summary());
    }
    Ok(End { wrong: sweep.wrong, interrupted })
}

/// What [`Provenance::peers`] says of these libraries.
fn peers(against: &[Baseline]) -> Result<BTreeMap<String, String>> {
    let mut peers = BTreeMap::new();
    if against.contains(&Baseline::Mscclpp) {
        let it = format!("MSCCL++ {}, {}", baseline::mscclpp_version()?, baseline::mscclpp_settings());
        peers.insert(Baseline::Mscclpp.name().to_owned(), it);
    }
    Ok(peers)
}

/// Cases, one after another, each verified and then timed.
pub(crate) struct Sweep<'a> {
    bench: &'a Bench,
    request: &'a SweepRequest,
    gauge: Gauge<'a>,
    host: HostTimes,
    /// What [`Row::between_us`] is for the rows to come.
    between_us: Option<f64>,
    wrong: u64,
}

impl<'a> Sweep<'a> {
    /// Of `request`, the warm-ups, operations to verify, and the place of results count.
    pub(crate) fn new(bench: &'a Bench, request: &'a SweepRequest) -> Self {
        let gauge = Gauge::new(bench, request.check, request.warmup);
        Self { bench, request, gauge, host: HostTimes::default(), between_us: None, wrong: 0 }
    }

    /// Wrong elements so far, on all ranks together.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong
    }

    /// All sizes of one type and operator; whether it was interrupted before the last. Compiles and loads first, so that nothing does
    /// while an operation runs.
    fn job(&mut self, job: &Job, interrupt: &Interrupt, printer: &mut Option<Printer>) -> Result<bool> {
        let SweepRequest { repeats, graph, batch, between, ref against, .. } = *self.request;
        let issue = Issue { graph, batch, between };
        let communicator = self.bench.communicator();
        let verifier = Verifier::prepare(communicator.device(), job.dtype, job.op)?;
        let mut cases: Vec<(Bytes, Vec<Planned>)> = Vec::new();
        let bytes_of = |planned: &[Planned]| planned.first().map(|planned| planned.request.bytes());
        for size in self.request.sizes.clone() {
            let planned = entrants(self.bench, job, size, against, issue)?;
            // Sizes that are cut to the same whole elements are one.
            if cases.last().is_none_or(|(_, last)| bytes_of(last) != bytes_of(&planned)) {
                cases.push((size, planned));
            }
        }
        let plans: Vec<_> = cases.iter().flat_map(|(_, planned)| planned).filter_map(|it| it.plan.clone()).collect();
        communicator.prepare(&plans)?;
        self.between_us = self.between_us(repeats, issue, &verifier)?;
        for (size, planned) in &cases {
            if interrupt.came_to_any(&**communicator.bootstrap())? {
                return Ok(true);
            }
            if let Some(printer) = printer {
                printer.announce(format!("{} {} {size}", job.dtype, job.op));
            }
            let rows = self.case(repeats, planned, &verifier)?;
            if let Some(printer) = printer {
                printer.rows(rows);
            }
        }
        Ok(false)
    }

    fn between_us(&self, repeats: u32, issue: Issue, verifier: &Verifier) -> Result<Option<f64>> {
        if !issue.between {
            return Ok(None);
        }
        let series_us = self.gauge.time_between(repeats, issue, verifier)?;
        let bootstrap = &**self.bench.communicator().bootstrap();
        let ranks_us = exchange::series(bootstrap, "comparing times", &series_us)?;
        Ok(Some(Summary::of_ranks(&ranks_us)?.p50))
    }

    /// Verifies and times candidates that were prepared, all of one type, operator and size. Collective. A row each.
    pub(crate) fn case(&mut self, repeats: u32, planned: &[Planned], verifier: &Verifier) -> Result<Vec<Row>> {
        let wrong = self.wrong_of_each(planned, verifier)?;
        let series_us = self.gauge.time(repeats, planned, verifier, |_| {})?;
        let hosts_us = self.host.time(self.bench, planned)?;

        let bootstrap = &**self.bench.communicator().bootstrap();
        let mut rows = Vec::new();
        for (((planned, series_us), host_us), wrong) in planned.iter().zip(&series_us).zip(hosts_us).zip(wrong) {
            let ranks_us = exchange::series(bootstrap, "comparing times", series_us)?;
            rows.push(Row { host_us, ..self.row(planned, Summary::of_ranks(&ranks_us)?, wrong) });
        }
        Ok(rows)
    }

    /// Verifies candidates of one case. Collective. What is wrong of each, on all ranks together; none where nothing was checked.
    pub(crate) fn wrong_of_each(&mut self, planned: &[Planned], verifier: &Verifier) -> Result<Vec<Option<u64>>> {
        let wrong = planned.iter().map(|planned| self.gauge.verify(planned, verifier)).collect::<Result<Vec<_>>>()?;
        let wrong = exchange::sums(&**self.bench.communicator().bootstrap(), "counting wrong elements", &wrong)?;
        self.wrong += wrong.iter().sum::<u64>();
        Ok(wrong.into_iter().map(|wrong| (self.request.check > 0).then_some(wrong)).collect())
    }

    /// The row of a candidate that took `time_us`, in its shape.
    pub(crate) fn row(&self, planned: &Planned, time_us: Summary, wrong: Option<u64>) -> Row {
        let Request { dtype, op, registered, .. } = planned.request;
        let collective = self.request.collective;
        // Of whole elements, which what was asked for may not be.
        let size = Bytes(planned.request.bytes());
        let Issue { graph, batch, between } = planned.issue;
        let (ranks, in_place) = (self.bench.communicator().world_size(), self.request.in_place);
        let series = Series { collective, ranks, dtype, op, in_place, registered, graph, batch, between };
        let row = Row::measured(series.at(size), &planned.requested, time_us, wrong);
        let row = Row { variant: planned.variant.clone(), between_us: self.between_us, ..row };
        match &planned.plan {
            Some(plan) => in_shape(row, plan),
            None => row,
        }
    }
}

/// All candidates of a job at one size, and the libraries among `against` that have its type and operator.
///
/// Errors: those of [`plan`] and [`rivals`].
pub(crate) fn entrants(
    bench: &Bench,
    job: &Job,
    size: Bytes,
    against: &[Baseline],
    issue: Issue,
) -> Result<Vec<Planned>> {
    let (count, registered) = (bench.whole_parts(size.elements(job.dtype)), bench.is_registered());
    let request = Request { count, dtype: job.dtype, op: job.op, registered };
    let plans = job.candidates.iter().map(|candidate| plan(bench, candidate, request, issue));
    let mut planned = plans.collect::<Result<Vec<_>>>()?;
    planned.extend(rivals(bench, against, request, issue)?);
    Ok(planned)
}

/// A row of what ran in the shape of `plan`.
fn in_shape(row: Row, plan: &Plan) -> Row {
    let shape = plan.shape();
    Row {
        lanes: plan.lanes,
        threads: plan.kernel.threads,
        chunk: shape.chunk.map_or(0, |chunk| chunk.0),
        stages: shape.stages.unwrap_or(0),
        stage_packs: shape.stage_packs.unwrap_or(0),
        producer_warps: shape.producer_warps.unwrap_or(0),
        slots: shape.slots.unwrap_or(0),
        copied: shape.copied.unwrap_or(0),
        wait: shape.wait,
        sync: shape.sync,
        places: shape.places,
        metadata: shape.metadata,
        launch: shape.launch,
        output: shape.output,
        ..row
    }
}

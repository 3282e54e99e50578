//! The loop of one rank: every case verified, then timed, candidates taking turns.

use myelon_ccl::device::handles::Event;
use myelon_ccl::measure::{Bytes, Row, Series, Summary};
use myelon_ccl::variant::{Plan, Request};
use myelon_ccl::verify::Verifier;
use myelon_ccl::{Rank, Result};

use crate::bench::{Bench, Replay};
use crate::candidate::{Issue, Planned, entrants};
use crate::exchange;
use crate::host::{Calls, HostTimes};
use crate::job::Job;
use crate::machine;
use crate::printer::Printer;
use crate::request::SweepRequest;

/// Every job in turn. Collective. Returns how many elements were wrong on all ranks together; `printer` is filled on rank 0 only.
pub(crate) fn run(bench: &Bench, request: &SweepRequest, printer: &mut Option<Printer>) -> Result<u64> {
    let communicator = bench.communicator();
    let seats = machine::seats(communicator)?;
    if communicator.rank() == Rank(0) {
        let caution = machine::caution(request.device, &seats);
        let cases = (request.jobs.len() * request.sizes.clone().count()) as u64;
        let provenance = machine::provenance(communicator)?;
        *printer = Some(Printer::start(request, provenance, &machine::lines(&seats), caution, cases));
    }
    let mut sweep = Sweep::new(bench, request);
    for job in &request.jobs {
        sweep.job(job, printer)?;
    }
    if let Some(printer) = printer {
        printer.host_time(sweep.host.summary());
    }
    Ok(sweep.wrong)
}

/// Cases, one after another, each verified and then timed.
pub(crate) struct Sweep<'a> {
    bench: &'a Bench,
    request: &'a SweepRequest,
    host: HostTimes,
    /// Cases so far: each has operation numbers of its own.
    cases: u64,
    wrong: u64,
}

impl<'a> Sweep<'a> {
    /// Of `request`, the warm-ups, operations to verify, and the place of results count.
    pub(crate) fn new(bench: &'a Bench, request: &'a SweepRequest) -> Self {
        Self { bench, request, host: HostTimes::default(), cases: 0, wrong: 0 }
    }

    /// Wrong elements so far, on all ranks together.
    pub(crate) fn wrong(&self) -> u64 {
        self.wrong
    }

    /// All sizes of one type and operator. Compiles and loads first, so that nothing does while an operation runs.
    fn job(&mut self, job: &Job, printer: &mut Option<Printer>) -> Result<()> {
        let SweepRequest { repeats, graph, batch, ref against, .. } = *self.request;
        let issue = Issue { graph, batch };
        let communicator = self.bench.communicator();
        let verifier = Verifier::prepare(communicator.device(), job.dtype, job.op)?;
        let mut cases = Vec::new();
        for size in self.request.sizes.clone() {
            cases.push((size, entrants(self.bench, job, size, against, issue)?));
        }
        let plans: Vec<_> = cases.iter().flat_map(|(_, planned)| planned).filter_map(|it| it.plan.clone()).collect();
        communicator.prepare(&plans)?;
        cases.iter().try_for_each(|(size, planned)| {
            if let Some(printer) = printer {
                printer.announce(format!("{} {} {size}", job.dtype, job.op));
            }
            let rows = self.case(*size, repeats, planned, &verifier)?;
            if let Some(printer) = printer {
                printer.rows(rows);
            }
            Ok(())
        })
    }

    /// Verifies and times candidates that were prepared, all of one type, operator and size. Collective. A row each.
    pub(crate) fn case(
        &mut self,
        size: Bytes,
        repeats: u32,
        planned: &[Planned],
        verifier: &Verifier,
    ) -> Result<Vec<Row>> {
        let wrong = self.wrong_of_each(planned, verifier)?;
        let series_us = self.time(repeats, planned, verifier)?;
        let hosts_us = self.host.time(self.bench, planned)?;

        let bootstrap = &**self.bench.communicator().bootstrap();
        let mut rows = Vec::new();
        for (((planned, series_us), host_us), wrong) in planned.iter().zip(&series_us).zip(hosts_us).zip(wrong) {
            let ranks_us = exchange::series(bootstrap, "comparing times", series_us)?;
            rows.push(Row { host_us, ..self.row(size, planned, Summary::of_ranks(&ranks_us)?, wrong) });
        }
        Ok(rows)
    }

    /// Verifies candidates of one case. Collective. What is wrong of each, on all ranks together; none where nothing was checked.
    pub(crate) fn wrong_of_each(&mut self, planned: &[Planned], verifier: &Verifier) -> Result<Vec<Option<u64>>> {
        self.cases += 1;
        let mut wrong = Vec::new();
        for (index, planned) in planned.iter().enumerate() {
            // Numbers far apart: no operation of one candidate has the data of another's.
            let first = (self.cases << 40) + ((index as u64) << 32);
            wrong.push(self.verify(planned, verifier, first)?);
        }
        let wrong = exchange::sums(&**self.bench.communicator().bootstrap(), "counting wrong elements", &wrong)?;
        self.wrong += wrong.iter().sum::<u64>();
        Ok(wrong.into_iter().map(|wrong| (self.request.check > 0).then_some(wrong)).collect())
    }

    /// The row of a candidate that took `time_us`, in its shape.
    pub(crate) fn row(&self, size: Bytes, planned: &Planned, time_us: Summary, wrong: Option<u64>) -> Row {
        let Request { dtype, op, registered, .. } = planned.request;
        let Issue { graph, batch } = planned.issue;
        let (ranks, in_place) = (self.bench.communicator().world_size(), self.request.in_place);
        let series = Series { ranks, dtype, op, in_place, registered, graph, batch };
        let row = Row::measured(series.at(size), &planned.requested, time_us, wrong);
        let row = Row { variant: planned.variant.clone(), ..row };
        match &planned.plan {
            Some(plan) => in_shape(row, plan),
            None => row,
        }
    }

    /// Wrong elements on this rank over the operations that were asked for, all with data of their own: `first` and
    /// those after it. With graphs at least two replays, since the second is where a frozen argument shows.
    ///
    /// A batch is checked with as many operations as there are sets of operands: each has a result of its own, so that one that
    /// does not run, or runs twice in place, is seen.
    fn verify(&self, planned: &Planned, verifier: &Verifier, first: u64) -> Result<u64> {
        let batch = planned.issue.batch;
        if self.request.check == 0 {
            return Ok(0);
        }
        let sets = self.bench.tallies().len().min(batch.max(1) as usize);
        let calls = match batch {
            0 => Calls::new(self.bench, planned, 0),
            _ => Calls::apart(self.bench, planned, sets),
        };
        self.wrong_of(&calls, sets, planned, verifier, first)
    }

    /// What is wrong after `calls`, which are to fill the results of `sets` sets of operands.
    fn wrong_of(
        &self,
        calls: &Calls<'_>,
        sets: usize,
        planned: &Planned,
        verifier: &Verifier,
        first: u64,
    ) -> Result<u64> {
        let (check, graph) = (self.request.check, planned.issue.graph);
        let (bench, stream, request) = (self.bench, self.bench.stream(), &planned.request);
        let tallies = &bench.tallies()[..sets];
        let once = || {
            for (set, tally) in tallies.iter().enumerate() {
                let operands = bench.operands_of(&planned.engine, set);
                // SAFETY: each set of operands has room for the largest size; they and the tallies live as long as the bench, which
                // synchronises the stream before it goes.
                unsafe { verifier.fill(tally, operands.input, request, stream)? };
                if operands.output != operands.input {
                    // SAFETY: as above.
                    unsafe { verifier.poison(operands.output, request, stream)? };
                }
            }
            calls.issue()?;
            tallies.iter().enumerate().try_for_each(|(set, tally)| {
                let output = bench.operands_of(&planned.engine, set).output;
                // SAFETY: as above.
                unsafe { verifier.check(tally, output, request, stream) }
            })
        };
        for (set, tally) in (0..).zip(tallies) {
            // Numbers far apart, as those of candidates are.
            tally.restart(first + (set << 28), stream)?;
        }
        if graph == 0 {
            (0..check).try_for_each(|_| once())?;
            bench.finish()?;
        } else {
            let replay = bench.capture(|| (0..graph).try_for_each(|_| once()))?;
            (0..check.div_ceil(graph).max(2)).try_for_each(|_| replay.launch())?;
            bench.finish()?;
        }
        tallies.iter().map(|tally| tally.read(stream).map(|(_, wrong)| wrong)).sum()
    }

    /// This rank's time of each repeat, microseconds an operation, one series a candidate.
    ///
    /// Candidates take turns, so that a drift of clocks or temperature meets all of them alike.
    fn time(&self, repeats: u32, planned: &[Planned], verifier: &Verifier) -> Result<Vec<Vec<f32>>> {
        let warmup = self.request.warmup;
        let (bench, stream) = (self.bench, self.bench.stream());
        let device = bench.communicator().device();
        let (start, end) = (Event::new(device)?, Event::new(device)?);
        let mut turns = Vec::new();
        for planned in planned {
            let input = bench.operands(&planned.engine).input;
            // SAFETY: as in `verify`.
            unsafe { verifier.fill(&bench.tallies()[0], input, &planned.request, stream)? };
            let replay = match planned.issue.graph {
                0 => None,
                graph => Some(bench.capture(|| (0..graph).try_for_each(|_| bench.issue(planned)))?),
            };
            let calls = Calls::new(bench, planned, planned.issue.batch);
            turns.push(Turn { planned, replay, calls, series_us: Vec::new() });
        }
        bench.finish()?;
        for repeat in 0..u64::from(warmup) + u64::from(repeats) {
            for turn in &mut turns {
                bench.communicator().bootstrap().barrier("starting a repeat")?;
                // WHY: hosts leave a barrier at different times, but no rank leaves an all-reduce before all are in it.
                bench.issue(turn.planned)?;
                start.record(stream.handle())?;
                let operations = match &turn.replay {
                    Some(replay) => replay.launch().map(|()| turn.planned.issue.graph)?,
                    None => turn.calls.issue()?,
                };
                end.record(stream.handle())?;
                bench.finish()?;
                if repeat >= u64::from(warmup) {
                    let nanoseconds = end.elapsed_ns_since(&start)?;
                    turn.series_us.push((nanoseconds as f64 / 1e3 / f64::from(operations)) as f32);
                }
            }
        }
        Ok(turns.into_iter().map(|turn| turn.series_us).collect())
    }
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
        wait: shape.wait,
        sync: shape.sync,
        places: shape.places,
        metadata: shape.metadata,
        launch: shape.launch,
        output: shape.output,
        ..row
    }
}

/// One candidate while it is timed.
struct Turn<'a> {
    planned: &'a Planned,
    /// None where the host launches each operation.
    replay: Option<Replay<'a>>,
    calls: Calls<'a>,
    series_us: Vec<f32>,
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use myelon_ccl::device::Device;
    use myelon_ccl::device::cpu::CpuDevice;
    use myelon_ccl::{Communicator, Options};

    use super::*;
    use crate::candidate::plan;
    use crate::request::fake::{CPU, check};

    /// One rank, whose results are copies: what counts is which of them are there.
    #[test]
    fn an_operation_of_a_batch_that_does_not_run_is_seen() {
        let request = check("--ranks 1 -b 400 -e 400 --batch 9 --variant auto", CPU).unwrap();
        let devices: [Arc<dyn Device>; 1] = [CpuDevice::new(0).unwrap()];
        let options = Options { limits: Some(request.limits()), ..Options::default() };
        let communicator = Communicator::threads(&devices, &options).unwrap().pop().unwrap();
        let bench = Bench::new(communicator, &request).unwrap();
        let Job { dtype, op, ref candidates } = request.jobs[0];
        let verifier = Verifier::prepare(&devices[0], dtype, op).unwrap();
        let reduced = Request { count: 100, dtype, op, registered: false };
        let planned = plan(&bench, &candidates[0], reduced, Issue { graph: 0, batch: request.batch }).unwrap();
        let sweep = Sweep::new(&bench, &request);
        assert_eq!(sweep.verify(&planned, &verifier, 1 << 40).unwrap(), 0);
        let wrong = |calls: &Calls<'_>, first| sweep.wrong_of(calls, 4, &planned, &verifier, first).unwrap();
        assert_eq!(wrong(&Calls::apart(&bench, &planned, 4), 2 << 40), 0);
        let short = wrong(&Calls::apart(&bench, &planned, 3), 3 << 40);
        assert!((90..=100).contains(&short), "{short}");
        let same = wrong(&Calls::new(&bench, &planned, 4), 4 << 40);
        assert!((270..=300).contains(&same), "{same}");
        bench.close().unwrap();
    }
}

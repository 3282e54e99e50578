//! One candidate verified, and several timed against each other, on this rank.

use myelon_ccl::Result;
use myelon_ccl::device::handles::Event;
use myelon_ccl::variant::Request;
use myelon_ccl::verify::Verifier;

use super::bench::{Bench, Replay};
use super::calls::Calls;
use super::candidate::{Issue, Planned};

/// What verifies and times. All ranks do the same with theirs.
pub(crate) struct Gauge<'a> {
    bench: &'a Bench,
    /// Operations to verify a candidate; 0 for none.
    check: u32,
    /// Untimed repeats before the timed ones.
    warmup: u32,
}

impl<'a> Gauge<'a> {
    pub(crate) fn new(bench: &'a Bench, check: u32, warmup: u32) -> Self {
        Self { bench, check, warmup }
    }

    /// Wrong elements on this rank over the operations that were asked for, all with data of their own. With graphs at least two replays, since the second is where a frozen argument shows.
    ///
    /// A batch is checked with as many operations as there are sets of operands: each has a result of its own, so that one that
    /// does not run, or runs twice in place, is seen.
    pub(crate) fn verify(&self, planned: &Planned, verifier: &Verifier) -> Result<u64> {
        let batch = planned.issue.batch;
        if self.check == 0 {
            return Ok(0);
        }
        let sets = self.bench.tallies().len().min(batch.max(1) as usize);
        let calls = match batch {
            0 => Calls::new(self.bench, planned, 0),
            _ => Calls::apart(self.bench, planned, sets),
        };
        self.wrong_of(&calls, sets, planned, verifier, self.bench.first_number())
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
        let (check, graph) = (self.check, planned.issue.graph);
        let (bench, stream, request) = (self.bench, self.bench.stream(), &planned.request);
        let (tallies, world_size) = (&bench.tallies()[..sets], bench.communicator().world_size());
        let once = || {
            for (set, tally) in tallies.iter().enumerate() {
                let call = bench.call(&planned.engine, request, set);
                let (inputs, outputs) = call.elements(world_size)?;
                let of = |count| Request { count, ..*request };
                // SAFETY: each set of operands has room for the largest size; they and the tallies live as long as the bench, which
                // synchronises the stream before it goes.
                unsafe { verifier.fill(tally, call.input, &of(inputs), stream)? };
                if !bench.is_in_place() {
                    // SAFETY: as above.
                    unsafe { verifier.poison(call.output, &of(outputs), stream)? };
                }
            }
            calls.issue()?;
            tallies.iter().enumerate().try_for_each(|(set, tally)| {
                let call = bench.call(&planned.engine, request, set);
                let what = (call.collective, call.root);
                // SAFETY: as above.
                unsafe { verifier.check_result(tally, what, call.output, &call.request(), stream) }
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
    /// Candidates take turns, so that a drift of clocks or temperature meets all of them alike. `turn` hears whose it is.
    pub(crate) fn time(
        &self,
        repeats: u32,
        planned: &[Planned],
        verifier: &Verifier,
        turn: impl Fn(usize),
    ) -> Result<Vec<Vec<f32>>> {
        let warmup = self.warmup;
        let (bench, stream) = (self.bench, self.bench.stream());
        let device = bench.communicator().device();
        let (start, end) = (Event::new(device)?, Event::new(device)?);
        let mut turns = Vec::new();
        for (place, planned) in planned.iter().enumerate() {
            turn(place);
            let call = bench.call(&planned.engine, &planned.request, 0);
            let (inputs, _) = call.elements(bench.communicator().world_size())?;
            let filled = Request { count: inputs, ..planned.request };
            // SAFETY: as in `verify`.
            unsafe { verifier.fill(&bench.tallies()[0], call.input, &filled, stream)? };
            let one = || bench.issue(planned).and_then(|()| self.between(planned.issue, verifier));
            let replay = match planned.issue.graph {
                0 => None,
                graph => Some(bench.capture(|| (0..graph).try_for_each(|_| one()))?),
            };
            let calls = Calls::new(bench, planned, planned.issue.batch);
            turns.push(Turn { planned, replay, calls, series_us: Vec::new() });
        }
        bench.finish()?;
        for repeat in 0..u64::from(warmup) + u64::from(repeats) {
            for (place, timed) in turns.iter_mut().enumerate() {
                turn(place);
                bench.communicator().bootstrap().barrier("starting a repeat")?;
                // WHY: hosts leave a barrier at different times, but no rank leaves an all-reduce before all are in it.
                bench.issue(timed.planned)?;
                start.record(stream.handle())?;
                let operations = match &timed.replay {
                    Some(replay) => replay.launch().map(|()| timed.planned.issue.graph)?,
                    None => timed
                        .calls
                        .issue()
                        .and_then(|count| self.between(timed.planned.issue, verifier).map(|()| count))?,
                };
                end.record(stream.handle())?;
                bench.finish()?;
                if repeat >= u64::from(warmup) {
                    let nanoseconds = end.elapsed_ns_since(&start)?;
                    timed.series_us.push((nanoseconds as f64 / 1e3 / f64::from(operations)) as f32);
                }
            }
        }
        Ok(turns.into_iter().map(|turn| turn.series_us).collect())
    }

    /// Queues what runs behind an operation: the kernel that steps a tally, a thread that reads a word and writes it.
    fn between(&self, issue: Issue, verifier: &Verifier) -> Result<()> {
        if !issue.between {
            return Ok(());
        }
        // SAFETY: as in `verify`.
        unsafe { verifier.next(&self.bench.tallies()[0], self.bench.stream()) }
    }

    /// This rank's times of what runs behind operations, alone, one after another as they are issued; microseconds each.
    pub(crate) fn time_between(&self, repeats: u32, issue: Issue, verifier: &Verifier) -> Result<Vec<f32>> {
        let (bench, stream) = (self.bench, self.bench.stream());
        let device = bench.communicator().device();
        let (start, end) = (Event::new(device)?, Event::new(device)?);
        let count = issue.graph.max(1);
        let all = || (0..count).try_for_each(|_| self.between(issue, verifier));
        let replay = if issue.graph > 0 { Some(bench.capture(all)?) } else { None };
        let mut series_us = Vec::new();
        for repeat in 0..self.warmup + repeats {
            // One that is not timed, so that the first of the timed ones finds the device at work.
            self.between(issue, verifier)?;
            start.record(stream.handle())?;
            replay.as_ref().map_or_else(all, Replay::launch)?;
            end.record(stream.handle())?;
            bench.finish()?;
            if repeat >= self.warmup {
                series_us.push((end.elapsed_ns_since(&start)? as f64 / 1e3 / f64::from(count)) as f32);
            }
        }
        Ok(series_us)
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
    use myelon_ccl::{Communicator, DType, Options, ReduceOp};

    use super::*;
    use crate::common::bench::Room;
    use crate::common::candidate::{Candidate, plan};

    /// One rank, whose results are copies: what counts is which of them are there.
    #[test]
    fn an_operation_of_a_batch_that_does_not_run_is_seen() {
        let devices: [Arc<dyn Device>; 1] = [CpuDevice::new(0).unwrap()];
        let communicator = Communicator::threads(&devices, &Options::default()).unwrap().pop().unwrap();
        let bench = Bench::new(communicator, &Room { bytes: 400, batch: 9, ..Room::default() }).unwrap();
        let (dtype, op) = (DType::F32, ReduceOp::Sum);
        let verifier = Verifier::prepare(&devices[0], dtype, op).unwrap();
        let reduced = Request { count: 100, dtype, op, registered: false };
        let planned = plan(&bench, &Candidate::Auto, reduced, Issue { batch: 9, ..Issue::default() }).unwrap();
        let gauge = Gauge::new(&bench, 1, 0);
        assert_eq!(gauge.verify(&planned, &verifier).unwrap(), 0);
        let wrong = |calls: &Calls<'_>, first| gauge.wrong_of(calls, 4, &planned, &verifier, first).unwrap();
        assert_eq!(wrong(&Calls::apart(&bench, &planned, 4), 2 << 40), 0);
        let short = wrong(&Calls::apart(&bench, &planned, 3), 3 << 40);
        assert!((90..=100).contains(&short), "{short}");
        let same = wrong(&Calls::new(&bench, &planned, 4), 4 << 40);
        assert!((270..=300).contains(&same), "{same}");
        bench.close().unwrap();
    }
}

//! How the host issues the operations of a repeat, and what it spends in doing so.

use std::time::Instant;

use myelon_ccl::measure::Summary;
use myelon_ccl::{Operation, Result};

use crate::bench::Bench;
use crate::candidate::{Engine, Planned};

/// The operations of one repeat: one, or a batch.
pub(crate) struct Calls<'a> {
    bench: &'a Bench,
    planned: &'a Planned,
    /// Empty where each operation is a call of its own.
    batch: Vec<Operation<'a>>,
}

impl<'a> Calls<'a> {
    /// `batch` as [`Issue::batch`](crate::candidate::Issue::batch).
    pub(crate) fn new(bench: &'a Bench, planned: &'a Planned, batch: u32) -> Self {
        Self { bench, planned, batch: vec![bench.operation(planned, 0); batch as usize] }
    }

    /// Operations that can be told from each other: each has operands of its own, `sets` of them.
    pub(crate) fn apart(bench: &'a Bench, planned: &'a Planned, sets: usize) -> Self {
        Self { bench, planned, batch: (0..sets).map(|set| bench.operation(planned, set)).collect() }
    }

    /// Queues them, by one call. Returns how many they are.
    pub(crate) fn issue(&self) -> Result<u32> {
        if self.batch.is_empty() {
            return self.bench.issue(self.planned).map(|()| 1);
        }
        self.bench.issue_batch(self.planned, &self.batch)?;
        Ok(self.batch.len() as u32)
    }
}

/// Operations in a row whose host time is taken, at least: fewer than a stream queues before a call blocks.
const OPERATIONS: u32 = 64;

/// What the host spent in calls so far, for the last line of a sweep.
#[derive(Default)]
pub(crate) struct HostTimes {
    /// Myelon's, a mean a case and candidate, microseconds an operation.
    means_us: Vec<f64>,
}

impl HostTimes {
    /// What this rank's host spends when it queues one call after another, microseconds an operation, one a candidate; none
    /// where an operation is several launches. Collective.
    pub(crate) fn time(&mut self, bench: &Bench, planned: &[Planned]) -> Result<Vec<Option<f64>>> {
        let mut times = Vec::with_capacity(planned.len());
        for planned in planned {
            let is_rival = matches!(planned.engine, Engine::Rival(_));
            let mean =
                (is_rival || planned.is_one_launch).then(|| mean_us(&Calls::new(bench, planned, planned.issue.batch)));
            let mean = mean.transpose()?;
            self.means_us.extend(mean.filter(|_| !is_rival));
            times.push(mean);
        }
        Ok(times)
    }

    /// Over the cases and candidates so far; none where none was taken.
    pub(crate) fn summary(&self) -> Option<Summary> {
        Summary::of(&self.means_us).ok()
    }
}

fn mean_us(calls: &Calls<'_>) -> Result<f64> {
    calls.bench.communicator().bootstrap().barrier("timing the host")?;
    let (begun, mut issued) = (Instant::now(), 0);
    while issued < OPERATIONS {
        issued += calls.issue()?;
    }
    let spent_us = begun.elapsed().as_secs_f64() * 1e6 / f64::from(issued);
    calls.bench.finish()?;
    Ok(spent_us)
}

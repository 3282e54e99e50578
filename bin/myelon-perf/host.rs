//! What the host spends in issuing operations.

use std::time::Instant;

use myelon_ccl::Result;
use myelon_ccl::measure::Summary;

use crate::bench::Bench;
use crate::calls::Calls;
use crate::candidate::{Engine, Planned};

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
    calls.bench().communicator().bootstrap().barrier("timing the host")?;
    let (begun, mut issued) = (Instant::now(), 0);
    while issued < OPERATIONS {
        issued += calls.issue()?;
    }
    let spent_us = begun.elapsed().as_secs_f64() * 1e6 / f64::from(issued);
    calls.bench().finish()?;
    Ok(spent_us)
}

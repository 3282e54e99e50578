//! Where what the lane table chooses is slower than another candidate of the same case.

use std::fmt;

use crate::measure::compare::{AUTO, Baseline};
use crate::measure::results::Row;

/// As much slower is told as more than the noise of a measurement.
pub const TOLERANCE: f64 = 1.03;

/// `auto` and the best variant that was measured beside it.
#[derive(Clone, Debug)]
pub struct Lag<'a> {
    /// What `auto` took.
    pub auto: &'a Row,
    /// The fastest of the others that are Myelon's.
    pub best: &'a Row,
}

impl Lag<'_> {
    /// How many times as long `auto` took.
    pub fn ratio(&self) -> f64 {
        self.auto.time_us.p50 / self.best.time_us.p50
    }

    /// Whether that is more than [`TOLERANCE`].
    pub fn is_behind(&self) -> bool {
        self.ratio() > TOLERANCE
    }
}

impl fmt::Display for Lag<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { auto, best } = self;
        let case = auto.case();
        let more = (self.ratio() - 1.0) * 100.0;
        write!(
            f,
            "{} {} {}: {} takes {more:.1} % more than {} with {} lanes of {} threads",
            case.series.dtype, case.series.op, case.bytes, auto.variant, best.variant, best.lanes, best.threads
        )
    }
}

/// One for each case that has a row of `auto` and rows of variants beside it, in the order of the rows. Wrong results count for
/// neither.
pub fn lags(rows: &[Row]) -> Vec<Lag<'_>> {
    let of = |auto| {
        let is_other = |row: &&Row| row.requested != AUTO && Baseline::of(row).is_none();
        let beside = rows.iter().filter(|row| row.case() == Row::case(auto)).filter(is_other);
        let best = beside.filter(|row| !row.is_wrong() && row.time_us.p50 > 0.0);
        best.min_by(|a, b| a.time_us.p50.total_cmp(&b.time_us.p50)).map(|best| Lag { auto, best })
    };
    rows.iter().filter(|row| row.requested == AUTO && !row.is_wrong()).filter_map(of).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::tests::row;

    #[test]
    fn auto_is_held_against_the_best_variant_of_its_case() {
        let rows = [
            row(2, 1024, "auto", 4.2),
            row(2, 1024, "ring", 4.0),
            row(2, 1024, "one_shot_push", 9.0),
            row(2, 1024, "nccl", 1.0),
            Row { wrong: Some(1), ..row(2, 1024, "two_shot_push", 2.0) },
            row(2, 4096, "auto", 5.0),
            row(2, 4096, "ring", 5.0),
            row(4, 4096, "auto", 5.0),
            row(4, 4096, "nccl", 1.0),
        ];
        let lags = lags(&rows);
        let found: Vec<_> = lags.iter().map(|lag| (lag.best.requested.as_str(), lag.is_behind())).collect();
        assert_eq!(found, [("ring", true), ("ring", false)]);
        assert_eq!(lags[0].to_string(), "f32 sum 1K: auto takes 5.0 % more than ring with 0 lanes of 0 threads");
    }
}

//! What a series of repeats is summed up as.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// Times of one measured case, in microseconds an operation; as stored in results.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Summary {
    /// Median, by [`percentile`].
    pub p50: f64,
    /// 99th percentile, by [`percentile`]; the maximum below 100 samples.
    pub p99: f64,
    /// Fastest repeat.
    pub min: f64,
}

impl Summary {
    /// Sums up one value a repeat, in any order.
    ///
    /// Errors: [`Error::InvalidArgument`] if there is no sample or one is negative, infinite or NaN.
    pub fn of(samples_us: &[f64]) -> Result<Self> {
        let mut sorted = samples_us.to_vec();
        if let Some(bad) = sorted.iter().find(|sample| !sample.is_finite() || **sample < 0.0) {
            return Err(Error::invalid(format!("a time of {bad} us: samples must be finite and not negative")));
        }
        sorted.sort_by(f64::total_cmp);
        let &min = sorted.first().ok_or_else(|| Error::invalid("no samples to sum up: measure at least one repeat"))?;
        Ok(Self { p50: percentile(&sorted, 50.0), p99: percentile(&sorted, 99.0), min })
    }

    /// Sums up the slowest rank of each repeat: an all-reduce is over when its last rank is done.
    ///
    /// Shape: one series a rank, equally long, repeat for repeat in the same order.
    /// Errors: as [`slowest_rank`] and [`Summary::of`].
    pub fn of_ranks(series_us: &[Vec<f64>]) -> Result<Self> {
        Self::of(&slowest_rank(series_us)?)
    }
}

/// The slowest rank's time of each repeat.
///
/// Errors: [`Error::InvalidArgument`] if there is no rank, or the ranks measured different numbers of repeats.
pub fn slowest_rank(series_us: &[Vec<f64>]) -> Result<Vec<f64>> {
    let (first, rest) = series_us.split_first().ok_or_else(|| Error::invalid("no rank measured anything"))?;
    let mut slowest = first.clone();
    for (rank, series) in rest.iter().enumerate() {
        if series.len() != first.len() {
            let (rank, theirs, ours) = (rank + 1, series.len(), first.len());
            return Err(Error::invalid(format!("rank {rank} measured {theirs} repeats, rank 0 measured {ours}")));
        }
        for (slow, &sample) in slowest.iter_mut().zip(series) {
            // `f64::max` would drop a NaN, which `Summary::of` has to see.
            if sample.is_nan() || sample > *slow {
                *slow = sample;
            }
        }
    }
    Ok(slowest)
}

/// Nearest-rank percentile: the smallest sample that at least `percent` of all samples do not exceed.
///
/// It is always a sample that occurred, never an interpolation, so a p99 of few samples is their maximum and does
/// not look better than anything seen. The p50 of an even count is the lower of the two middle samples.
///
/// Shape: `sorted` ascends; `percent` is clamped to 0 to 100; 0 gives the first sample. NaN for no samples.
pub fn percentile(sorted: &[f64], percent: f64) -> f64 {
    // Multiplying first keeps whole products whole: 0.07 * 100 is above 7 in binary, 7 * 100 / 100 is not.
    let rank = (percent.clamp(0.0, 100.0) * sorted.len() as f64 / 100.0).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn percentiles_are_samples_at_the_nearest_rank() {
        let hundred: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!(percentile(&hundred, 50.0), 50.0);
        assert_eq!(percentile(&hundred, 99.0), 99.0);
        assert_eq!(percentile(&hundred, 7.0), 7.0);
        assert_eq!(percentile(&hundred, 100.0), 100.0);
        assert_eq!(percentile(&hundred[..20], 99.0), 20.0);
        assert_eq!(percentile(&hundred[..4], 50.0), 2.0);
        assert_eq!(percentile(&hundred[..1], 0.0), 1.0);
        assert!(percentile(&[], 50.0).is_nan());
    }

    #[test]
    fn a_repeat_takes_as_long_as_its_slowest_rank() {
        let ranks = [vec![1.0, 9.0, 3.0], vec![2.0, 2.0, 8.0]];
        assert_eq!(slowest_rank(&ranks).unwrap(), [2.0, 9.0, 8.0]);
        assert_eq!(Summary::of_ranks(&ranks).unwrap(), Summary { p50: 8.0, p99: 9.0, min: 2.0 });
    }

    #[test]
    fn unusable_series_are_errors() {
        assert!(Summary::of(&[]).unwrap_err().to_string().contains("no samples"));
        for bad in [f64::NAN, f64::INFINITY, -1.0] {
            assert!(Summary::of(&[1.0, bad]).is_err());
            assert!(Summary::of_ranks(&[vec![bad], vec![bad]]).is_err());
        }
        assert!(Summary::of_ranks(&[vec![1.0], vec![f64::NAN]]).is_err());
        assert!(Summary::of_ranks(&[]).is_err());
        let message = slowest_rank(&[vec![1.0], vec![1.0, 2.0]]).unwrap_err().to_string();
        assert!(message.contains("rank 1 measured 2 repeats, rank 0 measured 1"), "{message}");
    }

    proptest! {
        #[test]
        fn percentiles_keep_their_definition(mut samples in prop::collection::vec(0.0_f64..1e6, 1..200), percent in 1_u32..=100) {
            samples.sort_by(f64::total_cmp);
            let value = percentile(&samples, f64::from(percent));
            let not_above = samples.iter().filter(|&&sample| sample <= value).count();
            let below = samples.iter().filter(|&&sample| sample < value).count();
            prop_assert!(100 * not_above >= percent as usize * samples.len());
            prop_assert!(100 * below < percent as usize * samples.len());
        }

        #[test]
        fn summaries_are_ordered_and_ignore_the_order(samples in prop::collection::vec(0.0_f64..1e6, 1..200)) {
            let summary = Summary::of(&samples).unwrap();
            prop_assert!(summary.min <= summary.p50 && summary.p50 <= summary.p99);
            let reversed: Vec<f64> = samples.iter().rev().copied().collect();
            prop_assert_eq!(Summary::of(&reversed).unwrap(), summary);
        }

        #[test]
        fn no_rank_is_slower_than_the_slowest(series in prop::collection::vec(prop::collection::vec(0.0_f64..1e6, 5), 1..9)) {
            let slowest = slowest_rank(&series).unwrap();
            for repeat in 0..5 {
                prop_assert!(series.iter().all(|rank| rank[repeat] <= slowest[repeat]));
                prop_assert!(series.iter().any(|rank| rank[repeat] == slowest[repeat]));
            }
        }
    }
}

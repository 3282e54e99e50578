//! From a time to the two bandwidths that nccl-tests defines.

use crate::measure::size::Bytes;
use crate::types::{Collective, WorldSize};

/// What an operation of known size and time amounts to, in GB/s of 10^9 bytes.
///
/// `busbw` is the traffic that each rank must send and receive at least if the ranks exchange data directly, so it
/// can be held against the link's speed at any world size. It is a normalised figure: an algorithm that moves more
/// (one-shot), or a switch that adds (multicast), does not put that many bytes on a link.
///
/// Source: nccl-tests, `doc/PERFORMANCE.md`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bandwidth {
    /// Message bytes over time.
    pub algbw_gbps: f64,
    /// [`Self::algbw_gbps`] times [`bus_factor_of`].
    pub busbw_gbps: f64,
}

impl Bandwidth {
    /// Bandwidths of one all-reduce of `bytes` that took `time_us` microseconds; both zero where the time is not positive.
    pub fn of_all_reduce(bytes: Bytes, time_us: f64, world: WorldSize) -> Self {
        Self::of(Collective::AllReduce, bytes, time_us, world)
    }

    /// The same of any collective; `bytes` of all parts together, where there are parts.
    pub fn of(collective: Collective, bytes: Bytes, time_us: f64, world: WorldSize) -> Self {
        // 1 byte/us = 10^6 byte/s = 10^-3 GB/s.
        let algbw_gbps = if time_us > 0.0 { bytes.0 as f64 / time_us / 1e3 } else { 0.0 };
        Self { algbw_gbps, busbw_gbps: algbw_gbps * bus_factor_of(collective, world) }
    }
}

/// Bytes that a rank sends, or the root of a broadcast, for each byte of the message.
pub fn bus_factor_of(collective: Collective, world: WorldSize) -> f64 {
    match collective {
        Collective::AllReduce => bus_factor(world),
        Collective::ReduceScatter | Collective::AllGather => bus_factor(world) / 2.0,
        Collective::Broadcast => 1.0,
    }
}

/// Bytes that a rank of an all-reduce sends for each byte of the message: 2(n-1)/n, so 0 for a world of one, which has no traffic.
pub fn bus_factor(world: WorldSize) -> f64 {
    let ranks = f64::from(world.get());
    2.0 * (ranks - 1.0) / ranks
}

#[cfg(test)]
mod tests {
    use super::*;

    fn world(ranks: u32) -> WorldSize {
        WorldSize::new(ranks).unwrap()
    }

    #[test]
    fn factors_of_each_world() {
        let factors: Vec<f64> = [1, 2, 4, 8].into_iter().map(|ranks| bus_factor(world(ranks))).collect();
        assert_eq!(factors, [0.0, 1.0, 1.5, 1.75]);
        let of_four = Collective::ALL.iter().map(|&collective| bus_factor_of(collective, world(4)));
        assert_eq!(of_four.collect::<Vec<_>>(), [1.5, 0.75, 0.75, 1.0]);
    }

    #[test]
    fn a_gigabyte_in_a_second_is_one() {
        let bandwidth = Bandwidth::of_all_reduce(Bytes(1_000_000_000), 1e6, world(8));
        assert_eq!(bandwidth, Bandwidth { algbw_gbps: 1.0, busbw_gbps: 1.75 });
    }

    #[test]
    fn no_time_gives_no_infinity() {
        for time_us in [0.0, -1.0, f64::NAN] {
            assert_eq!(Bandwidth::of_all_reduce(Bytes(1), time_us, world(2)).algbw_gbps, 0.0);
        }
    }
}

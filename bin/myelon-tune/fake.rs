//! A pretended machine: how long each candidate takes, and a search over it without a device.

use myelon_ccl::abi::PACK_BYTES;
use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Baseline;
use myelon_ccl::table::{Buffers, DTypeClass};
use myelon_ccl::variant::Choice;
use myelon_ccl::{DType, WorldSize};

use crate::grid::Values;
use crate::ground::Ground;
use crate::log::Log;
use crate::search::{Round, next};
use crate::space::{Case, Class, Effort, Entrant, Space};

/// Most rounds of a search that ends.
const MOST_ROUNDS: usize = 20_000;

/// A machine of eight GPUs that follows the floor model, with a cost for each lane, a rate that needs threads, and noise.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Machine {
    pub(crate) seed: u64,
    /// Largest deviation of a time, as a part of it.
    pub(crate) noise: f64,
}

/// A number from 0 to 1 that looks random: SplitMix64.
fn chance(seed: u64) -> f64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) as f64 / u64::MAX as f64
}

/// What a name stands for, the same in each run.
fn number(text: &str) -> u64 {
    text.bytes().fold(7, |number, byte| number.wrapping_mul(31).wrapping_add(byte.into()))
}

impl Machine {
    /// What an entrant takes, without noise.
    pub(crate) fn truth_us(&self, space: &Space, case: Case, entrant: usize) -> f64 {
        let bytes = case.1 as f64;
        let Entrant::Myelon(Choice { variant, shape }) = &space.entrants[entrant] else {
            return 15.0 + bytes / 190_000.0;
        };
        let (hops, sent) = match variant.name.as_str() {
            "one_shot_push" | "signal_one_shot" | "low_latency" => (1.0, 7.0),
            "two_shot_push" => (2.0, 1.75),
            name if name.contains("ring") => (14.0, 1.75),
            _ => (3.0, 1.85),
        };
        // Each variant, policy and class has a habit of its own.
        let name = number(&variant.name);
        let habit = 1.0 + 0.3 * chance(self.seed ^ name);
        let policy = 1.0 + 0.06 * chance(self.seed ^ name ^ (2 + shape.sync.map_or(0, |sync| sync as u64)));
        let class =
            if space.classes[case.0].dtypes == DTypeClass::Integer && variant.tried_on.is_some() { 2.0 } else { 1.0 };
        let (lanes, threads) = (shape.lanes.map_or(1, |lanes| lanes.most(case.1)), shape.threads.unwrap_or(1));
        let busy = f64::from(lanes * threads).min(bytes / PACK_BYTES as f64).max(1.0);
        let rate = 365_000.0 * busy / (busy + 600.0 + 1200.0 * chance(self.seed ^ name ^ 9));
        let chunks = shape.chunk.map_or(0.0, |chunk| (chunk.0 as f64 / 131_072.0).log2().abs() * 0.02);
        let stages = shape.stages.map_or(0.0, |stages| 0.03 / f64::from(stages));
        // What is direct leaves out a copy, and takes its time to begin.
        let (direct, late) = if shape.is_direct() { (0.85, 0.4) } else { (1.0, 0.0) };
        let start = late + 0.5 + 0.66 * hops + 0.004 * f64::from(lanes) + 0.001 * f64::from(threads);
        (start + bytes * sent * class * direct / rate) * habit * policy * (1.0 + chunks + stages)
    }

    /// Times of one round, as the log takes them.
    pub(crate) fn measure(&self, space: &Space, log: &mut Log, round: &Round) {
        for &entrant in &round.entrants {
            let truth = self.truth_us(space, round.case, entrant);
            let before = u64::from(log.count(round.case, entrant));
            let time = |repeat: u64| {
                let place =
                    (entrant as u64) << 40 ^ round.case.1 << 8 ^ (round.case.0 as u64) << 60 ^ (before + repeat);
                (truth * (1.0 + self.noise * chance(self.seed ^ place))) as f32
            };
            let times: Vec<_> = (0..u64::from(round.repeats)).map(time).collect();
            log.record(round.case, entrant, &times);
        }
    }

    /// Searches to the end, or through so many rounds. Returns the log and what the rounds would have taken, in seconds.
    pub(crate) fn search(&self, space: &Space, most: usize) -> (Log, f64) {
        let (mut log, mut spent_s) = (Log::default(), 0.0);
        for _ in 0..most.min(MOST_ROUNDS) {
            let Some(round) = next(space, &log) else { return (log, spent_s) };
            spent_s += self.cost_s(space, &log, &round);
            self.measure(space, &mut log, &round);
        }
        assert!(most < MOST_ROUNDS, "the search does not end");
        (log, spent_s)
    }

    /// What a round takes on a machine: verification with its fills and checks, captures, barriers of the hosts, and the operations.
    pub(crate) fn cost_s(&self, space: &Space, log: &Log, round: &Round) -> f64 {
        let most = if round.case.1 > 16 << 20 { 1.0 } else { 4.0 };
        let graph = if round.case.1 > 1 << 20 { most } else { 20.0 };
        let one = |&entrant: &usize| {
            let operation = self.truth_us(space, round.case, entrant) * 1e-6;
            let fills = round.case.1 as f64 / 4e11;
            let is_new = log.count(round.case, entrant) == 0;
            let verify = if is_new { 3e-3 + 2.0 * graph * (operation + fills + 10e-6) } else { 0.0 };
            verify + 1e-3 + f64::from(round.repeats + 1) * (0.4e-3 + (graph + 1.0) * operation)
        };
        round.entrants.iter().map(one).sum()
    }
}

/// What is searched on a machine of eight GPUs, in plain buffers.
pub(crate) fn space(sizes: Vec<u64>, dtypes: &[DType], names: &[&str], exhaustive: bool) -> Space {
    space_in(&[Buffers::Plain], sizes, dtypes, names, exhaustive)
}

/// The same in any buffers.
pub(crate) fn space_in(
    buffers: &[Buffers],
    sizes: Vec<u64>,
    dtypes: &[DType],
    names: &[&str],
    exhaustive: bool,
) -> Space {
    let ranks = WorldSize::new(8).unwrap();
    let ground = Ground {
        device: DeviceKind::Cuda,
        arch: "sm_90a".into(),
        ranks,
        shared: false,
        footprint: None,
        multiprocessors: Some(132),
    };
    let of = |&buffers: &Buffers| {
        dtypes.iter().map(move |&dtype| Class { dtypes: DTypeClass::of(dtype, true), dtype, buffers })
    };
    let classes = buffers.iter().flat_map(of).collect();
    let names: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
    let effort = Effort { first: 3, last: 20, keep: 8, exhaustive };
    let values = Values::of(DeviceKind::Cuda);
    Space::new(ground, &names, &values, classes, sizes, &[Baseline::Nccl], effort).unwrap()
}

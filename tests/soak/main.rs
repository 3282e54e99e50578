//! Many operations of every collective and kind in a row, verified on the device: what only shows once in many thousands.
//!
//! The host waits every few hundred operations only. Kernels write every input and check every result, replayed ones too.
//! `MYELON_SOAK_OPERATIONS` says how many, `MYELON_SOAK_SEED` which, `MYELON_SOAK_BYTES` how large at most; on GPUs
//! `MYELON_TEST_DEVICE=cuda cargo test --release --test soak -- --nocapture`. `MYELON_SOAK_JSON` names a file for the counts,
//! `MYELON_TEST_RANKS` the ranks.

#[path = "../support/mod.rs"]
mod support;

mod draw;
mod rig;

use std::time::{Duration, Instant};

use myelon_ccl::device::{DeviceKind, cuda};
use myelon_ccl::measure::Provenance;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::{Communicator, Error, Options, Rank};
use serde::Serialize;

use draw::Draw;
use rig::Rig;
use support::group::{self, Group};
use support::{asked_ranks, child, device_kind, devices, on_devices, small_limits};

/// How long rank 0 says nothing.
const SILENCE: Duration = Duration::from_secs(5);

/// What is run, the same on all ranks.
#[derive(Clone, Debug)]
struct Soak {
    ranks: u32,
    operations: u64,
    draw: Draw,
    limits: HeapLimits,
}

impl Soak {
    /// As the environment says, on as many ranks as it says.
    fn from_env() -> Self {
        let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
        let on_gpus = device_kind() == DeviceKind::Cuda;
        let gpus = if on_gpus { cuda::device_count().unwrap() } else { 0 };
        let ranks = asked_ranks().unwrap_or(if on_gpus { gpus.clamp(2, 8) } else { 3 });
        // Ranks that share a GPU share its CTAs, and the queue of its launches: one may not fill it before the other comes.
        let sharers = if on_gpus { ranks.div_ceil(gpus) } else { 1 };
        let limits = HeapLimits {
            lanes: 32 / sharers,
            sentinel_bytes: 2 << 20,
            ll_bytes: 1 << 20,
            staging_bytes: 16 << 10,
            slot_bytes: 16 << 10,
            ring_slots: 16,
            copy_bytes: 16 << 10,
            copies: 256 / sharers,
        };
        let limits = if on_gpus { limits } else { small_limits() };
        let draw = Draw {
            seed: number("MYELON_SOAK_SEED").unwrap_or(1),
            most_bytes: number("MYELON_SOAK_BYTES").unwrap_or(if on_gpus { 1 << 20 } else { 16 << 10 }),
            kernels: if on_gpus { 150 } else { 28 },
            pairs: if on_gpus { 18 } else { 4 },
            lanes: limits.lanes,
            slot_bytes: limits.slot_bytes,
            stretch: if sharers > 1 { 32 } else { 400 },
        };
        let operations = number("MYELON_SOAK_OPERATIONS").unwrap_or(if on_gpus { 1_000_000 } else { 5000 });
        Self { ranks, operations, draw, limits }
    }

    fn options(&self) -> Options {
        Options { limits: Some(self.limits), ..support::options() }
    }

    /// One rank's part, to the end or to the first failure.
    fn run(&self, communicator: Communicator) -> Outcome {
        let rank = communicator.rank();
        let start = Instant::now();
        let cases = self.draw.cases(&communicator);
        let rig = Rig::new(communicator, &cases, &self.draw);
        let mut outcome = Outcome { kernels: cases.len(), ..Outcome::default() };
        let mut told = Instant::now();
        for index in 0.. {
            if outcome.operations >= self.operations || outcome.failure.is_some() {
                break;
            }
            let stretch = self.draw.stretch(&cases, index);
            let operations = stretch.operations().count() as u64;
            match rig.run(&stretch, index) {
                Ok(0) => {}
                Ok(wrong) => {
                    outcome.wrong = wrong;
                    let found = rig.find_wrong(&stretch, index);
                    outcome.fail(operations, &format!("{wrong} elements are wrong on all ranks together: {found}"));
                }
                Err(error) => {
                    outcome.stalls = u64::from(matches!(error, Error::Stalled { .. }));
                    outcome.fail(operations, &error.to_string());
                }
            }
            outcome.operations += operations;
            if rank == Rank(0) && told.elapsed() > SILENCE {
                told = Instant::now();
                let rate = outcome.operations as f64 / start.elapsed().as_secs_f64();
                println!("soak: {} of {} operations, {rate:.0} a second", outcome.operations, self.operations);
            }
        }
        Outcome { seconds: start.elapsed().as_secs_f64(), ..outcome }
    }
}

/// What a rank has done and seen. `wrong` is of all ranks.
#[derive(Clone, Debug, Default)]
struct Outcome {
    operations: u64,
    kernels: usize,
    wrong: u64,
    stalls: u64,
    seconds: f64,
    failure: Option<String>,
}

impl Outcome {
    /// What went wrong in the next so many operations.
    fn fail(&mut self, operations: u64, what: &str) {
        let first = self.operations;
        self.failure = Some(format!("operations {first} to {}: {what}", first + operations - 1));
    }
}

#[derive(Serialize)]
struct Report {
    provenance: Provenance,
    ranks: u32,
    seed: u64,
    operations: u64,
    kernels: usize,
    most_bytes: u64,
    wrong: u64,
    stalls: u64,
    seconds: f64,
}

/// Says how it ended, and fails if it ended badly on any rank.
fn conclude(soak: &Soak, outcomes: &[Outcome], provenance: impl FnOnce() -> Provenance) {
    let Outcome { operations, kernels, seconds, .. } = outcomes[0];
    let wrong = outcomes.iter().map(|outcome| outcome.wrong).max().unwrap_or(0);
    let stalls = outcomes.iter().map(|outcome| outcome.stalls).max().unwrap_or(0);
    let (ranks, seed) = (soak.ranks, soak.draw.seed);
    println!(
        "soak: {operations} operations on {ranks} ranks, {wrong} wrong, {stalls} stalls, seed {seed}, {seconds:.1} s"
    );
    if let Ok(file) = std::env::var("MYELON_SOAK_JSON") {
        let most_bytes = soak.draw.most_bytes;
        let provenance = provenance();
        let report = Report { provenance, ranks, seed, operations, kernels, most_bytes, wrong, stalls, seconds };
        std::fs::write(file, serde_json::to_string_pretty(&report).unwrap() + "\n").unwrap();
    }
    let failed = (0..).zip(outcomes).filter_map(|(rank, outcome): (u32, _)| Some((rank, outcome.failure.as_ref()?)));
    let failures: Vec<_> = failed.map(|(rank, failure)| format!("rank {rank}: {failure}")).collect();
    assert!(failures.is_empty(), "{soak:?}\n{}", failures.join("\n"));
}

#[test]
fn ranks_as_threads() {
    let soak = Soak::from_env();
    let devices = devices(soak.ranks);
    let outcomes = on_devices(&devices, &soak.options(), |communicator| soak.run(communicator));
    conclude(&soak, &outcomes, || support::provenance(&devices[0]));
}

#[test]
fn ranks_as_processes() {
    let group = Group::new(Soak::from_env().ranks);
    let ranks: Vec<_> = group.ranks().map(|rank| group.command(rank, "rank_of_a_group")).collect();
    let ends = ranks.into_iter().map(|command| std::thread::spawn(|| child::run(command, Duration::from_secs(500))));
    for (rank, end) in ends.collect::<Vec<_>>().into_iter().enumerate() {
        let outcome = end.join().unwrap();
        assert!(outcome.passed(), "rank {rank}: {outcome}");
    }
}

/// A rank of the test above, in a process of its own. A tenth of the operations: what differs is how memory is mapped.
#[test]
fn rank_of_a_group() {
    let mut soak = Soak::from_env();
    soak.operations /= 10;
    if let Some(communicator) = group::join(soak.options()) {
        let outcome = soak.run(communicator);
        assert!(outcome.failure.is_none(), "{}", outcome.failure.unwrap_or_default());
    }
}

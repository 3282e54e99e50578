//! Every variant against the reference model, bit for bit.

mod support;

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::variant::{Choice, Manifest, Request, VariantSpec};
use myelon_ccl::{Communicator, DType, ReduceOp};

use support::group::{self, Group};
use support::{Bench, Operation, Random, asked_ranks, child, on_ranks, options, shape, skew};

/// Most bytes of a message in these tests: several pieces of everything under `support::small_limits`.
const MOST_BYTES: u64 = 40 << 10;

fn variants() -> Vec<Arc<VariantSpec>> {
    Manifest::embedded().enabled().cloned().collect()
}

/// Every operator of one type, and of every other type one operator, another one for each; all pairs with
/// MYELON_TEST_FULL=1. Each pair costs a compilation of each variant.
fn pairs() -> Vec<(DType, ReduceOp)> {
    let full = std::env::var("MYELON_TEST_FULL").is_ok_and(|value| value == "1");
    let mut pairs = Vec::new();
    for (place, &dtype) in DType::ALL.iter().enumerate() {
        for (index, &op) in ReduceOp::ALL.iter().enumerate() {
            if full || dtype == DType::F32 || index == place % ReduceOp::ALL.len() {
                pairs.push((dtype, op));
            }
        }
    }
    pairs
}

/// A count around the edges that matter: 0, 1, packs, threads, pieces, and anything.
fn count(random: &mut Random, dtype: DType) -> u64 {
    let most = MOST_BYTES / dtype.size_bytes() as u64;
    let edge = 1u64 << random.below(13);
    match random.below(4) {
        0 => random.below(8),
        1 => (edge - 1 + random.below(3)).min(most),
        2 => random.below(most / 8),
        _ => random.below(most),
    }
}

/// One communicator, many operations of every kind: kernels that are right at one size can be wrong in sequence.
fn sequence(communicator: Communicator, operations: u64, seed: u64) {
    let rank = communicator.rank();
    let bench = Bench::new(communicator, MOST_BYTES);
    let (variants, pairs) = (variants(), pairs());
    let mut random = Random(seed);
    let mut own = Random(seed ^ u64::from(rank.0));
    for _ in 0..operations {
        let variant = random.pick(&variants);
        let (dtype, op) = *random.pick(&pairs);
        let request = Request { count: count(&mut random, dtype), dtype, op };
        let shape = shape(&mut random, variant, dtype);
        let (in_place, seed) = (random.below(2) == 0, random.next());
        if variant.supports(dtype, op).is_err() {
            continue;
        }
        let choice = Choice { variant: Arc::clone(variant), shape };
        let stream = own.below(2) as usize;
        bench.run(&Operation { choice, request, in_place, seed }, skew(&mut own, rank), stream);
    }
}

#[test]
fn two_thousand_operations_in_sequence() {
    on_ranks(asked_ranks().unwrap_or(3), &options(), |communicator| sequence(communicator, 2000, 1));
}

#[test]
fn sequence_on_every_world_size() {
    for ranks in asked_ranks().map_or(1..=8, |ranks| ranks..=ranks) {
        on_ranks(ranks, &options(), |communicator| sequence(communicator, 60, u64::from(ranks) + 100));
    }
}

#[test]
fn sequence_over_processes() {
    let group = Group::new(asked_ranks().unwrap_or(3));
    let ranks: Vec<_> = group.ranks().map(|rank| group.command(rank, "rank_of_a_sequence")).collect();
    let ends = ranks.into_iter().map(|command| std::thread::spawn(|| child::run(command, Duration::from_secs(240))));
    for (rank, end) in ends.collect::<Vec<_>>().into_iter().enumerate() {
        let outcome = end.join().unwrap();
        assert!(outcome.passed(), "rank {rank}: {outcome}");
    }
}

/// A rank of the test above, in a process of its own.
#[test]
fn rank_of_a_sequence() {
    if let Some(communicator) = group::join(options()) {
        sequence(communicator, 200, 9);
    }
}

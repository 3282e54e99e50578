//! Every variant against the reference model, bit for bit.

mod support;

use std::sync::Arc;

use myelon_ccl::variant::{Choice, Manifest, Request, VariantSpec};
use myelon_ccl::{DType, ReduceOp};

use support::{Bench, Operation, Random, on_ranks, options, skew};

/// Most bytes of a message in these tests: several pieces of everything under `support::small_limits`.
const MOST_BYTES: u64 = 40 << 10;

fn variants() -> Vec<Arc<VariantSpec>> {
    Manifest::embedded().enabled().cloned().collect()
}

/// Type and operator pairs that between them show every type and every operator; all pairs with MYELON_TEST_FULL=1.
fn pairs() -> Vec<(DType, ReduceOp)> {
    let full = std::env::var("MYELON_TEST_FULL").is_ok_and(|value| value == "1");
    let all = DType::ALL.iter().flat_map(|&dtype| ReduceOp::ALL.iter().map(move |&op| (dtype, op)));
    all.enumerate().filter(|(index, _)| full || index % 6 == 0 || *index < 5).map(|(_, pair)| pair).collect()
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
fn sequence(ranks: u32, operations: u64, seed: u64) {
    on_ranks(ranks, &options(), |communicator| {
        let rank = communicator.rank();
        let bench = Bench::new(communicator, MOST_BYTES);
        let (variants, pairs) = (variants(), pairs());
        let mut random = Random(seed);
        let mut own = Random(seed ^ u64::from(rank.0));
        for _ in 0..operations {
            let variant = random.pick(&variants);
            let (dtype, op) = *random.pick(&pairs);
            let request = Request { count: count(&mut random, dtype), dtype, op };
            let lanes = Some(1 + random.below(4) as u32);
            let (in_place, seed) = (random.below(2) == 0, random.next());
            if variant.supports(dtype, op).is_err() {
                continue;
            }
            let choice = Choice { lanes, ..Choice::of(variant) };
            let stream = own.below(2) as usize;
            bench.run(&Operation { choice, request, in_place, seed }, skew(&mut own, rank), stream);
        }
    });
}

#[test]
fn two_thousand_operations_in_sequence() {
    sequence(3, 2000, 1);
}

#[test]
fn sequence_on_every_world_size() {
    for ranks in 1..=8 {
        sequence(ranks, 60, u64::from(ranks) + 100);
    }
}

//! Every variant against the reference model, bit for bit.

#[path = "../support/mod.rs"]
mod support;

mod batches;

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::memory::HeapLimits;
use myelon_ccl::variant::{Choice, LARGE_BYTES, Lanes, Manifest, Request, Shape, VariantSpec, dtype_runs_on};
use myelon_ccl::{Communicator, DType, Options, Output, ReduceOp, WorldSize};

use support::group::{self, Group};
use support::{
    Bench, Operation, Random, asked_ranks, child, expect_equal_on_all_ranks, on_ranks, options, shape, skew,
    small_limits, variants_of_all,
};

/// Most bytes of a message in these tests: several pieces of everything under `support::small_limits`.
const MOST_BYTES: u64 = 40 << 10;

/// Every operator of one type, and of every other type that the device has one operator, another one for each; all pairs with
/// MYELON_TEST_FULL=1. Each pair costs a compilation of each variant.
fn pairs() -> Vec<(DType, ReduceOp)> {
    let full = std::env::var("MYELON_TEST_FULL").is_ok_and(|value| value == "1");
    let mut pairs = Vec::new();
    let arch = support::arch();
    for (place, &dtype) in DType::ALL.iter().enumerate() {
        if dtype_runs_on(dtype, &arch).is_err() {
            continue;
        }
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

/// Some of the pairs, others for each world size: a kernel is compiled for its world size.
fn pairs_for(ranks: u32) -> Vec<(DType, ReduceOp)> {
    let own = |&(place, _): &(usize, _)| place as u32 % 4 == ranks % 4;
    pairs().into_iter().enumerate().filter(own).map(|(_, pair)| pair).collect()
}

/// Operations of every kind, which follow from `seed`.
fn drawn(pairs: &[(DType, ReduceOp)], ranks: u32, operations: u64, seed: u64) -> Vec<Operation> {
    let world = WorldSize::new(ranks).unwrap();
    let variants = variants_of_all();
    let mut random = Random(seed);
    let mut drawn = Vec::new();
    for _ in 0..operations {
        let variant = random.pick(&variants);
        let (dtype, op) = *random.pick(pairs);
        let request = Request { count: count(&mut random, dtype), dtype, op, registered: false };
        let shape = shape(&mut random, variant, &request);
        let (in_place, seed) = (random.below(2) == 0, random.next());
        if variant.supports(dtype, op, world).is_ok() {
            drawn.push(Operation { choice: Choice { variant: Arc::clone(variant), shape }, request, in_place, seed });
        }
    }
    drawn
}

/// One communicator, many operations: kernels that are right at one size can be wrong in sequence.
fn sequence(bench: &Bench, operations: &[Operation], seed: u64) -> Vec<u64> {
    let rank = bench.communicator.rank();
    let mut own = Random(seed ^ u64::from(rank.0));
    let mut run = |operation| {
        let stream = own.below(2) as usize;
        bench.run(operation, skew(&mut own, rank), stream)
    };
    operations.iter().map(&mut run).collect()
}

#[test]
fn two_thousand_operations_in_sequence() {
    let ranks = asked_ranks().unwrap_or(3);
    let operations = drawn(&pairs(), ranks, 2000, 1);
    let hashes = on_ranks(ranks, &options(), |communicator| {
        let bench = Bench::new(communicator, MOST_BYTES);
        bench.prepare(&operations);
        sequence(&bench, &operations, 1)
    });
    expect_equal_on_all_ranks(&hashes);
}

#[test]
fn sequence_on_every_world_size() {
    for ranks in asked_ranks().map_or(1..=8, |ranks| ranks..=ranks) {
        let seed = u64::from(ranks) + 100;
        let operations = drawn(&pairs_for(ranks), ranks, 30, seed);
        let hashes = on_ranks(ranks, &options(), |communicator| {
            sequence(&Bench::new(communicator, MOST_BYTES), &operations, seed)
        });
        expect_equal_on_all_ranks(&hashes);
    }
}

#[test]
fn no_operation_has_more_lanes_than_the_option_says() {
    let options = Options { max_lanes: Some(2), ..options() };
    on_ranks(asked_ranks().unwrap_or(2), &options, |communicator| {
        let bench = Bench::new(communicator, MOST_BYTES);
        for variant in variants_of_all() {
            assert_eq!(lanes_of_few_threads(&bench.communicator, &variant), 2, "{}", variant.name);
            let choice = Choice::of(&variant);
            assert!(bench.communicator.plan(&choice, &floats()).unwrap().lanes <= 2, "{choice}");
            bench.run(&Operation { choice, request: floats(), in_place: false, seed: 7 }, 0, 0);
        }
    });
}

#[test]
fn large_messages_alone_have_no_more_lanes_than_their_option_says() {
    let options = Options { large_lanes: Some(2), ..options() };
    on_ranks(asked_ranks().unwrap_or(2), &options, |communicator| {
        let bench = Bench::new(communicator, LARGE_BYTES);
        for name in ["ring", "ring_specialized", "ring_with_copies", "two_shot_push"] {
            let choice = Choice::of(Manifest::embedded().get(name).unwrap());
            let large = Request { count: LARGE_BYTES / 4, ..floats() };
            let small = Request { count: large.count - 1, ..floats() };
            let [few, many] = [large, small].map(|request| bench.communicator.plan(&choice, &request).unwrap().lanes);
            assert!(few == 2 && many > 2, "{name}: {few} and {many} lanes");
            bench.run(&Operation { choice, request: large, in_place: false, seed: 7 }, 0, 0);
        }
    });
}

/// Lanes of a piece that has work for several of them, as lanes of many threads would not let it have.
fn lanes_of_few_threads(communicator: &Communicator, variant: &Arc<VariantSpec>) -> u32 {
    let shape = Shape { threads: Some(64), ..Shape::default() };
    communicator.plan(&Choice { shape, ..Choice::of(variant) }, &floats()).unwrap().lanes
}

fn floats() -> Request {
    Request { count: MOST_BYTES / 4, dtype: DType::F32, op: ReduceOp::Sum, registered: false }
}

/// Counts that the grid does not divide, for a plan of `lanes` lanes, `threads` threads and pieces of `piece` elements: about
/// none, one and several rounds of the grid, with a partial pack, fewer packs than threads, and a last piece of next to nothing
/// for all lanes.
fn uneven(lanes: u64, threads: u64, piece: u64, per_pack: u64) -> Vec<u64> {
    let grid = lanes * threads * per_pack;
    let mut counts: Vec<_> =
        (1..=3).flat_map(|rounds| [rounds * grid - 1, rounds * grid + 1, rounds * grid + per_pack + 1]).collect();
    counts.extend([1, lanes * per_pack - 1, lanes * per_pack + 1, (lanes + 1) * threads * per_pack + threads - 1]);
    counts.extend([piece.saturating_add(1), piece.saturating_add((lanes - 1) * per_pack)]);
    counts
}

/// Any count on any grid. Cells with room for several pieces of a stage.
#[test]
fn counts_that_the_grid_does_not_divide() {
    let limits =
        HeapLimits { lanes: 8, sentinel_bytes: 8192, staging_bytes: 12288, slot_bytes: 2560, ..small_limits() };
    let options = Options { limits: Some(limits), ..options() };
    on_ranks(asked_ranks().unwrap_or(3), &options, |communicator| {
        let rank = communicator.rank();
        let most = 64 << 10;
        let bench = Bench::new(communicator, most);
        let mut own = Random(u64::from(rank.0));
        for variant in variants_of_all() {
            for (lanes, dtype) in (1..=7).zip([DType::F32, DType::I32, DType::Bf16].into_iter().cycle()) {
                let op = ReduceOp::Sum;
                let per_pack = 16 / dtype.size_bytes() as u64;
                // Two warps, besides the default: the fewest that variants with producer warps run with.
                let threads = (lanes % 2 == 0).then_some(64);
                let output = [Output::Landing, Output::Direct, Output::Staged][lanes as usize % 3];
                let output = Some(output).filter(|&output| variant.parameters.has_output(output));
                let shape = Shape { lanes: Some(Lanes::UpTo(lanes)), threads, output, ..Shape::default() };
                let choice = Choice { variant: Arc::clone(&variant), shape };
                let request = |count| Request { count, dtype, op, registered: shape.is_direct() };
                let plan = |count| bench.communicator.plan(&choice, &request(count)).unwrap();
                let whole = plan(most / dtype.size_bytes() as u64);
                let shapes = [plan(1).kernel.threads, whole.kernel.threads];
                let mut counts: Vec<_> = shapes
                    .iter()
                    .flat_map(|&threads| uneven(u64::from(lanes), u64::from(threads), whole.piece_elements, per_pack))
                    .filter(|count| *count <= most / dtype.size_bytes() as u64)
                    .collect();
                counts.sort_unstable();
                counts.dedup();
                for count in counts {
                    let operation = Operation {
                        choice: choice.clone(),
                        request: request(count),
                        in_place: count % 2 == 0,
                        seed: count,
                    };
                    bench.run(&operation, skew(&mut own, rank), 0);
                }
            }
        }
    });
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
        let ranks = communicator.world_size().get();
        sequence(&Bench::shared(communicator, MOST_BYTES), &drawn(&pairs_for(ranks), ranks, 200, 9), 9);
    }
}

//! Every variant against the reference model, bit for bit.

mod support;

use std::sync::Arc;
use std::time::Duration;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Event, Stream};
use myelon_ccl::memory::{HeapLimits, Window};
use myelon_ccl::variant::{Choice, Lanes, Manifest, Request, Shape, VariantSpec, dtype_runs_on};
use myelon_ccl::{self as ccl, Communicator, DType, Options, Output, ReduceOp};

use support::group::{self, Group};
use support::{
    Bench, Operation, Random, asked_ranks, child, expect_equal_on_all_ranks, on_ranks, options, shape, skew,
    small_limits, variants, variants_of_all,
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
fn drawn(pairs: &[(DType, ReduceOp)], operations: u64, seed: u64) -> Vec<Operation> {
    let variants = variants_of_all();
    let mut random = Random(seed);
    let mut drawn = Vec::new();
    for _ in 0..operations {
        let variant = random.pick(&variants);
        let (dtype, op) = *random.pick(pairs);
        let request = Request { count: count(&mut random, dtype), dtype, op, registered: false };
        let shape = shape(&mut random, variant, &request);
        let (in_place, seed) = (random.below(2) == 0, random.next());
        if variant.supports(dtype, op).is_ok() {
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
    let operations = drawn(&pairs(), 2000, 1);
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
        let operations = drawn(&pairs_for(ranks), 30, seed);
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
fn rings_alone_have_no_more_lanes_than_their_option_says() {
    let options = Options { ring_lanes: Some(2), ..options() };
    on_ranks(asked_ranks().unwrap_or(2), &options, |communicator| {
        let bench = Bench::new(communicator, MOST_BYTES);
        for (name, is_ring) in
            [("ring", true), ("ring_specialized", true), ("ring_with_copies", true), ("two_shot_push", false)]
        {
            let variant = Manifest::embedded().get(name).unwrap();
            let lanes = lanes_of_few_threads(&bench.communicator, variant);
            assert!(if is_ring { lanes == 2 } else { lanes > 2 }, "{name}: {lanes} lanes");
            let choice = Choice::of(variant);
            bench.run(&Operation { choice, request: floats(), in_place: false, seed: 7 }, 0, 0);
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
        let pairs = pairs_for(communicator.world_size().get());
        sequence(&Bench::shared(communicator, MOST_BYTES), &drawn(&pairs, 200, 9), 9);
    }
}

/// Bytes that each operation of a batch has for itself in a [`Batches`].
const SLOT: u64 = 8 << 10;
/// Operations of a batch at most.
const MOST_OPERATIONS: u64 = 5;

/// Operands of batches, and what they hold after one.
struct Batches {
    communicator: Communicator,
    /// Of all of `output`.
    window: Window,
    input: Buffer,
    output: Buffer,
    streams: [Stream; 2],
}

impl Batches {
    fn new(communicator: Communicator) -> Self {
        let device = communicator.device();
        let buffer = || Buffer::new(device, MOST_OPERATIONS * SLOT).unwrap();
        let streams = [(); 2].map(|()| Stream::new(device).unwrap());
        let (input, output) = (buffer(), buffer());
        // SAFETY: the communicator is dropped first, with every operation, then the window, then the buffer.
        let window = unsafe { communicator.register(output.address(), output.bytes()).unwrap() };
        Self { communicator, window, input, output, streams }
    }

    /// Operations whose operands are apart, in place, or the result of the operation before.
    fn draw(&self, random: &mut Random) -> Vec<ccl::Operation<'_>> {
        let pairs = [(DType::F32, ReduceOp::Sum), (DType::I32, ReduceOp::Max), (DType::Bf16, ReduceOp::Sum)];
        let at = |buffer: &Buffer, place: u64| buffer.address().offset(place * SLOT);
        let most = 1 + random.below(MOST_OPERATIONS);
        let draw = |place| {
            let (dtype, op) = *random.pick(&pairs);
            let count = random.below(SLOT / dtype.size_bytes() as u64 + 1) * random.below(5).min(1);
            let output = at(&self.output, place);
            let input = match random.below(3) {
                0 => at(&self.input, place),
                1 => output,
                _ => at(&self.output, place.saturating_sub(1)),
            };
            let window = Some(&self.window).filter(|_| random.below(2) == 0);
            ccl::Operation { input, output, count, dtype, op, window }
        };
        (0..most).map(draw).collect()
    }

    /// Both operands' bytes after `work`, which began with the data of `seed`.
    fn after(&self, seed: u64, stream: &Stream, work: impl FnOnce()) -> [Vec<u8>; 2] {
        let mut random = Random(seed);
        let buffers = [&self.input, &self.output];
        for buffer in buffers {
            let data: Vec<u8> = (0..buffer.bytes() / 8).flat_map(|_| random.next().to_ne_bytes()).collect();
            buffer.upload(&data, stream).unwrap();
        }
        stream.synchronize().unwrap();
        work();
        buffers.map(|buffer| {
            let mut data = vec![0; buffer.bytes() as usize];
            buffer.download(&mut data, stream).unwrap();
            data
        })
    }
}

#[test]
fn a_batch_does_what_single_calls_do() {
    on_ranks(asked_ranks().unwrap_or(3), &options(), |communicator| {
        let batches = Batches::new(communicator);
        let Batches { streams, communicator, .. } = &batches;
        let mut random = Random(5);
        for turn in 0..40 {
            let operations = batches.draw(&mut random);
            let variant = Arc::clone(random.pick(&variants()));
            let choice = Some(Choice::of(&variant)).filter(|_| turn % 2 == 0);
            let seed = random.next() + u64::from(communicator.rank().0);
            let stream = &streams[turn % 3 / 2];
            let singly = batches.after(seed, stream, || {
                for operation in &operations {
                    // SAFETY: each operand lies in a buffer that outlives the synchronisation.
                    unsafe {
                        match &choice {
                            Some(choice) => communicator.all_reduce_as(choice, operation, stream.handle()),
                            None => communicator.all_reduce_operation(operation, stream.handle()),
                        }
                    }
                    .unwrap();
                }
                communicator.synchronize(stream.handle()).unwrap();
            });
            let together = batches.after(seed, stream, || {
                // SAFETY: as above.
                unsafe {
                    match &choice {
                        Some(choice) => communicator.all_reduce_batch_as(choice, &operations, stream.handle()),
                        None => communicator.all_reduce_batch(&operations, stream.handle()),
                    }
                }
                .unwrap();
                communicator.synchronize(stream.handle()).unwrap();
            });
            assert!(singly == together, "turn {turn}: {choice:?} {operations:?}");
        }
    });
}

/// One batch after the other on two streams, without a wait by the host: each reads what the one before wrote.
#[test]
fn batches_on_two_streams_are_one_sequence_and_can_be_captured() {
    let ranks = asked_ranks().unwrap_or(2);
    let options = Options { prepare: vec![(DType::I32, ReduceOp::Sum)], ..options() };
    on_ranks(ranks, &options, |communicator| {
        let batches = Batches::new(communicator);
        let Batches { streams, communicator, output, .. } = &batches;
        let at = output.address();
        let request = Request { count: 700, dtype: DType::I32, op: ReduceOp::Sum, registered: false };
        let sum = |input, output| ccl::Operation::of(&request, input, output);
        let [there, back] = [sum(at, at.offset(SLOT)), sum(at.offset(SLOT), at)];
        output.upload(&1i32.to_ne_bytes().repeat(output.bytes() as usize / 4), &streams[0]).unwrap();
        let first = || {
            let mut word = [0; 4];
            output.download(&mut word, &streams[1]).unwrap();
            i32::from_ne_bytes(word)
        };
        for stream in [0, 1, 1, 0] {
            // SAFETY: the buffer outlives the synchronisation below.
            unsafe { communicator.all_reduce_batch(&[there, back], streams[stream].handle()).unwrap() };
        }
        communicator.synchronize(streams[0].handle()).unwrap();
        let factor = communicator.world_size().get() as i32;
        assert_eq!(first(), factor.pow(8));

        let stream = &streams[0];
        // SAFETY: as above.
        let twice = || unsafe { communicator.all_reduce_batch(&[there, back], stream.handle()) };
        let graph = stream.capture(twice).unwrap();
        graph.launch(stream).unwrap();
        communicator.synchronize(stream.handle()).unwrap();
        assert_eq!(first(), factor.pow(10));
        let unprepared = ccl::Operation { dtype: DType::U64, count: 3, ..there };
        // SAFETY: as above.
        let error = stream.capture(|| unsafe { communicator.all_reduce_batch(&[there, unprepared], stream.handle()) });
        assert!(error.unwrap_err().to_string().contains("call prepare before the capture"));
    });
}

/// A chain of operations that goes over to a second stream and back inside one capture, with no other edge between the two: each reads
/// what the one before wrote.
#[test]
fn operations_on_branches_of_one_capture_are_one_sequence() {
    let ranks = asked_ranks().unwrap_or(2);
    let options = Options { prepare: vec![(DType::I32, ReduceOp::Sum)], ..options() };
    on_ranks(ranks, &options, |communicator| {
        let batches = Batches::new(communicator);
        let Batches { streams: [main, side], communicator, output, .. } = &batches;
        let at = output.address();
        let request = Request { count: 700, dtype: DType::I32, op: ReduceOp::Sum, registered: false };
        let sum = |input, output| ccl::Operation::of(&request, input, output);
        let [there, back] = [sum(at, at.offset(SLOT)), sum(at.offset(SLOT), at)];
        let (forked, joined) = (Event::new(communicator.device()).unwrap(), Event::new(communicator.device()).unwrap());
        // SAFETY: the buffer outlives the replays, which are waited for.
        let issue =
            |operation, stream: &Stream| unsafe { communicator.all_reduce_operation(operation, stream.handle()) };
        output.upload(&1i32.to_ne_bytes().repeat(output.bytes() as usize / 4), main).unwrap();
        let graph = main.capture(|| {
            forked.record(main.handle())?;
            forked.hold(side.handle())?;
            for (operation, stream) in [(&there, main), (&back, side), (&there, main), (&back, side)] {
                issue(operation, stream)?;
            }
            joined.record(side.handle())?;
            joined.hold(main.handle())
        });
        let graph = graph.unwrap();
        let factor = communicator.world_size().get() as i32;
        for replay in 1..=2 {
            graph.launch(main).unwrap();
            communicator.synchronize(main.handle()).unwrap();
            let mut word = [0; 4];
            output.download(&mut word, main).unwrap();
            assert_eq!(i32::from_ne_bytes(word), factor.pow(4 * replay));
        }
    });
}

#[test]
fn a_wrong_operation_of_a_batch_is_named_and_loses_nothing() {
    on_ranks(asked_ranks().unwrap_or(2), &options(), |communicator| {
        let batches = Batches::new(communicator);
        let Batches { streams: [stream, _], communicator, input, output, window } = &batches;
        let (input, output) = (input.address(), output.address());
        let request = Request { count: 9, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let right = ccl::Operation::of(&request, input, output);
        // SAFETY: both buffers outlive the synchronisation, and wrong operations are not launched.
        let issue =
            |operations: &[ccl::Operation<'_>]| unsafe { communicator.all_reduce_batch(operations, stream.handle()) };
        let begun = batches.after(1, stream, || {});
        for (wrong, expected) in [
            (ccl::Operation { output: DevicePtr(output.0 + 2), ..right }, "aligned"),
            (ccl::Operation { input: DevicePtr(0), ..right }, "input is 0x0"),
            (ccl::Operation { output: DevicePtr(input.0 + 4), ..right }, "overlap"),
            (ccl::Operation { count: u64::MAX, ..right }, "exceed any memory"),
            (ccl::Operation { output: input, window: Some(window), ..right }, "do not lie in the window"),
            (
                ccl::Operation { input: output, count: MOST_OPERATIONS * SLOT / 4 + 1, window: Some(window), ..right },
                "lie in the window",
            ),
        ] {
            let ended = batches.after(1, stream, || {
                let message = issue(&[right, right, wrong]).unwrap_err().to_string();
                assert!(message.contains("operation 2 of a batch of 3: ") && message.contains(expected), "{message}");
                communicator.synchronize(stream.handle()).unwrap();
            });
            assert!(begun == ended, "{wrong:?} launched something");
        }
        let nothing = batches.after(1, stream, || {
            issue(&[]).unwrap();
            issue(&[ccl::Operation { count: 0, ..right }]).unwrap();
            communicator.synchronize(stream.handle()).unwrap();
        });
        assert!(begun == nothing);
        issue(&[right]).unwrap();
        communicator.synchronize(stream.handle()).unwrap();
    });
}

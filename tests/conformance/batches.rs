//! Several operations by one call, captured and on several streams.

use std::sync::Arc;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Event, Stream};
use myelon_ccl::memory::Window;
use myelon_ccl::variant::{Choice, Request};
use myelon_ccl::{self as ccl, Communicator, DType, Options, ReduceOp};

use crate::support::{Random, asked_ranks, on_ranks, options, variants};

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

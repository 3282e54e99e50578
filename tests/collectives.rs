//! Reduce-scatter, all-gather and broadcast by the functions that programs call: alone, beside all-reduces, in graphs, called wrongly.

mod support;

use std::sync::Arc;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::variant::{Choice, Lanes, Request, Shape, dtype_runs_on};
use myelon_ccl::{Call, Collective, Communicator, DType, Error, Rank, ReduceOp, Result};

use support::{Bench, Operation, Random, asked_ranks, on_ranks, options, skew, variants_of};

/// Elements of one rank's part: some, an odd number.
const COUNT: u64 = 501;
/// Most bytes of a message.
const MOST_BYTES: u64 = 64 << 10;

/// A communicator with operands for parts of [`COUNT`] 32-bit integers.
struct Rig {
    communicator: Communicator,
    stream: Stream,
    parts: Buffer,
    part: Buffer,
}

impl Rig {
    fn new(communicator: Communicator) -> Self {
        let device = communicator.device();
        let world = u64::from(communicator.world_size().get());
        let buffer = |elements: u64| Buffer::new(device, 4 * elements).unwrap();
        Self { stream: Stream::new(device).unwrap(), parts: buffer(world * COUNT), part: buffer(COUNT), communicator }
    }

    fn rank(&self) -> u32 {
        self.communicator.rank().0
    }

    fn world(&self) -> u32 {
        self.communicator.world_size().get()
    }

    fn write(&self, buffer: &Buffer, value: impl Fn(u64) -> u32) {
        let data: Vec<u8> = (0..buffer.bytes() / 4).flat_map(|index| value(index).to_ne_bytes()).collect();
        buffer.upload(&data, &self.stream).unwrap();
    }

    #[track_caller]
    fn expect(&self, buffer: &Buffer, value: impl Fn(u64) -> u32) {
        let mut data = vec![0; buffer.bytes() as usize];
        buffer.download(&mut data, &self.stream).unwrap();
        for (index, bytes) in data.chunks_exact(4).enumerate() {
            let seen = u32::from_ne_bytes(bytes.try_into().unwrap());
            assert_eq!(seen, value(index as u64), "rank {}: element {index}", self.rank());
        }
    }

    fn reduce_scatter(&self, input: DevicePtr, output: DevicePtr, op: ReduceOp) -> Result<()> {
        // SAFETY: the rig's buffers outlive its stream's work, or the call is refused.
        unsafe { self.communicator.reduce_scatter(input, output, COUNT, DType::U32, op, self.stream.handle()) }
    }

    fn all_gather(&self, input: DevicePtr, output: DevicePtr) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.communicator.all_gather(input, output, COUNT, DType::U32, self.stream.handle()) }
    }

    fn broadcast(&self, input: DevicePtr, output: DevicePtr, root: u32) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.communicator.broadcast(input, output, COUNT, DType::U32, Rank(root), self.stream.handle()) }
    }

    fn all_reduce(&self, data: DevicePtr) -> Result<()> {
        // SAFETY: as above.
        unsafe { self.communicator.all_reduce(data, data, COUNT, DType::U32, ReduceOp::Sum, self.stream.handle()) }
    }

    fn synchronize(&self) -> Result<()> {
        self.communicator.synchronize(self.stream.handle())
    }
}

/// What rank `rank` gives for element `index` of its input.
fn given(rank: u32, index: u64) -> u32 {
    (rank + 1) * 1_000_003 + index as u32
}

#[test]
fn each_does_what_its_name_says() {
    for ranks in asked_ranks().map_or(1..=8, |ranks| ranks..=ranks) {
        on_ranks(ranks, &options(), |communicator| {
            let rig = Rig::new(communicator);
            let (rank, ranks) = (rig.rank(), rig.world());
            let (parts, part) = (rig.parts.address(), rig.part.address());
            rig.write(&rig.parts, |index| given(rank, index));
            rig.reduce_scatter(parts, part, ReduceOp::Sum).unwrap();
            rig.synchronize().unwrap();
            let sum = |index| (0..ranks).fold(0u32, |sum, of| sum.wrapping_add(given(of, index)));
            rig.expect(&rig.part, |index| sum(u64::from(rank) * COUNT + index));
            rig.expect(&rig.parts, |index| given(rank, index));

            rig.all_gather(part, parts).unwrap();
            rig.synchronize().unwrap();
            rig.expect(&rig.parts, sum);

            for root in 0..ranks {
                rig.write(&rig.part, |index| given(rank, index));
                let input = if rank == root { part } else { DevicePtr(0) };
                rig.broadcast(input, parts, root).unwrap();
                rig.broadcast(input, part, root).unwrap();
                rig.synchronize().unwrap();
                rig.expect(&rig.part, |index| given(root, index));
                rig.expect(&rig.parts, |index| if index < COUNT { given(root, index) } else { sum(index) });
                rig.write(&rig.parts, sum);
            }
        });
    }
}

/// A reduce-scatter and an all-gather, both in place, are an all-reduce.
#[test]
fn the_two_halves_of_an_all_reduce() {
    on_ranks(asked_ranks().unwrap_or(4), &options(), |communicator| {
        let rig = Rig::new(communicator);
        let (rank, ranks) = (rig.rank(), rig.world());
        let parts = rig.parts.address();
        let own = parts.offset(4 * COUNT * u64::from(rank));
        for round in 0..5 {
            rig.write(&rig.parts, |index| given(rank + round, index));
            rig.reduce_scatter(parts, own, ReduceOp::Max).unwrap();
            rig.all_gather(own, parts).unwrap();
            rig.synchronize().unwrap();
            rig.expect(&rig.parts, |index| given(ranks - 1 + round, index));
        }
    });
}

/// The sum of three of them is more than f16 holds.
#[test]
fn averages_of_f16_do_not_overflow_on_their_way() {
    // 30000.
    const VALUE: u16 = 0x7753;
    on_ranks(4, &options(), |communicator| {
        let rig = Rig::new(communicator);
        let (world, stream) = (rig.communicator.world_size(), rig.stream.handle());
        for collective in [Collective::AllReduce, Collective::ReduceScatter] {
            let (dtype, op) = (DType::F16, ReduceOp::Avg);
            let is_one_part = collective == Collective::ReduceScatter;
            for variant in variants_of(collective).into_iter().filter(|it| it.supports(dtype, op, world).is_ok()) {
                rig.parts.upload(&VALUE.to_le_bytes().repeat(rig.parts.bytes() as usize / 2), &rig.stream).unwrap();
                let count = rig.parts.bytes() / 2 / if is_one_part { u64::from(rig.world()) } else { 1 };
                let input = rig.parts.address();
                let output = if is_one_part { rig.part.address() } else { input };
                let call = Call { collective, input, output, count, dtype, op, root: Rank(0) };
                // SAFETY: the rig's buffers hold so many elements and outlive its stream's work.
                unsafe { rig.communicator.call_as(&Choice::of(&variant), &call, stream) }.unwrap();
                rig.synchronize().unwrap();
                let mut seen = vec![0; 2 * count as usize];
                if is_one_part { &rig.part } else { &rig.parts }.download(&mut seen, &rig.stream).unwrap();
                assert!(seen.chunks_exact(2).all(|bytes| bytes == VALUE.to_le_bytes()), "{}", variant.name);
            }
        }
    });
}

/// Every type of each collective at sizes around what a step holds, each on one world size; on all with MYELON_TEST_FULL=1.
#[test]
fn every_type_on_every_world_size() {
    let arch = support::arch();
    let full = std::env::var("MYELON_TEST_FULL").is_ok_and(|value| value == "1");
    for ranks in asked_ranks().map_or(1..=8, |ranks| ranks..=ranks) {
        on_ranks(ranks, &options(), |communicator| {
            let (rank, world) = (communicator.rank(), communicator.world_size());
            let bench = Bench::new(communicator, MOST_BYTES + 64);
            let mut random = Random(u64::from(ranks) + 40);
            let mut own = Random(random.next() ^ u64::from(rank.0));
            let dtypes = DType::ALL.iter().filter(|&&dtype| dtype_runs_on(dtype, &arch).is_ok());
            let is_due = |&(place, _): &(usize, _)| full || place as u32 % 8 == ranks % 8;
            for (place, &dtype) in dtypes.enumerate().filter(is_due) {
                // What has an operator has one of them for each type and world size, in turn.
                let op = ReduceOp::ALL[(place + ranks as usize) % ReduceOp::ALL.len()];
                for collective in &Collective::ALL[1..] {
                    for variant in
                        variants_of(*collective).into_iter().filter(|it| it.supports(dtype, op, world).is_ok())
                    {
                        let most = MOST_BYTES / dtype.size_bytes() as u64;
                        for count in [0, u64::from(ranks), random.below(300), random.below(most), most] {
                            let request = Request { count, dtype, op, registered: false };
                            // Nothing that is compiled in: the conformance tests draw that.
                            let shape =
                                Shape { lanes: Some(Lanes::UpTo(1 + random.below(4) as u32)), ..Shape::default() };
                            let choice = Choice { variant: Arc::clone(&variant), shape };
                            let in_place = random.below(2) == 0;
                            let operation = Operation { choice, request, in_place, seed: random.next() };
                            bench.run(&operation, skew(&mut own, rank), own.below(2) as usize);
                        }
                    }
                }
            }
        });
    }
}

#[test]
fn collectives_and_all_reduces_are_one_sequence_that_can_be_captured() {
    on_ranks(asked_ranks().unwrap_or(3), &options(), |communicator| {
        let rig = Rig::new(communicator);
        let (rank, ranks) = (rig.rank(), rig.world());
        let (parts, part) = (rig.parts.address(), rig.part.address());
        let chain = || -> Result<()> {
            rig.all_gather(part, parts)?;
            rig.reduce_scatter(parts, part, ReduceOp::Sum)?;
            rig.all_reduce(part)?;
            rig.broadcast(part, part, 1 % ranks)
        };
        let message = rig.stream.capture(chain).unwrap_err().to_string();
        assert!(message.contains("call prepare before the capture"), "{message}");
        let pair = [(DType::U32, ReduceOp::Sum)];
        for &collective in Collective::ALL {
            rig.communicator.prepare_collective(collective, &pair).unwrap();
        }
        let graph = rig.stream.capture(chain).unwrap();
        for round in 0..6 {
            rig.write(&rig.part, |index| given(rank + round, index));
            // Eager operations between replays move the same counters on.
            if round % 2 == 0 {
                chain().unwrap()
            } else {
                graph.launch(&rig.stream).unwrap()
            }
            rig.synchronize().unwrap();
            // All ranks gather the same, so a part reduced is n times that part, and all parts together n times their sum.
            let all = |index| (0..ranks).fold(0u32, |sum, of| sum.wrapping_add(given(of + round, index)));
            rig.expect(&rig.part, |index| all(index).wrapping_mul(ranks));
        }
        drop(graph);
    });
}

#[test]
fn wrong_calls_are_named_and_lose_nothing() {
    on_ranks(asked_ranks().unwrap_or(2), &options(), |communicator| {
        let rig = Rig::new(communicator);
        let (rank, ranks) = (rig.rank(), rig.world());
        let (parts, part) = (rig.parts.address(), rig.part.address());
        let inside = parts.offset(4 * (COUNT * u64::from(rank) + 1));
        for (error, expected) in [
            (rig.reduce_scatter(parts, inside, ReduceOp::Sum), "overlap"),
            (rig.all_gather(inside, parts), "overlap"),
            (rig.broadcast(part, part, ranks), "counted from 0"),
            (rig.all_gather(part.offset(2), parts), "aligned"),
            (rig.broadcast(part, DevicePtr(0), 0), "output is 0x0"),
        ] {
            let error = error.unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)) && error.to_string().contains(expected), "{error}");
        }
        let foreign = Choice::of(&variants_of(Collective::AllReduce)[0]);
        let call = Call {
            collective: Collective::Broadcast,
            input: part,
            output: part,
            count: COUNT,
            dtype: DType::U32,
            op: ReduceOp::Sum,
            root: Rank(0),
        };
        let stream = rig.stream.handle();
        // SAFETY: the buffer holds the operand; the call is refused.
        let error = unsafe { rig.communicator.call_as(&foreign, &call, stream) }.unwrap_err();
        assert!(error.to_string().contains("and this is broadcast"), "{error}");
        let foreign = Choice::of(&variants_of(Collective::AllGather)[0]);
        let request = Request { count: COUNT, dtype: DType::U32, op: ReduceOp::Sum, registered: false };
        let operation = myelon_ccl::Operation::of(&request, part, part);
        // SAFETY: as above.
        let error = unsafe { rig.communicator.all_reduce_as(&foreign, &operation, stream) }.unwrap_err();
        assert!(error.to_string().contains("is one of all_gather, and this is all_reduce"), "{error}");

        // Of nothing, with nothing.
        let nothing = Call { count: 0, input: DevicePtr(0), output: DevicePtr(0), ..call };
        for &collective in Collective::ALL {
            // SAFETY: no element is touched.
            unsafe { rig.communicator.call(&Call { collective, ..nothing }, stream).unwrap() };
        }
        rig.write(&rig.part, |index| given(rank, index));
        // SAFETY: as above.
        unsafe { rig.communicator.call(&call, stream).unwrap() };
        rig.synchronize().unwrap();
        rig.expect(&rig.part, |index| given(0, index));
    });
}

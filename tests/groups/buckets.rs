//! Lists of buckets against the reference model, byte by byte, wherever they lie and however they are cut.

use std::sync::{Arc, Barrier};
use std::time::Duration;

use myelon_ccl::device::DevicePtr;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::variant::{Choice, Manifest, Request, VariantSpec};
use myelon_ccl::{Bucket, Communicator, DType, Error, Operation, Options, Rank, ReduceOp, Result};

use crate::support::{Random, on_ranks, options, reference, shape, skew, variants, with_own_devices};

/// Least bytes between buckets.
const GUARD: u64 = 32;
const GUARD_BYTE: u8 = 0xc3;

/// What all ranks reduce.
#[derive(Clone, Debug)]
struct List {
    dtype: DType,
    op: ReduceOp,
    /// Elements of each bucket, and whether it is reduced in place.
    buckets: Vec<(u64, bool)>,
    seed: u64,
}

impl List {
    fn draw(random: &mut Random, dtype: DType, op: ReduceOp, length: u64) -> Self {
        let bucket = |random: &mut Random| {
            let count = match random.below(8) {
                0 => 0,
                1..=5 => random.below(40),
                _ => random.below(1500),
            };
            (count, random.below(2) == 0)
        };
        let buckets = (0..length).map(|_| bucket(random)).collect();
        Self { dtype, op, buckets, seed: random.next() }
    }

    fn requests(&self) -> impl Iterator<Item = Request> {
        let request = |count| Request { count, dtype: self.dtype, op: self.op, registered: false };
        self.buckets.iter().map(move |&(count, _)| request(count))
    }
}

/// A rank with a list in its memory.
struct Loaded<'a> {
    communicator: &'a Communicator,
    stream: &'a Stream,
    list: &'a List,
    /// Of inputs and of outputs; what is no operand is guard.
    buffers: [Buffer; 2],
    offsets: Vec<u64>,
    bytes: u64,
}

impl<'a> Loaded<'a> {
    /// Buckets lie anywhere that their element can; `misaligned` draws where, each rank for itself.
    fn new(communicator: &'a Communicator, stream: &'a Stream, list: &'a List, misaligned: &mut Random) -> Self {
        let (size, mut end, mut offsets) = (list.dtype.size_bytes() as u64, GUARD, Vec::new());
        for request in list.requests() {
            let offset = end.next_multiple_of(16) + size * skew(misaligned, communicator.rank());
            offsets.push(offset);
            end = offset + request.bytes() + GUARD;
        }
        let buffers = [(); 2].map(|()| Buffer::new(communicator.device(), end).unwrap());
        let loaded = Self { communicator, stream, list, buffers, offsets, bytes: end };
        loaded.fill();
        loaded
    }

    fn image(&self, content: impl Fn(usize, &Request) -> Option<Vec<u8>>) -> Vec<u8> {
        let mut image = vec![GUARD_BYTE; self.bytes as usize];
        for (place, request) in self.list.requests().enumerate() {
            if let Some(bytes) = content(place, &request) {
                image[self.offsets[place] as usize..][..bytes.len()].copy_from_slice(&bytes);
            }
        }
        image
    }

    fn input(&self, place: usize, request: &Request, rank: Rank) -> Vec<u8> {
        reference::input(request, self.list.seed.wrapping_add(place as u64), rank)
    }

    /// Writes the inputs anew.
    fn fill(&self) {
        let rank = self.communicator.rank();
        let inputs = self.image(|place, request| Some(self.input(place, request, rank)));
        self.buffers[0].upload(&inputs, self.stream).unwrap();
        self.buffers[1].upload(&vec![GUARD_BYTE; self.bytes as usize], self.stream).unwrap();
    }

    fn buckets(&self) -> Vec<Bucket> {
        let at = |buffer: usize, offset| DevicePtr(self.buffers[buffer].address().0 + offset);
        let bucket = |(&(count, in_place), &offset): (&(u64, bool), &u64)| Bucket {
            input: at(0, offset),
            output: at(usize::from(!in_place), offset),
            count,
        };
        self.list.buckets.iter().zip(&self.offsets).map(bucket).collect()
    }

    /// Issues the list, by a choice of the caller's or the communicator's own.
    fn issue(&self, choice: Option<&Choice>) -> Result<()> {
        let (dtype, op, stream) = (self.list.dtype, self.list.op, self.stream.handle());
        let buckets = self.buckets();
        match choice {
            // SAFETY: the buffers hold all operands, which do not overlap, and outlive every synchronisation.
            Some(choice) => unsafe { self.communicator.all_reduce_buckets_as(choice, &buckets, dtype, op, stream) },
            // SAFETY: as above.
            None => unsafe { self.communicator.all_reduce_buckets(&buckets, dtype, op, stream) },
        }
    }

    /// What is in both buffers when the stream has passed.
    fn results(&self) -> [Vec<u8>; 2] {
        self.communicator.synchronize(self.stream.handle()).unwrap();
        self.buffers.each_ref().map(|buffer| {
            let mut image = vec![0; self.bytes as usize];
            buffer.download(&mut image, self.stream).unwrap();
            image
        })
    }

    /// Compares every byte of both buffers with the model, of a variant that reduces in rank order.
    fn check(&self) {
        let (rank, world_size) = (self.communicator.rank(), self.communicator.world_size());
        let model = Manifest::embedded().get("one_shot_push").unwrap();
        let results = self.results();
        let mut expected = [(); 2].map(|()| vec![GUARD_BYTE; self.bytes as usize]);
        for (place, request) in self.list.requests().enumerate() {
            let inputs: Vec<_> = world_size.ranks().map(|rank| self.input(place, &request, rank)).collect();
            let plan = self.communicator.plan(&Choice::of(model), &request).unwrap();
            let result = reference::reduced(model, &request, &inputs, &plan);
            let range = self.offsets[place] as usize..self.offsets[place] as usize + result.len();
            let (_, in_place) = self.list.buckets[place];
            if !in_place {
                expected[0][range.clone()].copy_from_slice(&inputs[rank.index()]);
            }
            let seen = &results[usize::from(!in_place)][range.clone()];
            let wrong = reference::first_difference(self.list.dtype, seen, &result);
            assert_eq!(wrong, None, "rank {rank}: bucket {place} of {:?}", self.list);
            // NaNs have any bits.
            expected[usize::from(!in_place)][range].copy_from_slice(seen);
        }
        for (name, seen, expected) in [("input", &results[0], &expected[0]), ("output", &results[1], &expected[1])] {
            let wrong = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
            assert_eq!(wrong, None, "rank {rank}: a byte beside the {name}s of {:?} at {:?}", self.list, self.offsets);
        }
    }
}

fn with_buckets() -> Vec<Arc<VariantSpec>> {
    let variants: Vec<_> = variants().into_iter().filter(|variant| variant.buckets).collect();
    assert!(variants.len() >= 2, "{variants:?}");
    variants
}

const PAIRS: [(DType, ReduceOp); 6] = [
    (DType::F32, ReduceOp::Sum),
    (DType::Bf16, ReduceOp::Avg),
    (DType::F64, ReduceOp::Min),
    (DType::I8, ReduceOp::Max),
    (DType::U64, ReduceOp::Sum),
    (DType::E4m3, ReduceOp::Sum),
];

#[test]
fn every_list_has_the_results_of_its_buckets() {
    on_ranks(with_own_devices(3), &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let (mut random, mut own) = (Random(41), Random(u64::from(communicator.rank().0)));
        let world = communicator.world_size();
        for variant in with_buckets() {
            for (dtype, op) in PAIRS.into_iter().filter(|&(dtype, op)| variant.supports(dtype, op, world).is_ok()) {
                // One bucket, about as many as a table has, and more than two tables.
                for length in [1, 7, 127, 128, 129, 300] {
                    let list = List::draw(&mut random, dtype, op, length);
                    let request = Request { count: 1000, dtype, op, registered: false };
                    let shape = shape(&mut random, &variant, &request);
                    let choice = Choice { variant: Arc::clone(&variant), shape };
                    let loaded = Loaded::new(&communicator, &stream, &list, &mut own);
                    loaded.issue(Some(&choice)).unwrap();
                    loaded.check();
                }
            }
        }
    });
}

/// Buckets that begin and end anywhere relative to pieces: both mailboxes of the test's heap hold far less.
#[test]
fn buckets_are_cut_where_launches_end() {
    on_ranks(2, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let mut own = Random(u64::from(communicator.rank().0));
        for variant in with_buckets() {
            for dtype in [DType::F32, DType::I32] {
                let counts = [1, 40_000, 3, 0, 1023, 20_001, 7];
                let buckets = counts.into_iter().zip([true, false].into_iter().cycle()).collect();
                let list = List { dtype, op: ReduceOp::Sum, buckets, seed: 7 };
                let loaded = Loaded::new(&communicator, &stream, &list, &mut own);
                loaded.issue(Some(&Choice::of(&variant))).unwrap();
                loaded.check();
            }
        }
    });
}

/// What is chosen for it, with buckets that are operations of their own: larger than a mailbox and than the rule has buckets for.
#[test]
fn a_list_may_have_buckets_of_any_size() {
    on_ranks(2, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let mut own = Random(u64::from(communicator.rank().0));
        let large = (1 << 20) / 4;
        for counts in [&[5, large, 0, 31, large + 3, 1][..], &[large][..], &[large - 1, large - 1][..], &[9, 9][..]] {
            let buckets = counts.iter().map(|&count| (count, count % 2 == 0)).collect();
            // Integers, whose sums have no order.
            let list = List { dtype: DType::I32, op: ReduceOp::Sum, buckets, seed: 11 };
            let loaded = Loaded::new(&communicator, &stream, &list, &mut own);
            for _ in 0..2 {
                loaded.fill();
                loaded.issue(None).unwrap();
                loaded.check();
            }
        }
    });
}

/// The same bits as operations of their own by either variant, those of NaNs too.
#[test]
fn a_bucket_has_the_bits_of_an_all_reduce_of_its_own() {
    on_ranks(with_own_devices(3), &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let mut random = Random(5);
        for dtype in [DType::F32, DType::F16] {
            let list = List::draw(&mut random, dtype, ReduceOp::Sum, 60);
            let loaded = Loaded::new(&communicator, &stream, &list, &mut Random(u64::from(communicator.rank().0)));
            let mut all = Vec::new();
            for variant in with_buckets() {
                let choice = Choice::of(&variant);
                loaded.fill();
                loaded.issue(Some(&choice)).unwrap();
                all.push(loaded.results());
                loaded.fill();
                for (bucket, request) in loaded.buckets().iter().zip(list.requests()) {
                    let operation = Operation::of(&request, bucket.input, bucket.output);
                    // SAFETY: as of the list.
                    unsafe { communicator.all_reduce_as(&choice, &operation, stream.handle()).unwrap() };
                }
                all.push(loaded.results());
            }
            assert!(all.iter().all(|results| *results == all[0]), "rank {}: {dtype}", communicator.rank());
        }
    });
}

#[test]
fn a_list_can_be_captured_once_it_is_prepared() {
    on_ranks(2, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let mut own = Random(u64::from(communicator.rank().0));
        let list = List::draw(&mut Random(3), DType::F32, ReduceOp::Sum, 200);
        let loaded = Loaded::new(&communicator, &stream, &list, &mut own);
        let message = stream.capture(|| loaded.issue(None)).map(drop).unwrap_err().to_string();
        assert!(message.contains("prepare") && message.contains("capture"), "{message}");
        communicator.prepare_buckets(&[(DType::F32, ReduceOp::Sum)]).unwrap();
        let graph = stream.capture(|| loaded.issue(None)).unwrap();
        for _ in 0..4 {
            loaded.fill();
            graph.launch(&stream).unwrap();
            loaded.check();
            loaded.fill();
            loaded.issue(None).unwrap();
            loaded.check();
        }
    });
}

#[test]
fn lists_without_elements_launch_nothing() {
    on_ranks(2, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let empty = [Bucket { input: DevicePtr(0), output: DevicePtr(0), count: 0 }; 3];
        // Rank 1 does not even call: nobody waits for it.
        if communicator.rank() == Rank(0) {
            for buckets in [&empty[..], &[]] {
                // SAFETY: there are no elements.
                let issued =
                    unsafe { communicator.all_reduce_buckets(buckets, DType::F32, ReduceOp::Sum, stream.handle()) };
                issued.unwrap();
            }
            communicator.synchronize(stream.handle()).unwrap();
        }
    });
}

/// Equal sizes together, and still not the same: it would put elements in the wrong place.
#[test]
fn ranks_with_different_lists_hear_of_it() {
    let done = Barrier::new(2);
    let options = Options { timeout: Duration::from_secs(3), ..options() };
    on_ranks(2, &options, |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let counts = if communicator.rank() == Rank(0) { [8, 4] } else { [4, 8] };
        let buckets = counts.map(|count| (count, true)).into();
        let list = List { dtype: DType::F32, op: ReduceOp::Sum, buckets, seed: 1 };
        let loaded = Loaded::new(&communicator, &stream, &list, &mut Random(0));
        communicator.prepare_buckets(&[(DType::F32, ReduceOp::Sum)]).unwrap();
        // What differs can complete; the operation behind it finds out.
        let issued = (0..3).try_for_each(|_| loaded.issue(None));
        let error = issued.and_then(|()| communicator.synchronize(stream.handle())).unwrap_err();
        let message = error.to_string();
        match error {
            Error::PeerMismatch { .. } => assert!(message.contains("sum of 2 buckets"), "{message}"),
            _ => assert!(message.contains("operations differ") || message.contains("2 buckets"), "{message}"),
        }
        done.wait();
    });
}

#[test]
fn a_variant_without_a_form_for_buckets_is_refused() {
    on_ranks(1, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let list = List { dtype: DType::F32, op: ReduceOp::Sum, buckets: vec![(4, true)], seed: 1 };
        let loaded = Loaded::new(&communicator, &stream, &list, &mut Random(0));
        let ring = Choice::of(Manifest::embedded().get("ring").unwrap());
        let error = loaded.issue(Some(&ring)).unwrap_err();
        assert!(matches!(error, Error::Unsupported(_)) && error.to_string().contains("buckets"), "{error}");
        loaded.issue(None).unwrap();
        loaded.check();
    });
}

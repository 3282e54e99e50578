//! A communicator that runs on NCCL, on real GPUs: a thread a rank, one rank a GPU. Skipped with the reason where something is missing.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use myelon_ccl::device::cuda::{self, CudaDevice};
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind, DevicePtr};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::{
    Bucket, Communicator, DType, Error, Fallback, Operation, Options, Rank, ReduceOp, Result, WorldSize, baseline,
};

const COUNT: u64 = 10_000;
/// Tenfold of what NCCL takes to let go.
const SOON: Duration = Duration::from_secs(30);

/// Ranks on all GPUs, on NCCL: no GPU has room for the heap that they ask for.
fn ranks() -> Option<Vec<Communicator>> {
    let gpus = baseline::version().and_then(|_| cuda::device_count());
    let gpus = match gpus {
        Ok(gpus) if gpus > 1 => gpus.min(8),
        Ok(_) => {
            println!("skipped: needs two GPUs");
            return None;
        }
        Err(error) => {
            println!("skipped: {error}");
            return None;
        }
    };
    let devices: Vec<_> = (0..gpus).map(|ordinal| CudaDevice::new(ordinal).unwrap() as Arc<dyn Device>).collect();
    let world = WorldSize::new(gpus).unwrap();
    let limits =
        HeapLimits { lanes: 128, ring_slots: 16, slot_bytes: 1 << 30, ..HeapLimits::of(DeviceKind::Cuda, world) };
    let options = Options { limits: Some(limits), fallback: Fallback::Nccl, ..Options::default() };
    let ranks = Communicator::threads(&devices, &options).unwrap();
    assert!(ranks.iter().all(|rank| rank.engine() == "nccl" && rank.footprint_bytes() == 0));
    Some(ranks)
}

/// A rank with memory and a stream.
struct Rig {
    communicator: Communicator,
    stream: Stream,
    data: Buffer,
}

impl Rig {
    fn new(communicator: Communicator) -> Self {
        let stream = Stream::new(communicator.device()).unwrap();
        let data = Buffer::new(communicator.device(), 4 * COUNT).unwrap();
        Self { communicator, stream, data }
    }

    /// Writes the rank, from 1, queues what `issue` does with it, and returns what is there afterwards.
    fn after(&self, issue: impl FnOnce(&Communicator) -> Result<()>) -> Vec<f32> {
        let value = (self.communicator.rank().0 + 1) as f32;
        self.data.upload(&value.to_le_bytes().repeat(COUNT as usize), &self.stream).unwrap();
        issue(&self.communicator).unwrap();
        self.communicator.synchronize(self.stream.handle()).unwrap();
        let mut bytes = vec![0; 4 * COUNT as usize];
        self.data.download(&mut bytes, &self.stream).unwrap();
        bytes.as_chunks().0.iter().copied().map(f32::from_le_bytes).collect()
    }

    fn reduce(&self) -> Result<()> {
        let data = self.data.address();
        // SAFETY: COUNT floats, which live until the stream is synchronised or the communicator is gone.
        unsafe { self.communicator.all_reduce(data, data, COUNT, DType::F32, ReduceOp::Sum, self.stream.handle()) }
    }
}

#[test]
fn operations_of_every_form_are_those_of_the_kernels() {
    let Some(ranks) = ranks() else { return };
    let world = ranks.len() as f32;
    std::thread::scope(|scope| {
        for communicator in ranks {
            scope.spawn(move || {
                let rig = Rig::new(communicator);
                let (data, stream) = (rig.data.address(), rig.stream.handle());
                let sums = vec![world * (world + 1.0) / 2.0; COUNT as usize];
                assert_eq!(rig.after(|_| rig.reduce()), sums);
                let half = |at: u64| Operation {
                    input: DevicePtr(data.0 + 2 * COUNT * at),
                    output: DevicePtr(data.0 + 2 * COUNT * at),
                    count: COUNT / 2,
                    dtype: DType::F32,
                    op: ReduceOp::Sum,
                    window: None,
                };
                // SAFETY: both halves are the buffer's; the rest is as in `reduce`.
                let batch =
                    |communicator: &Communicator| unsafe { communicator.all_reduce_batch(&[half(0), half(1)], stream) };
                assert_eq!(rig.after(batch), sums);
                let buckets =
                    [half(0), half(1)].map(|half| Bucket { input: half.input, output: half.output, count: half.count });
                // SAFETY: as above.
                let list = |communicator: &Communicator| unsafe {
                    communicator.all_reduce_buckets(&buckets, DType::F32, ReduceOp::Sum, stream)
                };
                assert_eq!(rig.after(list), sums);
                // SAFETY: as above.
                let root = |communicator: &Communicator| unsafe {
                    communicator.barrier(stream)?;
                    communicator.broadcast(data, data, COUNT, DType::F32, Rank(1), stream)
                };
                assert_eq!(rig.after(root), vec![2.0; COUNT as usize]);
            });
        }
    });
}

/// What the ranks but the last hear, who wait for it in an operation when `end` ends it; and whether a later one says the same.
fn heard_when_the_last_rank(end: impl FnOnce(Communicator) + Send) -> Vec<Error> {
    let Some(ranks) = ranks() else { return Vec::new() };
    let (waiting, all_wait) = channel();
    std::thread::scope(|scope| {
        // NCCL connects ranks in their first operation, where it waits for all of them.
        let connected: Vec<_> = ranks
            .into_iter()
            .map(|communicator| {
                scope.spawn(move || {
                    let rig = Rig::new(communicator);
                    rig.after(|_| rig.reduce());
                    rig
                })
            })
            .collect();
        let mut rigs: Vec<_> = connected.into_iter().map(|rig| rig.join().unwrap()).collect();
        let last = rigs.pop().unwrap().communicator;
        let others: Vec<_> = rigs
            .into_iter()
            .map(|rig| {
                let waiting = waiting.clone();
                scope.spawn(move || {
                    rig.reduce().unwrap();
                    waiting.send(()).unwrap();
                    let begin = Instant::now();
                    let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
                    assert!(begin.elapsed() < SOON, "{error} after {:?}", begin.elapsed());
                    assert_eq!(rig.reduce().unwrap_err().to_string(), error.to_string());
                    error
                })
            })
            .collect();
        wait_for(&all_wait, others.len());
        end(last);
        others.into_iter().map(|other| other.join().unwrap()).collect()
    })
}

fn wait_for(all: &Receiver<()>, count: usize) {
    (0..count).for_each(|_| all.recv_timeout(SOON).unwrap());
}

#[test]
fn an_abort_ends_the_waits_of_the_others_and_says_why() {
    for error in heard_when_the_last_rank(|last| last.abort("the loss is not a number")) {
        assert!(error.is_aborted() && error.to_string().contains("the loss is not a number"), "{error}");
    }
}

#[test]
fn a_rank_that_panics_ends_the_waits_of_the_others() {
    let panics = |last: Communicator| {
        let outcome = std::thread::spawn(move || {
            let _last = last;
            panic!("on purpose");
        });
        outcome.join().unwrap_err();
    };
    for error in heard_when_the_last_rank(panics) {
        assert!(error.is_aborted() && error.to_string().contains("its thread panicked"), "{error}");
    }
}

//! What the host does for one call: choosing a variant and planning it, without a device; a whole call that is captured on the
//! CPU device, so that no kernel runs; and what a launch takes by itself, on a GPU where there is one.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_main};
use myelon_ccl::abi::Args;
use myelon_ccl::device::cache::compile_cached;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind, KernelSource, LaunchShape};
use myelon_ccl::measure::{Bytes, Provenance};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::{Buffers, DTypeClass, Dispatcher, LaneTable, Measured, OperatorClass, Row, Section};
use myelon_ccl::variant::{Choice, Manifest, Plan, Request, Terrain};
use myelon_ccl::{Communicator, DType, Operation, Options, ReduceOp, Result, WorldSize};

fn host(criterion: &mut Criterion) {
    let world_size = WorldSize::new(8).unwrap();
    let dispatchers = [None, Some(Arc::new(table(world_size)))]
        .map(|table| Dispatcher::new(None, table, DeviceKind::Cuda, "sm_90a", world_size, true));
    let (layout, _) = HeapLimits::of(DeviceKind::Cuda, world_size).layout(world_size).unwrap();
    let terrain = Terrain::of(DeviceKind::Cuda, world_size, &layout, "sm_90a");
    for (name, count) in [("1 KiB", 256), ("1 MiB", 1 << 18), ("1 GiB", 1 << 28)] {
        let request = Request { count, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        for (by, dispatcher) in ["rule", "table"].iter().zip(&dispatchers) {
            let choose = || dispatcher.choose(black_box(&request)).unwrap().choice;
            criterion.bench_function(&format!("choose {name} by {by}"), |bencher| bencher.iter(choose));
        }
        let choice = dispatchers[1].choose(&request).unwrap().choice.clone();
        let plan = || Plan::new(&terrain, black_box(&request), &choice).unwrap();
        criterion.bench_function(&format!("plan {name}"), |bencher| bencher.iter(plan));
    }
}

/// As many rows as a tuned class of types has: every power of two, and crossovers between them.
fn table(ranks: WorldSize) -> LaneTable {
    let names = ["one_shot_push", "two_shot_push", "ring"];
    let row = |index: u64| {
        let choice = Choice::of(Manifest::embedded().get(names[index as usize / 20]).unwrap());
        let from = if index == 0 { 0 } else { (1 << 10 << (index / 3)) + index % 3 * (256 << (index / 3)) };
        let measured = Measured { at: Bytes(from.max(512)), p50_us: 1.0, runner_up: None, nccl_us: None };
        Row { from, choice, measured }
    };
    let rows: Vec<_> = (0..60).map(row).collect();
    let (operators, buffers, op) = (OperatorClass::All, Buffers::Plain, ReduceOp::Sum);
    let of = |dtypes, dtype| Section { ranks, dtypes, operators, buffers, dtype, op, rows: rows.clone() };
    let sections = vec![of(DTypeClass::Float, DType::F32), of(DTypeClass::Integer, DType::I32)];
    LaneTable::new(DeviceKind::Cuda, "", true, Provenance::of_this_host(""), sections).unwrap()
}

/// Most operations of a capture: it keeps each.
const CAPTURED: u64 = 1000;

/// One rank, for a call is the same on each.
fn call(criterion: &mut Criterion) {
    let options = Options { prepare: vec![(DType::F32, ReduceOp::Sum)], ..Options::default() };
    let communicators =
        CpuDevice::new(0).and_then(|device| Communicator::threads(&[device as Arc<dyn Device>], &options));
    let communicator = match communicators.map(|mut ranks| ranks.pop().expect("one rank")) {
        Ok(communicator) => communicator,
        Err(error) => return println!("skipped: {error}"),
    };
    let stream = Stream::new(communicator.device()).unwrap();
    let data = Buffer::new(communicator.device(), 1024).unwrap();
    let (input, output) = (data.address(), data.address());
    let operation = Operation { input, output, count: 256, dtype: DType::F32, op: ReduceOp::Sum, window: None };
    let single = || -> Result<()> {
        let Operation { count, dtype, op, .. } = operation;
        // SAFETY: the buffer outlives the stream, and the graph is never launched.
        unsafe { communicator.all_reduce(input, output, count, dtype, op, stream.handle()) }
    };
    let batch = [operation; 20];
    // SAFETY: as above.
    let together = || unsafe { communicator.all_reduce_batch(&batch, stream.handle()) };
    let time = |calls: u64, operations: u64, call: &dyn Fn() -> Result<()>| {
        let most = CAPTURED / operations;
        let mut spent = Duration::ZERO;
        for first in (0..calls).step_by(most as usize) {
            let graph = stream.capture(|| {
                let begun = Instant::now();
                (first..calls.min(first + most)).try_for_each(|_| call())?;
                spent += begun.elapsed();
                Ok(())
            });
            drop(graph.unwrap());
        }
        spent
    };
    criterion.bench_function("call", |bencher| bencher.iter_custom(|calls| time(calls, 1, &single)));
    criterion.bench_function("batch of 20", |bencher| {
        bencher.iter_custom(|calls| time(calls, batch.len() as u64, &together))
    });
}

/// Launches that a GPU's queue has room for, so that the host never waits for the GPU.
const QUEUED: u64 = 500;

/// A kernel that does nothing, with as many bytes of arguments as an all-reduce has: below that no call gets.
fn launch(criterion: &mut Criterion) {
    let device = match CudaDevice::new(0) {
        Ok(device) => device as Arc<dyn Device>,
        Err(error) => return println!("skipped: {error}"),
    };
    let entry = "#include \"ptx/ptx.cuh\"\nnamespace myelon {\nMYELON_KERNEL(64, Args, args) { (void)args; }\n}\n";
    let source = KernelSource { name: "empty".into(), entry: entry.into() };
    let kernel = compile_cached(device.compiler(), &source).and_then(|image| device.load(&image)).unwrap();
    let stream = Stream::new(&device).unwrap();
    let args = vec![0; size_of::<Args>()];
    for (name, dependent) in [("launch", false), ("dependent launch", true)] {
        let shape = LaunchShape { grid: 4, block: 64, shared_bytes: 0, dependent };
        let time = |calls: u64| {
            let mut spent = Duration::ZERO;
            for first in (0..calls).step_by(QUEUED as usize) {
                let begun = Instant::now();
                for _ in first..calls.min(first + QUEUED) {
                    // SAFETY: the bytes are as many as the kernel takes, and it reads none of them.
                    unsafe { device.launch(kernel, shape, &args, stream.handle()).unwrap() };
                }
                spent += begun.elapsed();
                stream.synchronize().unwrap();
            }
            spent
        };
        criterion.bench_function(name, |bencher| bencher.iter_custom(time));
    }
}

// The macro makes a function without documentation.
#[allow(missing_docs)]
mod group {
    criterion::criterion_group!(benches, super::host, super::call, super::launch);
}
criterion_main!(group::benches);

//! What the host does for one call: choosing a variant and planning it, without a device; and a whole call that is captured on
//! the CPU device, so that no kernel runs.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use criterion::{Criterion, criterion_main};
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::LaneTable;
use myelon_ccl::variant::{Choice, Plan, Request, Terrain};
use myelon_ccl::{Communicator, DType, Operation, Options, ReduceOp, Result, WorldSize};

fn host(criterion: &mut Criterion) {
    let world_size = WorldSize::new(8).unwrap();
    let table = LaneTable::embedded(DeviceKind::Cuda);
    let (layout, _) = HeapLimits::of(DeviceKind::Cuda, world_size).layout(world_size).unwrap();
    let terrain = Terrain { device: DeviceKind::Cuda, world_size, layout: &layout, sentinel: true, arch: "sm_90a" };
    for (name, count) in [("1 KiB", 256), ("1 MiB", 1 << 18), ("1 GiB", 1 << 28)] {
        let request = Request { count, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let choose = || table.choose("sm_90a", world_size, black_box(&request)).unwrap();
        criterion.bench_function(&format!("choose {name}"), |bencher| bencher.iter(choose));
        let choice: Choice = choose();
        let plan = || Plan::new(&terrain, black_box(&request), &choice).unwrap();
        criterion.bench_function(&format!("plan {name}"), |bencher| bencher.iter(plan));
    }
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

// The macro makes a function without documentation.
#[allow(missing_docs)]
mod group {
    criterion::criterion_group!(benches, super::host, super::call);
}
criterion_main!(group::benches);

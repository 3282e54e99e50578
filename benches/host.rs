//! What the host does for one call, without a device: choosing a variant and planning it.

use std::hint::black_box;

use criterion::{Criterion, criterion_main};
use myelon_ccl::device::DeviceKind;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::LaneTable;
use myelon_ccl::variant::{Choice, Plan, Request, Terrain};
use myelon_ccl::{DType, ReduceOp, WorldSize};

fn host(criterion: &mut Criterion) {
    let world_size = WorldSize::new(8).unwrap();
    let table = LaneTable::embedded(DeviceKind::Cuda);
    let (layout, _) = HeapLimits::of(DeviceKind::Cuda).layout(world_size).unwrap();
    let terrain = Terrain { device: DeviceKind::Cuda, world_size, layout: &layout, sentinel: true, arch: "sm_90a" };
    for (name, count) in [("1 KiB", 256), ("1 MiB", 1 << 18), ("1 GiB", 1 << 28)] {
        let request = Request { count, dtype: DType::F32, op: ReduceOp::Sum };
        let choose = || table.choose("sm_90a", world_size, black_box(&request)).unwrap();
        criterion.bench_function(&format!("choose {name}"), |bencher| bencher.iter(choose));
        let choice: Choice = choose();
        let plan = || Plan::new(&terrain, black_box(&request), &choice).unwrap();
        criterion.bench_function(&format!("plan {name}"), |bencher| bencher.iter(plan));
    }
}

// The macro makes a function without documentation.
#[allow(missing_docs)]
mod group {
    criterion::criterion_group!(benches, super::host);
}
criterion_main!(group::benches);

//! Every kernel compiles for every architecture, within its registers. Needs NVRTC, not a GPU.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use myelon_ccl::device::cuda::Nvrtc;
use myelon_ccl::device::{DeviceKind, KernelSource};
use myelon_ccl::measure::neighbour::Work;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::variant::{
    Choice, Manifest, Plan, Request, Shape, Terrain, VariantSpec, VerifyKernel, barrier_kernel, dtype_runs_on,
    neighbour_kernel,
};
use myelon_ccl::{DType, Error, ReduceOp, WorldSize};

/// Architectures that kernels are written for: Ampere, Hopper, Blackwell.
const ARCHITECTURES: [&str; 3] = ["sm_80", "sm_90a", "sm_100a"];
/// Most bytes a thread may spill: what saving state around the cold wait costs where eight ranks fill the registers.
const MOST_SPILLED: u32 = 96;

/// Every type with sum, every operator with f32; eight ranks, and two for the commonest. All of everything with MYELON_TEST_FULL=1.
fn sources(arch: &str) -> Vec<(KernelSource, bool)> {
    let full = std::env::var("MYELON_TEST_FULL").is_ok_and(|value| value == "1");
    let mut sources: Vec<_> = Work::ALL.iter().map(|&work| (neighbour_kernel(work, 1024), true)).collect();
    sources.extend([1, 2, 8].map(|ranks| (barrier_kernel(WorldSize::new(ranks).unwrap()), true)));
    for &dtype in DType::ALL.iter().filter(|&&dtype| dtype_runs_on(dtype, arch).is_ok()) {
        for &op in ReduceOp::ALL {
            if !full && dtype != DType::F32 && op != ReduceOp::Sum {
                continue;
            }
            sources.push((VerifyKernel::Fill.source(dtype, op), false));
            sources.push((VerifyKernel::Check.source(dtype, op), false));
            let smallest = if dtype == DType::F32 && op == ReduceOp::Sum { 2 } else { 8 };
            for ranks in if full { 1..=8 } else { smallest..=8 }.step_by(if full { 1 } else { 6 }) {
                let world_size = WorldSize::new(ranks).unwrap();
                let fits = |variant: &&Arc<VariantSpec>| {
                    variant.supports(dtype, op, world_size).is_ok() && variant.runs_on(arch).is_ok()
                };
                for variant in Manifest::embedded().all().filter(fits) {
                    for sentinel in [true, false] {
                        let (layout, _) = HeapLimits::of(DeviceKind::Cuda, world_size).layout(world_size).unwrap();
                        let terrain = Terrain { sentinel, ..Terrain::of(DeviceKind::Cuda, world_size, &layout, arch) };
                        // What is compiled in has nothing to do with types: its points with one of them, and most ranks.
                        let parameters = &variant.parameters;
                        let mut points = if full { parameters.points() } else { parameters.covering_points() };
                        points.retain(|_| smallest == 2 && ranks == 8);
                        points.push(Shape::default());
                        for mut shape in points {
                            (shape.slots, shape.launch) = (None, None);
                            let registered = shape.is_direct();
                            let request = Request { count: 1 << 20, dtype, op, registered };
                            let choice = Choice { variant: Arc::clone(variant), shape };
                            let plan = Plan::new(&terrain, &request, &choice).unwrap();
                            // Its code has nothing to do with shapes.
                            let with_buckets = variant.buckets && shape == Shape::default();
                            let of_buckets = with_buckets.then(|| plan.clone().of_buckets().unwrap());
                            for source in
                                [Some(plan), of_buckets].into_iter().flatten().map(|plan| plan.kernel.source())
                            {
                                if !sources.iter().any(|(known, _)| *known == source) {
                                    sources.push((source, true));
                                }
                            }
                        }
                    }
                }
            }
        }
    }
    sources
}

fn compile_all(arch: &str) {
    let compiler = match Nvrtc::new(arch) {
        Ok(compiler) => Arc::new(compiler),
        Err(error @ (Error::LibraryMissing { .. } | Error::Unsupported(_))) => {
            println!("skipped: {error}");
            return;
        }
        Err(error) => panic!("{error}"),
    };
    let sources = sources(arch);
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(|| {
                while let Some((source, bounded)) = sources.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let usage = compiler.resources(source).unwrap_or_else(|error| panic!("{arch}: {error}"));
                    let spilled = usage.spill_bytes;
                    assert!(
                        !bounded || spilled <= MOST_SPILLED,
                        "{arch}: {} spills {spilled} bytes: {usage:?}",
                        source.name
                    );
                }
            });
        }
    });
    println!("{arch}: {} kernels", sources.len());
}

#[test]
fn every_kernel_compiles_for_ampere() {
    compile_all(ARCHITECTURES[0]);
}

#[test]
fn every_kernel_compiles_for_hopper() {
    compile_all(ARCHITECTURES[1]);
}

#[test]
fn every_kernel_compiles_for_blackwell() {
    compile_all(ARCHITECTURES[2]);
}

//! Ranks as threads on the CPU device.

use std::sync::Arc;
use std::time::Duration;

use ddp_mlp::engine::{Engine, Library};
use myelon_ccl::bootstrap::LocalBootstrap;
use myelon_ccl::device::Device;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::{Options, WorldSize};

/// Longest wait for a rank to come up: compiling a kernel on a busy machine is part of it.
const DEADLINE: Duration = Duration::from_secs(240);

/// Runs `work` on every rank at once; what it returns, in rank order.
pub(crate) fn on_ranks<T: Send>(ranks: u32, work: impl Fn(Engine) -> T + Sync) -> Vec<T> {
    on_ranks_with(ranks, Options::default(), work)
}

/// The same with other options.
pub(crate) fn on_ranks_with<T: Send>(ranks: u32, options: Options, work: impl Fn(Engine) -> T + Sync) -> Vec<T> {
    let group = LocalBootstrap::group(WorldSize::new(ranks).unwrap(), DEADLINE);
    let (work, options) = (&work, &options);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..)
            .zip(group)
            .map(|(rank, bootstrap)| {
                scope.spawn(move || {
                    let device: Arc<dyn Device> = CpuDevice::new(rank).unwrap();
                    let engine =
                        Engine::connect(Library::Myelon, &device, Arc::new(bootstrap), options.clone()).unwrap();
                    work(engine)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect()
    })
}

//! From the command line to ranks that train: threads, or this process's place in a launcher's job.

use std::sync::Arc;
use std::time::Duration;

use ddp_mlp::Result;
use ddp_mlp::engine::{Engine, Library};
use ddp_mlp::trainer::{Epoch, Report, Settings, train};
use myelon_ccl::bootstrap::launcher::Launcher;
use myelon_ccl::bootstrap::{self, Bootstrap, LocalBootstrap, TcpOptions};
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::{self, CudaDevice};
use myelon_ccl::device::{Device, DeviceKind};
use myelon_ccl::{Options, WorldSize};
use serde::Serialize;

use crate::args::{Args, Place};

/// Longest wait for the other ranks while they come up.
const DEADLINE: Duration = Duration::from_secs(120);

/// Trains on all ranks of this process, and prints what rank 0 saw.
pub(crate) fn run(args: &Args) -> Result<()> {
    let gpus = gpus(args.device)?;
    if args.engine == Library::Nccl && gpus == 0 {
        return Err("--engine nccl needs GPUs: NCCL has no CPU device".into());
    }
    if let Some(place) = Launcher::from_env(&|name: &str| std::env::var(name).ok())? {
        // A launcher may show each process its own GPU only.
        let device = open(place.local_rank, gpus)?;
        let options = TcpOptions { deadline: DEADLINE, ..TcpOptions::default() };
        let bootstrap = bootstrap::from_env(&options)?.ok_or("the launcher's variables went away")?;
        return rank(args, &device, Arc::from(bootstrap));
    }
    if gpus > 0 && args.ranks > gpus {
        return Err(format!("--ranks {}: this process sees {gpus} GPUs", args.ranks).into());
    }
    let devices = (0..args.ranks).map(|rank| open(rank, gpus)).collect::<Result<Vec<_>>>()?;
    let group = LocalBootstrap::group(WorldSize::new(args.ranks)?, DEADLINE);
    std::thread::scope(|scope| {
        let threads: Vec<_> = devices
            .iter()
            .zip(group)
            .map(|(device, bootstrap)| scope.spawn(move || rank(args, device, Arc::new(bootstrap))))
            .collect();
        // The first that failed: the others were told of it.
        let outcomes: Vec<_> = threads.into_iter().map(|thread| thread.join().expect("no rank panics")).collect();
        outcomes.into_iter().collect()
    })
}

/// GPUs to compute on; 0 is the CPU.
fn gpus(place: Place) -> Result<u32> {
    let built = cfg!(feature = "cuda");
    match place {
        Place::Cpu => Ok(0),
        Place::Auto if !built => Ok(0),
        Place::Auto => Ok(cuda::device_count().unwrap_or(0)),
        Place::Cuda if !built => Err("--device cuda: this program was built without --features cuda".into()),
        Place::Cuda => match cuda::device_count()? {
            0 => Err("--device cuda: this process sees no GPU: check CUDA_VISIBLE_DEVICES and nvidia-smi".into()),
            count => Ok(count),
        },
    }
}

fn open(rank: u32, gpus: u32) -> Result<Arc<dyn Device>> {
    Ok(if gpus == 0 { CpuDevice::new(rank)? } else { CudaDevice::new(rank % gpus)? })
}

/// One rank, to its end.
fn rank(args: &Args, device: &Arc<dyn Device>, bootstrap: Arc<dyn Bootstrap>) -> Result<()> {
    let properties = device.properties();
    let first = bootstrap.rank().index() == 0;
    let candle = match properties.kind {
        DeviceKind::Cpu => candle_core::Device::Cpu,
        // A stream of its own: the default one waits for everything else on the GPU.
        DeviceKind::Cuda => candle_core::Device::new_cuda_with_stream(properties.ordinal as usize)?,
    };
    // Kernels are compiled when they are first used: few of all sizes are.
    let options = Options { prepare: Vec::new(), ..Options::from_env()? };
    let settings = args.settings();
    let engine = Engine::connect(args.engine, device, bootstrap, options)?;
    let progress = |epoch: Epoch| {
        if first {
            println!("epoch {:>3}  loss {:.6}", epoch.number, epoch.loss);
        }
    };
    let report = train(engine, &candle, &settings, progress)?;
    if !first {
        return Ok(());
    }
    println!(
        "{} rank{} on {} with {}: accuracy {:.2} %, {:.0} samples/s, waited {:.1} % of the time; {} parameters in {} buckets",
        report.ranks,
        if report.ranks == 1 { "" } else { "s" },
        properties.name,
        args.engine.name(),
        100.0 * report.accuracy,
        report.samples_per_second,
        100.0 * report.waited,
        report.parameters,
        report.buckets,
    );
    let Some(path) = &args.json else { return Ok(()) };
    let stored = Stored { device: &properties.name, engine: args.engine, settings: &settings, report: &report };
    std::fs::write(path, serde_json::to_string_pretty(&stored)? + "\n")
        .map_err(|error| format!("--json {}: {error}", path.display()))?;
    Ok(())
}

/// What `--json` writes.
#[derive(Serialize)]
struct Stored<'a> {
    device: &'a str,
    engine: Library,
    settings: &'a Settings,
    report: &'a Report,
}

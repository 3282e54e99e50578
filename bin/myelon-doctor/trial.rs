//! All-reduces for real: a communicator over the GPUs of this process, or over CPU ranks, and verified operations on it.
//!
//! Bringing it up tries every ordered pair of ranks with the stores and loads of the kernels. Every wait has a deadline.

use std::sync::Arc;

use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::device::{Device, DeviceKind};
use myelon_ccl::measure::Bytes;
use myelon_ccl::variant::Request;
use myelon_ccl::verify::{Tally, Verifier};
use myelon_ccl::{Communicator, DType, Error, Options, ReduceOp, Result, WorldSize};
use serde::{Deserialize, Serialize};

use crate::processes;

/// Mixed into all test data. Any number does.
const SEED: u64 = 0x646f_6374_6f72;
/// What one descriptor is tried with.
const DESCRIPTOR_BYTES: u64 = 4096;

/// What was tried and went through.
#[derive(Debug, Serialize)]
pub(crate) struct Trial {
    device: DeviceKind,
    ranks: u32,
    ranks_are: Ranks,
    /// Whether all ranks shared one GPU.
    shared: bool,
    /// Device memory that the communicator held on each rank.
    heap_bytes: u64,
    operations: Vec<Tried>,
}

/// Where ranks live.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Ranks {
    /// In this process. One GPU may be shared.
    Threads,
    /// Each in its own, a GPU each.
    Processes,
}

/// What one rank found.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OfRank {
    heap_bytes: u64,
    operations: Vec<Tried>,
}

/// One verified operation.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Tried {
    bytes: u64,
    variant: String,
    /// Wrong elements over all ranks.
    wrong: u64,
}

impl Trial {
    /// Brings a communicator up, and reduces.
    ///
    /// Errors: the first of any rank.
    pub(crate) fn run(device: DeviceKind, ranks: WorldSize, ranks_are: Ranks, shared: bool) -> Result<Self> {
        let of_ranks = match ranks_are {
            Ranks::Threads => threads(device, ranks, shared)?,
            Ranks::Processes => processes::run(device, ranks)?,
        };
        let heap_bytes = of_ranks[0].heap_bytes;
        let sum = |(turn, tried): (usize, &Tried)| {
            let wrong = of_ranks.iter().map(|rank| rank.operations[turn].wrong).sum();
            Tried { wrong, ..tried.clone() }
        };
        let operations = of_ranks[0].operations.iter().enumerate().map(sum).collect();
        Ok(Self { device, ranks: ranks.get(), ranks_are, shared, heap_bytes, operations })
    }

    /// Wrong elements of all operations.
    pub(crate) fn wrong(&self) -> u64 {
        self.operations.iter().map(|tried| tried.wrong).sum()
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let place = match (self.device, self.shared) {
            (DeviceKind::Cuda, false) => "a GPU each",
            (DeviceKind::Cuda, true) => "on one GPU",
            (DeviceKind::Cpu, _) => "on the CPU",
        };
        let are = match self.ranks_are {
            Ranks::Threads => "threads",
            Ranks::Processes => "processes",
        };
        let (ranks, heap) = (self.ranks, self.heap_bytes >> 10);
        let up = format!("{ranks} ranks, {are}, {place}: every pair reaches each other; heap {heap} KiB");
        let tried = |Tried { bytes, variant, wrong }: &Tried| {
            format!("{:>8}  {variant:<16}  {wrong} wrong elements", Bytes(*bytes).to_string())
        };
        [up].into_iter().chain(self.operations.iter().map(tried)).collect()
    }
}

fn threads(device: DeviceKind, ranks: WorldSize, shared: bool) -> Result<Vec<OfRank>> {
    let open = |ordinal| open(device, if shared { 0 } else { ordinal });
    let devices = (0..ranks.get()).map(open).collect::<Result<Vec<_>>>()?;
    through_a_descriptor(&devices[0])?;
    let options = Options { share_devices: shared, ..Options::from_env()? };
    let communicators = Communicator::threads(&devices, &options)?;
    std::thread::scope(|scope| {
        let running: Vec<_> =
            communicators.into_iter().map(|rank| scope.spawn(move || operate(rank, device))).collect();
        running.into_iter().map(|rank| rank.join().expect("no rank panics")).collect()
    })
}

pub(crate) fn open(device: DeviceKind, ordinal: u32) -> Result<Arc<dyn Device>> {
    Ok(match device {
        DeviceKind::Cuda => CudaDevice::new(ordinal)?,
        DeviceKind::Cpu => CpuDevice::new(ordinal)?,
    })
}

/// How processes pass a heap on: memory is exported as a file descriptor (`memfd` on the CPU), and mapped again from it.
fn through_a_descriptor(device: &Arc<dyn Device>) -> Result<()> {
    let block = device.allocate_shared(DESCRIPTOR_BYTES)?;
    let mapped = device.import_shared(device.export_shared(&block)?, DESCRIPTOR_BYTES)?;
    let (host, stream) = (device.allocate_host(DESCRIPTOR_BYTES)?, Stream::new(device)?);
    // SAFETY: all three ranges have this size, and live until the stream has been waited for.
    unsafe {
        device.fill(block.address, 0x5a, DESCRIPTOR_BYTES, stream.handle())?;
        device.copy(host.device, mapped.address, DESCRIPTOR_BYTES, stream.handle())?;
    }
    stream.synchronize()?;
    // SAFETY: the block has this size, and the stream that wrote it has been waited for.
    let bytes = unsafe { std::slice::from_raw_parts(host.host, DESCRIPTOR_BYTES as usize) };
    if bytes.iter().all(|byte| *byte == 0x5a) {
        return Ok(());
    }
    Err(Error::unsupported("memory that was passed on as a file descriptor does not hold what was stored into it"))
}

/// One rank's operations. Its peers are told of an error, so that nobody waits for it.
pub(crate) fn operate(communicator: Communicator, kind: DeviceKind) -> Result<OfRank> {
    let sizes: &[u64] = match kind {
        DeviceKind::Cuda => &[1 << 10, 256 << 10, 4 << 20, 64 << 20],
        DeviceKind::Cpu => &[1 << 10, 64 << 10],
    };
    let device = Arc::clone(communicator.device());
    let stream = Stream::new(&device)?;
    let tally = Tally::new(&device, communicator.rank(), communicator.world_size(), SEED)?;
    let data = Buffer::new(&device, sizes.iter().copied().max().unwrap_or(0))?;
    // INVARIANT: dropped before what its operations use.
    let communicator = communicator;
    let outcome = reduce(&communicator, sizes, &tally, &data, &stream);
    if let Err(error) = &outcome {
        communicator.abort(&error.to_string());
    }
    // What is still queued uses the data; an error of it is that of the outcome.
    let _ = communicator.synchronize(stream.handle());
    Ok(OfRank { heap_bytes: communicator.footprint_bytes(), operations: outcome? })
}

fn reduce(
    communicator: &Communicator,
    sizes: &[u64],
    tally: &Tally,
    data: &Buffer,
    stream: &Stream,
) -> Result<Vec<Tried>> {
    let (dtype, op) = (DType::F32, ReduceOp::Sum);
    let verifier = Verifier::prepare(communicator.device(), dtype, op)?;
    // Kernels of a peer must not run while ours are loaded.
    communicator.bootstrap().barrier("preparing the trial")?;
    let mut tried = Vec::new();
    for (turn, &bytes) in sizes.iter().enumerate() {
        let request = Request { count: bytes / dtype.size_bytes() as u64, dtype, op, registered: false };
        let (at, count) = (data.address(), request.count);
        tally.restart(turn as u64, stream)?;
        // SAFETY: the buffer holds the largest request; buffer, tally and stream outlive the wait below, which the caller makes
        // on an error.
        unsafe {
            verifier.fill(tally, at, &request, stream)?;
            communicator.all_reduce(at, at, count, dtype, op, stream.handle())?;
            verifier.check(tally, at, &request, stream)?;
        }
        communicator.synchronize(stream.handle())?;
        let (_, wrong) = tally.read(stream)?;
        tried.push(Tried { bytes, variant: communicator.choose(&request)?.variant.name.clone(), wrong });
    }
    Ok(tried)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_on_the_cpu_device_pass() {
        let trial = Trial::run(DeviceKind::Cpu, WorldSize::new(2).unwrap(), Ranks::Threads, false).unwrap();
        assert_eq!((trial.wrong(), trial.operations.len()), (0, 2));
        assert!(
            trial.heap_bytes > 0 && trial.lines()[0].starts_with("2 ranks, threads, on the CPU"),
            "{:?}",
            trial.lines()
        );
    }
}

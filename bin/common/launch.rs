//! From a placement to ranks that work: threads, processes of our own, or a launcher's.

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use myelon_ccl::bootstrap::{Bootstrap, LocalBootstrap};
use myelon_ccl::device::cache::Cache;
use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::device::{Device, DeviceKind, source};
use myelon_ccl::{Error, Result, WorldSize};

use super::here::{Here, Surroundings};
use super::interrupt::Interrupt;
use super::place::{DEADLINE, Place};
use super::placement::Placement;
use super::processes;
use super::program::{exit, fail};

/// Ranks that are ready to start.
pub(crate) enum Ranks {
    Threads(Vec<Arc<dyn Device>>),
    Processes(WorldSize),
    Launched { device: Arc<dyn Device>, place: Place },
}

impl Ranks {
    /// Opens the devices of this process. Nothing is launched yet.
    ///
    /// Errors: those of the devices and of [`check_settings`]; [`Error::InvalidArgument`] for a launched placement without a place.
    pub(crate) fn prepare(kind: DeviceKind, ranks: WorldSize, placement: Placement, here: &Here) -> Result<Self> {
        check_settings()?;
        let gpus = here.gpus().max(1);
        match (placement, here.place()) {
            (Placement::Processes, _) => Ok(Self::Processes(ranks)),
            (Placement::Threads, _) => devices(kind, ranks, gpus).map(Self::Threads),
            (Placement::Launched, Some(place)) => {
                // A launcher may show each process one GPU only, or all of them.
                let ordinal = match kind {
                    DeviceKind::Cpu => place.local_rank,
                    DeviceKind::Cuda => place.local_rank % gpus,
                };
                Ok(Self::Launched { device: open(kind, ordinal)?, place: place.clone() })
            }
            (Placement::Launched, None) => Err(Error::invalid("no launcher gave this process a rank")),
        }
    }

    /// Runs `work` on every rank to its end; it returns how many results were wrong, and the exit status says whether any was.
    /// Where ranks are processes of our own, each comes here again, as a launched one, and is told of an interrupt.
    pub(crate) fn run(
        self,
        interrupt: &Interrupt,
        work: impl Fn(Arc<dyn Device>, Arc<dyn Bootstrap>) -> Result<u64> + Sync,
    ) -> ExitCode {
        match self {
            Self::Processes(ranks) => processes::run(ranks, interrupt),
            Self::Launched { device, place } => {
                let outcome = place.join().and_then(|bootstrap| work(device, bootstrap));
                conclude(&[(place.rank.0, outcome)])
            }
            Self::Threads(devices) => match WorldSize::new(devices.len() as u32) {
                Ok(world_size) => {
                    let group = LocalBootstrap::group(world_size, DEADLINE);
                    let ranks = devices.into_iter().zip(group).collect();
                    conclude(&on_threads(ranks, |(device, bootstrap)| work(device, Arc::new(bootstrap))))
                }
                Err(error) => fail(exit::FAILED, &error.to_string()),
            },
        }
    }
}

/// Whether kernels can be found and kept: refused once, and not by every rank.
///
/// Errors: [`Error::Config`] naming `MYELON_KERNEL_TREE` or `MYELON_CACHE`.
pub(crate) fn check_settings() -> Result<()> {
    source::tree_hash()?;
    Cache::of_user().map(drop)
}

/// One device a rank; ranks beyond the GPUs share them.
pub(crate) fn devices(kind: DeviceKind, ranks: WorldSize, gpus: u32) -> Result<Vec<Arc<dyn Device>>> {
    if kind == DeviceKind::Cpu {
        return ranks.ranks().map(|rank| open(kind, rank.0)).collect();
    }
    let opened: Vec<_> = (0..gpus.min(ranks.get())).map(|gpu| open(kind, gpu)).collect::<Result<_>>()?;
    Ok(ranks.ranks().map(|rank| Arc::clone(&opened[rank.index() % opened.len()])).collect())
}

fn open(kind: DeviceKind, ordinal: u32) -> Result<Arc<dyn Device>> {
    Ok(match kind {
        DeviceKind::Cpu => CpuDevice::new(ordinal)?,
        DeviceKind::Cuda => CudaDevice::new(ordinal)?,
    })
}

/// Works on every rank at once, a thread each; outcomes in rank order.
pub(crate) fn on_threads<T: Send>(ranks: Vec<T>, work: impl Fn(T) -> Result<u64> + Sync) -> Vec<(u32, Result<u64>)> {
    let work = &work;
    std::thread::scope(|scope| {
        let threads: Vec<_> = ranks.into_iter().map(|rank| scope.spawn(move || work(rank))).collect();
        let end = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        (0..).zip(threads.into_iter().map(end)).collect()
    })
}

/// Says what failed, each error once with the ranks that had it, and what all outcomes amount to.
pub(crate) fn conclude(outcomes: &[(u32, Result<u64>)]) -> ExitCode {
    let worst = outcomes.iter().map(|(_, outcome)| status(outcome)).max().unwrap_or(exit::OK);
    for line in failures(outcomes) {
        fail(exit::FAILED, &line);
    }
    ExitCode::from(worst)
}

/// A line an error, in order of its first rank. What ranks say of another one's failure is left out where that rank says it too.
fn failures(outcomes: &[(u32, Result<u64>)]) -> Vec<String> {
    let errors = || outcomes.iter().filter_map(|(rank, outcome)| Some((*rank, outcome.as_ref().err()?)));
    let follows = |error: &Error| matches!(error, Error::Aborted { .. } | Error::PeerFailed { .. });
    let causes: Vec<_> = errors().filter(|(_, error)| !follows(error)).map(|(_, error)| error.to_string()).collect();
    let mut lines: Vec<(String, Vec<u32>)> = Vec::new();
    for (rank, error) in errors() {
        let text = error.to_string();
        if follows(error) && causes.iter().any(|cause| text.contains(cause)) {
            continue;
        }
        match lines.iter_mut().find(|(line, _)| *line == text) {
            Some((_, ranks)) => ranks.push(rank),
            None => lines.push((text, vec![rank])),
        }
    }
    let line = |(text, ranks): (String, Vec<u32>)| match &ranks[..] {
        // Most errors name the rank themselves.
        [rank] if text.contains(&format!("rank {rank}")) => text,
        [rank] => format!("rank {rank}: {text}"),
        _ if ranks.len() == outcomes.len() => format!("every rank: {text}"),
        _ => format!("ranks {}: {text}", ranks.iter().map(u32::to_string).collect::<Vec<_>>().join(", ")),
    };
    lines.into_iter().map(line).collect()
}

/// The exit status of one rank.
fn status(outcome: &Result<u64>) -> u8 {
    match outcome {
        Ok(0) => exit::OK,
        Ok(_) => exit::WRONG,
        Err(_) => exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use myelon_ccl::Rank;

    use super::*;

    #[test]
    fn the_worst_rank_decides() {
        let conclude = |outcomes: Vec<Result<u64>>| {
            let outcomes: Vec<_> = (0..).zip(outcomes).collect();
            format!("{:?}", super::conclude(&outcomes))
        };
        let code = |code: u8| format!("{:?}", ExitCode::from(code));
        assert_eq!(conclude(vec![Ok(0), Ok(0)]), code(0));
        assert_eq!(conclude(vec![Ok(5), Ok(5)]), code(1));
        assert_eq!(conclude(vec![Ok(5), Err(Error::invalid("planted"))]), code(3));
        assert_eq!(conclude(vec![Err(Error::invalid("planted")), Ok(0)]), code(3));
    }

    #[test]
    fn an_error_is_told_once_with_its_ranks() {
        let failures = |outcomes: Vec<Result<u64>>| {
            let outcomes: Vec<_> = (0..).zip(outcomes).collect();
            super::failures(&outcomes)
        };
        let planted = || Err(Error::invalid("planted"));
        let told = |rank, detail: &str| Err(Error::Aborted { rank: Rank(rank), detail: detail.into() });
        assert_eq!(failures(vec![planted(), planted()]), ["every rank: planted"]);
        assert_eq!(failures(vec![planted(), Ok(0), planted()]), ["ranks 0, 2: planted"]);
        assert_eq!(failures(vec![told(0, "rank 1 gave up: planted"), planted()]), ["rank 1: planted"]);
        // Nobody here had the error.
        let alone = failures(vec![told(0, "rank 1 gave up: planted"), Ok(0)]);
        assert_eq!(alone, ["aborted: rank 0 was told to stop (rank 1 gave up: planted)"]);
        let both = failures(vec![Err(Error::invalid("other")), planted()]);
        assert_eq!(both, ["rank 0: other", "rank 1: planted"]);
    }
}

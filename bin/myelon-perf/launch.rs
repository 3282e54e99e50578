//! From a request to ranks that measure: threads, processes of our own, or a launcher's.

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::ScopedJoinHandle;

use myelon_ccl::device::cpu::CpuDevice;
use myelon_ccl::device::cuda::CudaDevice;
use myelon_ccl::device::{Device, DeviceKind};
use myelon_ccl::{Communicator, Error, Options, Result, WorldSize};

use crate::here::Here;
use crate::measure::measure;
use crate::place::Place;
use crate::processes;
use crate::request::{Placement, Surroundings, SweepRequest};

use crate::{exit, fail};

/// Ranks that are ready to start.
pub(crate) struct Launch {
    request: SweepRequest,
    ranks: Ranks,
}

/// How they will run, and what they need.
enum Ranks {
    Threads { devices: Vec<Arc<dyn Device>>, options: Options },
    Processes,
    Launched { device: Arc<dyn Device>, options: Options, place: Place },
}

impl Launch {
    /// Opens the devices of this process. Nothing is launched yet.
    ///
    /// Errors: those of [`Options::from_env`] and of the devices; [`Error::InvalidArgument`] for a launched placement
    /// without a place.
    pub(crate) fn prepare(request: SweepRequest, here: &Here) -> Result<Self> {
        // What is measured is prepared case by case.
        let options = Options {
            limits: Some(request.limits()),
            share_devices: request.shares_gpus,
            prepare: Vec::new(),
            ..Options::from_env()?
        };
        let gpus = here.gpus().max(1);
        let ranks = match (request.placement, here.place()) {
            (Placement::Processes, _) => Ranks::Processes,
            (Placement::Threads, _) => {
                Ranks::Threads { devices: devices(request.device, request.ranks, gpus)?, options }
            }
            (Placement::Launched, Some(place)) => {
                // A launcher may show each process one GPU only, or all of them.
                let ordinal = match request.device {
                    DeviceKind::Cpu => place.local_rank,
                    DeviceKind::Cuda => place.local_rank % gpus,
                };
                Ranks::Launched { device: open(request.device, ordinal)?, options, place: place.clone() }
            }
            (Placement::Launched, None) => return Err(Error::invalid("no launcher gave this process a rank")),
        };
        Ok(Self { request, ranks })
    }

    /// Runs the sweep to its end; the exit status says whether every result was right.
    pub(crate) fn run(self) -> ExitCode {
        let request = &self.request;
        match self.ranks {
            Ranks::Processes => processes::run(request),
            Ranks::Launched { device, options, place } => {
                let connected = place.join().and_then(|bootstrap| Communicator::connect(device, bootstrap, options));
                let outcome = connected.and_then(|communicator| measure(communicator, request));
                conclude(&[(place.rank.0, outcome)])
            }
            Ranks::Threads { devices, options } => match Communicator::threads(&devices, &options) {
                Ok(communicators) => {
                    conclude(&on_threads(communicators, |communicator| measure(communicator, request)))
                }
                Err(error) => fail(exit::FAILED, &error.to_string()),
            },
        }
    }
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
pub(crate) fn on_threads(
    communicators: Vec<Communicator>,
    work: impl Fn(Communicator) -> Result<u64> + Sync,
) -> Vec<(u32, Result<u64>)> {
    let work = &work;
    std::thread::scope(|scope| {
        let start = |communicator: Communicator| (communicator.rank().0, scope.spawn(move || work(communicator)));
        let threads: Vec<_> = communicators.into_iter().map(start).collect();
        let end = |thread: ScopedJoinHandle<'_, _>| thread.join().unwrap_or_else(|panic| resume_unwind(panic));
        threads.into_iter().map(|(rank, thread)| (rank, end(thread))).collect()
    })
}

/// Says what failed, rank by rank, and what all outcomes amount to.
pub(crate) fn conclude(outcomes: &[(u32, Result<u64>)]) -> ExitCode {
    let mut worst = exit::OK;
    for (rank, outcome) in outcomes {
        worst = worst.max(status(outcome));
        if let Err(error) = outcome {
            // Most errors name the rank themselves.
            let (who, text) = (format!("rank {rank}"), error.to_string());
            fail(exit::FAILED, &if text.contains(&who) { text } else { format!("{who}: {text}") });
        }
    }
    ExitCode::from(worst)
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
}

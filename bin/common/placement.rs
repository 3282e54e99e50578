//! How many ranks there are, on what, and how they become threads of execution.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::{Error, MAX_WORLD_SIZE, Result, WorldSize};

use super::here::Surroundings;
use super::values::{DeviceArg, PlaceArgs};

/// How ranks become threads of execution.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placement {
    /// A launcher started this process as one rank of several.
    Launched,
    /// This process starts one process a rank.
    Processes,
    /// A thread a rank in this process.
    Threads,
}

/// What the arguments say of ranks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked {
    pub(crate) ranks: Option<WorldSize>,
    /// nccl-tests' name for them, which a launcher makes GPUs of a process.
    pub(crate) ngpus: Option<WorldSize>,
    /// A thread a rank, not a process.
    pub(crate) threads: bool,
    /// Several ranks may use one GPU.
    pub(crate) share_gpus: bool,
}

/// The kind of device that was asked for.
///
/// Errors: [`Error::Unsupported`] for GPUs where there are none.
pub(crate) fn device(asked: DeviceArg, here: &dyn Surroundings) -> Result<DeviceKind> {
    match asked {
        DeviceArg::Cpu => Ok(DeviceKind::Cpu),
        DeviceArg::Auto if here.gpus() == 0 => Ok(DeviceKind::Cpu),
        DeviceArg::Cuda if here.gpus() == 0 => Err(Error::unsupported(
            "--device cuda: this machine has no usable GPU; use --device cpu, or check the driver with nvidia-smi",
        )),
        DeviceArg::Auto | DeviceArg::Cuda => Ok(DeviceKind::Cuda),
    }
}

impl Asked {
    /// With ranks that may share a GPU, or not.
    pub(crate) fn of(place: &PlaceArgs, share_gpus: bool) -> Self {
        let &PlaceArgs { ranks, ngpus, threads, .. } = place;
        Self { ranks, ngpus, threads, share_gpus }
    }

    /// How many ranks there will be.
    ///
    /// Errors: what a launcher or the number of GPUs does not allow.
    pub(crate) fn ranks(&self, device: DeviceKind, here: &dyn Surroundings) -> Result<WorldSize> {
        let gpus = here.gpus();
        if let Some(launched) = here.launched() {
            // A rank that this program started has its arguments, -g among them.
            let ngpus = self.ngpus.filter(|_| !here.is_own_rank());
            return match self.ranks {
                Some(asked) if asked != launched => Err(Error::invalid(format!(
                    "--ranks {asked}, but the launcher started {launched}: leave --ranks out"
                ))),
                _ if ngpus.is_some_and(|ngpus| ngpus.get() != 1) => Err(Error::invalid(
                    "-g above 1, but a launcher started a process a rank, which has one GPU: leave -g out",
                )),
                _ if self.threads => {
                    Err(Error::invalid("--threads, but a launcher started a process a rank: leave one of the two out"))
                }
                _ => Ok(launched),
            };
        }
        let default = if device == DeviceKind::Cpu { 4 } else { gpus.min(MAX_WORLD_SIZE) };
        let ranks = self.ranks.or(self.ngpus).map_or_else(|| WorldSize::new(default), Ok)?;
        if device == DeviceKind::Cuda && ranks.get() > gpus && !self.share_gpus {
            let flag = if self.ngpus.is_some() { "-g" } else { "--ranks" };
            let plural = if gpus == 1 { "" } else { "s" };
            return Err(Error::invalid(format!(
                "{flag} {ranks}, but there are {gpus} GPU{plural}: ask for at most {gpus}, or let ranks share them with --share-gpus"
            )));
        }
        Ok(ranks)
    }

    /// How they run.
    pub(crate) fn placement(&self, device: DeviceKind, here: &dyn Surroundings) -> Placement {
        if here.launched().is_some() {
            Placement::Launched
        } else if self.threads || device == DeviceKind::Cpu {
            Placement::Threads
        } else {
            Placement::Processes
        }
    }
}

//! Ready-made places to run: every GPU of this process, or the rank that a launcher made of it.

use std::sync::Arc;

use super::{Communicator, Options};
use crate::bootstrap::launcher::Launcher;
use crate::bootstrap::{self, TcpOptions};
use crate::device::Device;
use crate::device::cpu::CpuDevice;
use crate::device::cuda::{self, CudaDevice};
use crate::error::{Error, Result};

impl Communicator {
    /// One rank per GPU that this process sees, for a thread each.
    ///
    /// Errors: [`Error::Unsupported`] without a GPU; those of [`Communicator::connect`].
    pub fn all_gpus(options: &Options) -> Result<Vec<Self>> {
        cuda::check_environment()?;
        let count = cuda::device_count()?;
        if count == 0 {
            return Err(Error::unsupported("this process sees no GPU: check CUDA_VISIBLE_DEVICES and nvidia-smi"));
        }
        let open = |ordinal| CudaDevice::new(ordinal).map(|device| device as Arc<dyn Device>);
        Self::threads(&(0..count).map(open).collect::<Result<Vec<_>>>()?, options)
    }

    /// This process's rank in the job that mpirun, srun, torchrun or `MYELON_RANK` made it part of, on the GPU of its local
    /// rank, or on the CPU device where there is no GPU. Collective.
    ///
    /// Errors: [`Error::Config`] when no launcher's variables are set, or wrong ones; those of [`Communicator::connect`].
    pub fn from_env(options: Options) -> Result<Self> {
        Self::from_env_with(&TcpOptions::default(), options)
    }

    /// As [`Communicator::from_env`], whose ranks meet under `meeting`.
    ///
    /// Errors: as [`Communicator::from_env`].
    pub fn from_env_with(meeting: &TcpOptions, options: Options) -> Result<Self> {
        let info = Launcher::from_env(&|name: &str| std::env::var(name).ok())?;
        let info = info.ok_or_else(|| Error::Config {
            source_name: "environment".into(),
            key: "MYELON_RANK".into(),
            detail: "no launcher's variables are set: start the processes with mpirun, srun or torchrun, or set \
                     MYELON_RANK, MYELON_WORLD_SIZE and MYELON_ROOT"
                .into(),
        })?;
        let bootstrap = bootstrap::from_env(meeting)?;
        let bootstrap = bootstrap.ok_or_else(|| Error::invalid("the launcher's variables went away"))?;
        // ORDER: behind the connection, by which the others hear of a device that does not open.
        let device = match cuda::device_count() {
            // A launcher may show each process its own GPU only.
            Ok(count) if count > 0 => CudaDevice::new(info.local_rank % count).map(|device| device as Arc<dyn Device>),
            _ => CpuDevice::new(info.local_rank).map(|device| device as Arc<dyn Device>),
        };
        let device = device.inspect_err(|error| bootstrap.announce_abort(&error.to_string()))?;
        Self::connect(device, Arc::from(bootstrap), options)
    }
}

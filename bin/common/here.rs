//! What a request is checked against: this machine, this build, this process's environment.

use myelon_ccl::baseline;
use myelon_ccl::device::{DeviceKind, cuda};
use myelon_ccl::variant::{Manifest, Shape, dtype_runs_on};
use myelon_ccl::{Collective, DType, ReduceOp, Result, WorldSize};

use super::place::Place;

/// What a request is checked against: this machine and this build.
pub(crate) trait Surroundings {
    /// GPUs that this process may use.
    fn gpus(&self) -> u32;
    /// World size that a launcher (mpirun, torchrun, srun) set; none if this process was started alone.
    fn launched(&self) -> Option<WorldSize>;
    /// Whether that launcher is this very program.
    fn is_own_rank(&self) -> bool;
    /// Whether libnccl can be loaded.
    fn has_nccl(&self) -> bool;
    /// Whether MSCCL++ can be loaded and may be measured.
    ///
    /// Errors: one that says what is missing or in the way, and how to change that.
    fn has_mscclpp(&self) -> Result<()>;
    /// Names of the variants of a collective that can be asked for.
    fn variants(&self, collective: Collective) -> Vec<String>;
    /// Whether `all` takes this variant.
    fn is_enabled(&self, variant: &str) -> bool;
    /// Why a variant cannot serve this, in words that follow "variant 'x' "; none if it can.
    fn refusal(
        &self,
        variant: &str,
        device: DeviceKind,
        ranks: WorldSize,
        dtype: DType,
        op: ReduceOp,
    ) -> Option<String>;
    /// Whether the device has this element type.
    ///
    /// Errors: one that names the type and what it needs.
    fn has(&self, device: DeviceKind, dtype: DType) -> Result<()>;
    /// Whether there is something to run beside all-reduces.
    ///
    /// Errors: one that names what is missing and how to get it.
    fn has_neighbour(&self, device: DeviceKind) -> Result<()>;
    /// Whether a variant takes these parameters.
    ///
    /// Errors: one that names the variant, the parameter, and what would be right.
    fn takes(&self, variant: &str, shape: &Shape) -> Result<()>;
    /// Whether a variant has these parameters, whatever their values.
    fn has_parameters(&self, variant: &str, shape: &Shape) -> bool;
}

/// This machine and this build.
pub(crate) struct Here {
    gpus: u32,
    /// Architecture of the first GPU; those of a job are alike.
    arch: Option<String>,
    place: Option<Place>,
}

impl Here {
    /// Looks at the driver and the environment, once.
    ///
    /// Errors: [`myelon_ccl::Error::Config`] for launcher variables that make no sense.
    pub(crate) fn look() -> Result<Self> {
        // WHY: a machine without a driver has no GPUs, which is no mistake: the CPU takes their place.
        let gpus = cuda::devices().unwrap_or_default();
        let arch = gpus.first().map(|gpu| gpu.arch.clone());
        Ok(Self { gpus: gpus.len() as u32, arch, place: Place::from_env()? })
    }

    /// What kernels are compiled for; none on the CPU.
    fn arch_of(&self, device: DeviceKind) -> Option<&str> {
        self.arch.as_deref().filter(|_| device == DeviceKind::Cuda)
    }

    /// Where a launcher put this process.
    pub(crate) fn place(&self) -> Option<&Place> {
        self.place.as_ref()
    }
}

impl Surroundings for Here {
    fn gpus(&self) -> u32 {
        self.gpus
    }

    fn launched(&self) -> Option<WorldSize> {
        self.place.as_ref().map(|place| place.world_size)
    }

    fn is_own_rank(&self) -> bool {
        self.place.as_ref().is_some_and(Place::is_own)
    }

    fn has_nccl(&self) -> bool {
        baseline::version().is_ok()
    }

    fn has_mscclpp(&self) -> Result<()> {
        baseline::mscclpp_version().map(drop)
    }

    fn variants(&self, collective: Collective) -> Vec<String> {
        let variants = Manifest::embedded().all().filter(|spec| spec.collective == collective);
        variants.map(|spec| spec.name.clone()).collect()
    }

    fn is_enabled(&self, variant: &str) -> bool {
        Manifest::embedded().get(variant).is_ok_and(|spec| spec.enabled)
    }

    fn refusal(
        &self,
        variant: &str,
        device: DeviceKind,
        ranks: WorldSize,
        dtype: DType,
        op: ReduceOp,
    ) -> Option<String> {
        let arch = self.arch_of(device);
        let supported = Manifest::embedded().get(variant).and_then(|spec| {
            spec.supports(dtype, op, ranks)?;
            arch.map_or(Ok(()), |arch| spec.runs_on(arch))
        });
        let message = supported.err()?.to_string();
        let subject = format!("variant {variant} ");
        Some(message.strip_prefix(&subject).map_or_else(|| message.clone(), str::to_owned))
    }

    fn has(&self, device: DeviceKind, dtype: DType) -> Result<()> {
        self.arch_of(device).map_or(Ok(()), |arch| dtype_runs_on(dtype, arch))
    }

    fn has_neighbour(&self, device: DeviceKind) -> Result<()> {
        match device {
            DeviceKind::Cuda => baseline::cublas_version().map(drop),
            DeviceKind::Cpu => Ok(()),
        }
    }

    fn takes(&self, variant: &str, shape: &Shape) -> Result<()> {
        Manifest::embedded().get(variant)?.takes(shape)
    }

    fn has_parameters(&self, variant: &str, shape: &Shape) -> bool {
        Manifest::embedded().get(variant).is_ok_and(|spec| spec.parameters.of(*shape) == *shape)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_variant_of_the_manifest_can_be_asked_for() {
        let here = Here { gpus: 1, arch: Some("sm_80".into()), place: None };
        let ranks = WorldSize::new(2).unwrap();
        for &dtype in DType::ALL {
            assert_eq!(here.has(DeviceKind::Cuda, dtype).is_err(), dtype.is_fp8());
            here.has(DeviceKind::Cpu, dtype).unwrap();
        }
        let known: usize = Collective::ALL.iter().map(|&collective| here.variants(collective).len()).sum();
        assert_eq!(known, Manifest::embedded().all().count());
        for spec in Manifest::embedded().all() {
            assert_eq!(here.is_enabled(&spec.name), spec.enabled);
            for &dtype in DType::ALL {
                for &op in ReduceOp::ALL {
                    let refusal = here.refusal(&spec.name, DeviceKind::Cpu, ranks, dtype, op);
                    assert_eq!(refusal.is_none(), spec.supports(dtype, op, ranks).is_ok());
                    let refusal = here.refusal(&spec.name, DeviceKind::Cuda, ranks, dtype, op);
                    assert_eq!(
                        refusal.is_none(),
                        spec.supports(dtype, op, ranks).is_ok() && spec.runs_on("sm_80").is_ok()
                    );
                    assert!(refusal.is_none_or(|why| !why.contains(&spec.name)), "the caller names the variant");
                }
            }
        }
    }
}

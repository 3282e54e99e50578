//! Runs a checked request.

use std::process::ExitCode;

use myelon_ccl::{DType, Error, ReduceOp, Result, WorldSize};

use crate::request::{Surroundings, SweepRequest};

/// This machine and this build.
pub(crate) struct Here;

impl Surroundings for Here {
    /// Counted by the kernel driver's own list, so that asking does not create a CUDA context.
    fn gpus(&self) -> u32 {
        std::fs::read_dir("/proc/driver/nvidia/gpus").map_or(0, |entries| entries.count() as u32)
    }

    fn launched(&self) -> Option<WorldSize> {
        None
    }

    fn has_nccl(&self) -> bool {
        false
    }

    fn variants(&self) -> Vec<String> {
        Vec::new()
    }

    fn refusal(&self, _variant: &str, _ranks: WorldSize, _dtype: DType, _op: ReduceOp) -> Option<String> {
        Some("is not part of this build".to_owned())
    }
}

/// Measures what was asked for and writes what was asked for; the exit status says whether every result was right.
///
/// Errors: [`Error::Unsupported`] always: this build has no communicator to measure.
pub(crate) fn run(request: SweepRequest) -> Result<ExitCode> {
    Err(Error::unsupported(format!(
        "cannot measure {}: this build has no communicator yet; `report` works",
        request.settings()
    )))
}

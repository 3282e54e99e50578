//! The command line.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};
use ddp_mlp::engine::Library;
use ddp_mlp::trainer::Settings;

/// Trains a perceptron on handwritten digits, on several ranks at once.
///
/// Each rank computes the gradients of its part of every batch. They are averaged over all ranks in buckets, which start while the
/// backward pass still goes on through earlier layers; then every rank takes the same step. So the loss is that of one rank with
/// the whole batch, but for the order of additions.
#[derive(Debug, Parser)]
#[command(name = "ddp-mlp", version, max_term_width = 110, after_help = EXAMPLES)]
pub(crate) struct Args {
    /// Ranks as threads of this process; a launcher (mpirun, torchrun, srun) gives each process its rank instead
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub(crate) ranks: u32,
    /// Where the ranks compute: GPUs need a program built with --features cuda
    #[arg(long, value_enum, default_value_t = Place::Auto)]
    pub(crate) device: Place,
    /// What averages gradients: NCCL needs GPUs
    #[arg(long, value_enum, default_value_t = Library::Myelon)]
    pub(crate) engine: Library,
    /// Type in which gradients travel; on GPUs the model computes in it as well. Parameters stay f32
    #[arg(long, value_enum, default_value_t = Dtype::F32)]
    dtype: Dtype,
    /// Times that all images are gone through
    #[arg(long, value_name = "N", default_value_t = 15)]
    epochs: usize,
    /// Images of a step on all ranks together
    #[arg(long, value_name = "N", default_value_t = 64)]
    batch: usize,
    /// Width of every hidden layer: gradients grow with its square
    #[arg(long, value_name = "N", default_value_t = 512)]
    hidden: usize,
    /// Hidden layers
    #[arg(long, value_name = "N", default_value_t = 2)]
    layers: usize,
    /// Learning rate
    #[arg(long, value_name = "R", default_value_t = 0.1)]
    rate: f64,
    /// Seed of the parameters and of the order of images
    #[arg(long, value_name = "N", default_value_t = 1)]
    seed: u64,
    /// Most KiB of gradients that are averaged by one call: smaller starts earlier, larger calls less often
    #[arg(long, value_name = "KIB", default_value_t = 1024)]
    bucket_kib: usize,
    /// Average after the backward pass instead of beside it, to see what the overlap gains
    #[arg(long)]
    no_overlap: bool,
    /// Also write settings and results to FILE, on rank 0
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

const EXAMPLES: &str = "\
Examples:
  ddp-mlp                          one rank: the loss curve to compare with
  ddp-mlp --ranks 2                two threads: the same curve
  ddp-mlp --ranks 2 --dtype bf16   half the bytes, a slightly different curve

  A process a GPU, wide enough that communication matters: 257 MiB of gradients
  mpirun -np 2 ddp-mlp --hidden 4096 --layers 5 --rate 0.02
  mpirun -np 2 ddp-mlp --hidden 4096 --layers 5 --rate 0.02 --no-overlap
  mpirun -np 2 ddp-mlp --hidden 4096 --layers 5 --rate 0.02 --engine nccl

'waited' is the share of time in which computing gradients had ended and
averaging them had not. What Myelon reads of the environment (MYELON_TIMEOUT,
MYELON_VARIANT and so on) works here as well.";

/// Where ranks compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Place {
    /// GPUs where this program can use them and there are some, else the CPU.
    Auto,
    /// The CPU, with Myelon's kernels on its CPU device.
    Cpu,
    /// GPUs.
    Cuda,
}

/// Type in which gradients travel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Dtype {
    F32,
    Bf16,
}

impl Args {
    /// What is trained.
    pub(crate) fn settings(&self) -> Settings {
        Settings {
            hidden: vec![self.hidden; self.layers],
            batch: self.batch,
            epochs: self.epochs,
            rate: self.rate,
            seed: self.seed,
            bf16: self.dtype == Dtype::Bf16,
            bucket_bytes: self.bucket_kib * 1024,
            overlap: !self.no_overlap,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Args::command().debug_assert();
    }
}

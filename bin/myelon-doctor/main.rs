//! `myelon-doctor`: what this machine has of what Myelon needs, what is wrong with it, and how to mend it.

mod choices;
mod examination;
mod finding;
mod gpus;
mod kernel_cache;
mod libraries;
mod processes;
mod settings;
#[path = "../common/stdout.rs"]
mod stdout;
mod trial;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, ValueEnum};
use myelon_ccl::device::DeviceKind;

use examination::{Examination, Wish};

const AFTER_HELP: &str = "\
Looks at the GPUs and their links, what their memory can be shared by, the driver, NVRTC, NCCL, \
the C++ compiler, MPI, environment variables, the kernel cache, and what auto takes and why.
Then ranks are brought up, as threads and as processes, one a GPU, or two on the CPU device where \
there is none: every pair of ranks stores and loads, and all-reduces of several sizes are \
verified. Nothing waits for ever.

Examples:
  myelon-doctor
      everything, for people
  myelon-doctor --device cuda --json > machine.json
      GPUs have to work; as JSON, for scripts and bug reports
  myelon-doctor --no-trial
      without a context on any GPU

Exit status: 0 nothing is wrong (there may be notes and warnings), 1 something is wrong: the \
findings say what and how to mend it, 2 the arguments cannot be used, 3 the examination cannot \
be written.";

/// The exit status where what was found is lost.
const FAILED: u8 = 3;

/// Examines this machine, and says in words what keeps all-reduce from working on it.
#[derive(Debug, Parser)]
#[command(version, after_help = AFTER_HELP, max_term_width = 110)]
struct Cli {
    /// Where kernels have to run; auto takes GPUs where there are any.
    #[arg(long, value_enum, value_name = "DEVICE", default_value_t = DeviceArg::Auto)]
    device: DeviceArg,
    /// Look only: bring no communicator up.
    #[arg(long)]
    no_trial: bool,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DeviceArg {
    Auto,
    Cuda,
    Cpu,
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if error.use_stderr() => error.exit(),
        Err(help) => {
            stdout::heed(help.print());
            return stdout::end(ExitCode::SUCCESS, FAILED);
        }
    };
    let device = match cli.device {
        DeviceArg::Auto => None,
        DeviceArg::Cuda => Some(DeviceKind::Cuda),
        DeviceArg::Cpu => Some(DeviceKind::Cpu),
    };
    if let Some(id) = std::env::var_os(processes::ID_VARIABLE) {
        return rank(&id.to_string_lossy(), device.unwrap_or(DeviceKind::Cpu));
    }
    let examination = Examination::make(Wish { device, trial: !cli.no_trial });
    let text = if cli.json {
        serde_json::to_string_pretty(&examination).expect("plain data") + "\n"
    } else {
        examination.to_string()
    };
    stdout::print(&text);
    stdout::end(ExitCode::from(u8::from(!examination.is_ok())), FAILED)
}

/// A rank of the trial, which another process of this program started.
fn rank(id: &str, device: DeviceKind) -> ExitCode {
    match processes::as_rank(id, device) {
        Ok(found) => {
            // Where nobody reads, nobody wants it.
            let _ = std::io::stdout().write_all(found.as_bytes());
            ExitCode::SUCCESS
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

//! The trial between processes: this program again, once a rank. Heaps are passed on as file descriptors, over a socket.

use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::device::DeviceKind;
use myelon_ccl::{Communicator, Error, Options, Rank, Result, WorldSize};

use crate::trial::{OfRank, open, operate};

/// Carries the id of the group to the ranks; what has it is a rank. Not an argument, for everybody can read those.
pub(crate) const ID_VARIABLE: &str = "MYELON_DOCTOR_ID";

/// Longest trial: far beyond what compiling and the deadlines of its parts take.
const PATIENCE: Duration = Duration::from_secs(240);
const POLL: Duration = Duration::from_millis(10);

/// Runs every rank in a process of its own, to its end.
///
/// Errors: what the first rank that failed has said; [`Error::Io`] where processes cannot be started.
pub(crate) fn run(device: DeviceKind, ranks: WorldSize) -> Result<Vec<OfRank>> {
    let (id, _server) = UniqueId::create()?;
    let program = std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
    let mut running = Running(Vec::new());
    for rank in ranks.ranks() {
        let mut command = Command::new(&program);
        command
            .args(["--device", &device.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command.env(ID_VARIABLE, id.to_text()).env("MYELON_RANK", rank.to_string());
        command.env("MYELON_LOCAL_RANK", rank.to_string()).env("MYELON_WORLD_SIZE", ranks.to_string());
        running.0.push(command.spawn().map_err(|error| Error::io(format!("starting rank {rank}"), error))?);
    }
    running.wait()?;
    std::mem::take(&mut running.0).into_iter().zip(ranks.ranks()).map(|(child, rank)| answer(child, rank)).collect()
}

/// Processes that do not outlive this value.
struct Running(Vec<Child>);

impl Running {
    /// INVARIANT: ranks say less than a pipe holds, so they end without a reader.
    fn wait(&mut self) -> Result<()> {
        let end = Instant::now() + PATIENCE;
        for (rank, child) in self.0.iter_mut().enumerate() {
            while child.try_wait().map_err(|error| Error::io(format!("waiting for rank {rank}"), error))?.is_none() {
                if Instant::now() > end {
                    let seconds = PATIENCE.as_secs();
                    return Err(Error::unsupported(format!("rank {rank} did not end within {seconds} s: killed")));
                }
                std::thread::sleep(POLL);
            }
        }
        Ok(())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // Both fail only where it has just ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn answer(child: Child, rank: Rank) -> Result<OfRank> {
    let output = child.wait_with_output().map_err(|error| Error::io(format!("hearing rank {rank}"), error))?;
    serde_json::from_slice(&output.stdout).map_err(|_| {
        let said = String::from_utf8_lossy(&output.stderr);
        Error::unsupported(format!("rank {rank} in a process of its own ended with {}: {}", output.status, said.trim()))
    })
}

/// One rank of the trial, with what it found as JSON.
///
/// Errors: whatever keeps it from its operations.
pub(crate) fn as_rank(id: &str, device: DeviceKind) -> Result<String> {
    let number = |name: &str| {
        let text = std::env::var(name).unwrap_or_default();
        text.parse::<u32>().map_err(|_| Error::invalid(format!("{name}: '{text}' is no number")))
    };
    let (rank, ranks) = (Rank(number("MYELON_RANK")?), WorldSize::new(number("MYELON_WORLD_SIZE")?)?);
    let bootstrap = TcpBootstrap::connect(&id.parse::<UniqueId>()?, rank, ranks, &TcpOptions::default())?;
    let options = Options::from_env()?;
    let communicator = Communicator::connect(open(device, rank.0)?, Arc::new(bootstrap), options)?;
    let found = operate(communicator, device)?;
    serde_json::to_string(&found).map_err(|error| Error::invalid(error.to_string()))
}

//! One process a rank: this program again, with the same arguments and a place among the ranks.

use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::UniqueId;
use myelon_ccl::{Error, Result, WorldSize};

use super::place::ID_VARIABLE;
use super::program::{exit, fail};

/// How long the other ranks may take to say what they saw after one has failed; peers hear of a loss within seconds.
const PARTING_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Runs every rank to its end; the worst exit status is the result.
///
/// The ranks meet at a server in this process: where it dies, they notice and end as well.
pub(crate) fn run(world_size: WorldSize) -> ExitCode {
    match run_ranks(world_size) {
        Ok(worst) => ExitCode::from(worst),
        Err(error) => fail(exit::FAILED, &error.to_string()),
    }
}

fn run_ranks(world_size: WorldSize) -> Result<u8> {
    let (id, _server) = UniqueId::create()?;
    let program = std::env::current_exe().map_err(|error| Error::io("finding this program", error))?;
    let mut ranks = Ranks(Vec::new());
    for rank in world_size.ranks() {
        let mut command = Command::new(&program);
        command.args(std::env::args_os().skip(1)).stdin(Stdio::null());
        command.env("MYELON_RANK", rank.to_string()).env("MYELON_LOCAL_RANK", rank.to_string());
        command.env("MYELON_WORLD_SIZE", world_size.to_string()).env(ID_VARIABLE, id.to_text());
        if rank.0 != 0 {
            command.stdout(Stdio::null());
        }
        let child = command.spawn().map_err(|error| Error::io(format!("starting rank {rank}"), error))?;
        ranks.0.push(Running { rank: rank.0, child, status: None });
    }
    ranks.wait()
}

/// Processes that do not outlive this value.
struct Ranks(Vec<Running>);

struct Running {
    rank: u32,
    child: Child,
    status: Option<ExitStatus>,
}

impl Ranks {
    /// Waits for all; once one has failed, no longer than [`PARTING_PATIENCE`].
    fn wait(mut self) -> Result<u8> {
        let (mut worst, mut give_up) = (exit::OK, None);
        loop {
            let mut running = 0;
            for Running { rank, child, status } in self.0.iter_mut().filter(|rank| rank.status.is_none()) {
                *status = child.try_wait().map_err(|error| Error::io(format!("waiting for rank {rank}"), error))?;
                let Some(status) = status else {
                    running += 1;
                    continue;
                };
                let code = code_of(*status);
                // A wrong result is no failure: every rank ends with it, after the same work.
                if code > exit::WRONG {
                    give_up.get_or_insert(Instant::now() + PARTING_PATIENCE);
                }
                if status.code().is_none() {
                    fail(exit::FAILED, &format!("rank {rank} was ended by a signal ({status})"));
                }
                worst = worst.max(code);
            }
            if running == 0 {
                return Ok(worst);
            }
            if give_up.is_some_and(|end| Instant::now() >= end) {
                for rank in self.0.iter().filter(|rank| rank.status.is_none()) {
                    fail(exit::FAILED, &format!("rank {} did not end after another rank failed: killed", rank.rank));
                }
                // Dropping kills them.
                return Ok(worst);
            }
            std::thread::sleep(POLL);
        }
    }
}

impl Drop for Ranks {
    fn drop(&mut self) {
        for Running { child, .. } in self.0.iter_mut().filter(|rank| rank.status.is_none()) {
            // Both fail only where it has just ended.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A rank that a signal ended has failed on the way; so has one with a status that is not in the list, as after a panic.
fn code_of(status: ExitStatus) -> u8 {
    match status.code().map(u8::try_from) {
        Some(Ok(code)) if code <= exit::FAILED => code,
        _ => exit::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(rank: u32, script: &str) -> Running {
        let child = Command::new("sh").args(["-c", script]).spawn().unwrap();
        Running { rank, child, status: None }
    }

    #[test]
    fn the_worst_status_counts() {
        assert_eq!(Ranks(vec![shell(0, "exit 0"), shell(1, "exit 0")]).wait().unwrap(), exit::OK);
        assert_eq!(Ranks(vec![shell(0, "exit 1"), shell(1, "sleep 0.2; exit 1")]).wait().unwrap(), exit::WRONG);
        assert_eq!(Ranks(vec![shell(0, "exit 1"), shell(1, "exit 3")]).wait().unwrap(), exit::FAILED);
        assert_eq!(Ranks(vec![shell(0, "kill -9 $$"), shell(1, "exit 0")]).wait().unwrap(), exit::FAILED);
        assert_eq!(Ranks(vec![shell(0, "exit 101"), shell(1, "exit 0")]).wait().unwrap(), exit::FAILED);
    }

    #[test]
    fn nothing_outlives_the_ranks() {
        let running = shell(0, "exec sleep 600");
        let process = rustix::process::Pid::from_raw(running.child.id() as i32).unwrap();
        rustix::process::test_kill_process(process).unwrap();
        drop(Ranks(vec![running]));
        assert!(rustix::process::test_kill_process(process).is_err());
    }
}

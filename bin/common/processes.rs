//! One process a rank: this program again, with the same arguments and a place among the ranks.

use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::UniqueId;
use myelon_ccl::{Error, Result, WorldSize};
use rustix::process::{Pid, Signal, kill_process};

use super::interrupt::Interrupt;
use super::place::ID_VARIABLE;
use super::program::{exit, fail};

/// How long the other ranks may take to say what they saw after one has failed; peers hear of a loss within seconds.
const PARTING_PATIENCE: Duration = Duration::from_secs(15);
const POLL: Duration = Duration::from_millis(20);

/// Runs every rank to its end; the worst exit status is the result.
///
/// The ranks meet at a server in this process: where it dies, they notice and end as well.
pub(crate) fn run(world_size: WorldSize, interrupt: &Interrupt) -> ExitCode {
    match run_ranks(world_size, interrupt) {
        Ok(worst) => ExitCode::from(worst),
        Err(error) => fail(exit::FAILED, &error.to_string()),
    }
}

fn run_ranks(world_size: WorldSize, interrupt: &Interrupt) -> Result<u8> {
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
    ranks.wait(interrupt)
}

/// Processes that do not outlive this value.
struct Ranks(Vec<Running>);

struct Running {
    rank: u32,
    child: Child,
    status: Option<ExitStatus>,
}

impl Ranks {
    /// Waits for all; once one has failed, no longer than [`PARTING_PATIENCE`]. An interrupt is passed on.
    fn wait(mut self, interrupt: &Interrupt) -> Result<u8> {
        let (mut worst, mut give_up, mut is_told) = (exit::OK, None, false);
        loop {
            if interrupt.came() && !is_told {
                is_told = true;
                for Running { child, .. } in self.0.iter().filter(|rank| rank.status.is_none()) {
                    // Fails only where it has just ended.
                    let _ = kill_process(Pid::from_child(child), Signal::USR1);
                }
            }
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
        for (scripts, expected) in [
            (["exit 0", "exit 0"], exit::OK),
            (["exit 1", "sleep 0.2; exit 1"], exit::WRONG),
            (["exit 1", "exit 3"], exit::FAILED),
            (["kill -9 $$", "exit 0"], exit::FAILED),
            (["exit 101", "exit 0"], exit::FAILED),
        ] {
            let ranks = Ranks((0..).zip(scripts).map(|(rank, script)| shell(rank, script)).collect());
            assert_eq!(ranks.wait(&Interrupt::default()).unwrap(), expected, "{scripts:?}");
        }
    }

    #[test]
    fn an_interrupt_is_passed_on() {
        let directory = tempfile::tempdir().unwrap();
        let ready = directory.path().join("ready");
        let script = format!("trap 'exit 1' USR1; : >'{}'; while :; do sleep 0.05; done", ready.display());
        let rank = shell(0, &script);
        while !ready.exists() {
            std::thread::sleep(POLL);
        }
        assert_eq!(Ranks(vec![rank]).wait(&Interrupt::now()).unwrap(), exit::WRONG);
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

//! Ranks that are processes, and what the others notice when one is killed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use myelon_ccl::Error;

use crate::rig::{ELEMENTS, Rig, variants, with_timeout};
use crate::support::group::{self, Group};

const WORLD: u32 = 3;
/// A kernel would wait this long for a peer: far longer than the control plane takes to notice.
const PATIENT: Duration = Duration::from_secs(300);

/// A rank's life in a process of its own; without the environment that makes it one, there is nothing to do.
#[test]
fn rank_process() {
    let Some(communicator) = group::join(with_timeout(PATIENT)) else { return };
    let name = std::env::var("TEST_VARIANT").unwrap();
    let rig = Rig::new(communicator, variants().iter().find(|variant| variant.name == name).unwrap());
    rig.works();
    println!("works");
    let rounds: u32 = std::env::var("TEST_ROUNDS").unwrap().parse().unwrap();
    for round in 0..rounds {
        rig.fill(round % 7);
        if let Err(error) = rig.sum(ELEMENTS) {
            let Error::PeerLost { peer, .. } = &error else { panic!("{error}") };
            println!("lost {peer}: {error}");
            return;
        }
        rig.check(round % 7);
    }
    println!("finished");
}

/// A rank that is killed when its test ends, whatever the outcome.
struct Process {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
}

impl Process {
    fn start(group: &Group, rank: u32, variant: &str, rounds: u32) -> Self {
        let mut command = group.command(rank, "processes::rank_process");
        command.env("TEST_VARIANT", variant).env("TEST_ROUNDS", rounds.to_string());
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    /// The rest of the next line that has `word` in it; what comes before the word is the test harness's.
    fn hear(&mut self, word: &str) -> String {
        let line = self.lines.by_ref().map(|line| line.unwrap()).find_map(|line| {
            let at = line.find(word)?;
            Some(line[at + word.len()..].to_owned())
        });
        line.unwrap_or_else(|| panic!("the process ended before it said '{word}'"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn start_all(variant: &str, rounds: u32) -> (Group, Vec<Process>) {
    let group = Group::new(WORLD);
    let mut ranks: Vec<_> = group.ranks().map(|rank| Process::start(&group, rank, variant, rounds)).collect();
    for rank in &mut ranks {
        rank.hear("works");
    }
    (group, ranks)
}

#[test]
fn processes_reduce_together_with_every_variant() {
    for variant in variants() {
        let (_group, mut ranks) = start_all(&variant.name, 20);
        for rank in &mut ranks {
            rank.hear("finished");
            assert!(rank.child.wait().unwrap().success());
        }
    }
}

#[test]
fn a_killed_process_is_lost_to_all_others_while_they_wait_for_it() {
    for variant in variants() {
        let (_group, mut ranks) = start_all(&variant.name, u32::MAX);
        let start = Instant::now();
        ranks[1].child.kill().unwrap();
        for rank in [0, 2] {
            let said = ranks[rank].hear("lost ");
            assert!(said.starts_with("1: "), "{}: {said}", variant.name);
            assert!(start.elapsed() < Duration::from_secs(10), "{}: {said}", variant.name);
            assert!(ranks[rank].child.wait().unwrap().success());
        }
    }
}

//! Planted bugs: each one in `mutants.toml` must make a run fail that passes without it, and for the right reason.
//!
//! The kernels are copied, one text is replaced, and a child of this program runs them through `MYELON_KERNEL_TREE`.
//! So a bug of this kind cannot slip past the conformance tests and sanitizers unnoticed, and neither can a test that
//! no longer tests anything.

#[path = "../support/mod.rs"]
mod support;

mod barriers;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use myelon_ccl::device::source;
use serde::Deserialize;

use support::child::{self, Outcome};
use support::runs::Run;

/// Longest run of a child on broken kernels: what takes longer has hung.
const DEADLINE: Duration = Duration::from_secs(60);
/// The same on the kernels as they are, where every operation of a run is done, and all its kernels are compiled, on busy machines.
const AS_IS_DEADLINE: Duration = Duration::from_secs(300);
/// `MYELON_TIMEOUT` of a child, in seconds: a wait that is longer has stalled. Machines that test are busy machines: a
/// whole run of compiled kernels took 0.11 to 0.16 s where it was looked at. The second is for children under a sanitizer.
const TIMEOUTS: [&str; 2] = ["2", "4"];
/// Names the run that a child performs.
const RUN_VARIABLE: &str = "MYELON_TEST_RUN";

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plan {
    run: Vec<Run>,
    mutant: Vec<Mutant>,
    unseen: Vec<Unseen>,
}

/// One planted bug.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Mutant {
    name: String,
    /// Relative to `cuda/`.
    file: String,
    /// Occurs exactly once in the file.
    from: String,
    to: String,
    /// The run that fails.
    run: String,
    /// The calls it weakens or leaves out, as docs/BARRIERS.md names them.
    #[serde(default)]
    breaks: Vec<String>,
    /// How it fails: one of these.
    caught_as: Vec<Reason>,
}

/// A change to ordered calls that no run can show.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Unseen {
    change: String,
    /// As in [`Mutant::breaks`].
    breaks: Vec<String>,
    why: String,
    /// Patterns of `tests/litmus.rs` that try on GPUs what the calls rest on.
    #[serde(default)]
    litmus: Vec<String>,
}

/// How a run can fail.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Reason {
    /// A result that differs from the reference.
    WrongResult,
    /// A guard byte is gone.
    WroteOutside,
    /// A wait passed its deadline.
    Stalled,
    /// Ranks found out that their operations differ.
    Mismatch,
    /// ThreadSanitizer's report.
    DataRace,
    /// AddressSanitizer's report.
    OutsideMemory,
    /// A communicator that came up wrong.
    Unreachable,
    /// An operation that could not complete ended without an error.
    Unnoticed,
    /// A stall was blamed on somebody else.
    WrongCulprits,
    /// The CPU device: not all threads of a CTA come to a barrier.
    DivergentBarrier,
    /// The CPU device: a bulk copy nobody waited for, or an mbarrier out of step.
    BulkCopy,
    /// Nothing ended the child but its deadline.
    Hung,
}

/// The words that only this reason brings with it.
const SIGNS: [(&str, Reason); 19] = [
    ("ERROR: AddressSanitizer", Reason::OutsideMemory),
    ("WARNING: ThreadSanitizer: data race", Reason::DataRace),
    ("wrote past its output", Reason::WroteOutside),
    ("expected [", Reason::WrongResult),
    ("wrong culprits", Reason::WrongCulprits),
    ("ended as if all was well", Reason::Unnoticed),
    ("NoPeerAccess {", Reason::Unreachable),
    ("Stalled {", Reason::Stalled),
    // A rank that heard of a peer's stall before its own.
    ("waited too long", Reason::Stalled),
    // One that heard of it from the control plane.
    ("stalled: rank", Reason::Stalled),
    ("PeerMismatch {", Reason::Mismatch),
    // A rank that heard of it from a peer.
    ("operations differ", Reason::Mismatch),
    // One that heard of it from the control plane.
    ("disagree on operation", Reason::Mismatch),
    ("wait at a barrier", Reason::DivergentBarrier),
    ("bulk loads under way", Reason::BulkCopy),
    ("bulk stores under way", Reason::BulkCopy),
    ("more arrivals than a phase has", Reason::BulkCopy),
    ("more bytes loaded than their mbarrier expects", Reason::BulkCopy),
    ("a barrier after a thread of the CTA has returned", Reason::DivergentBarrier),
];

fn plan() -> Plan {
    toml::from_str(include_str!("mutants.toml")).unwrap_or_else(|error| panic!("mutants.toml: {error}"))
}

/// What a child performs: the run of its environment, or without one the first, on the kernels at hand.
#[test]
fn one_run() {
    let wanted = std::env::var(RUN_VARIABLE).ok();
    if wanted.is_some() {
        child::end_at_first_panic();
    }
    let run = plan().run.into_iter().find(|run| wanted.as_ref().is_none_or(|name| run.name == *name));
    run.unwrap_or_else(|| panic!("no run is called {wanted:?}")).perform();
}

/// A run in a child, on the kernels below `tree`. `None` where this machine lacks what the run needs.
fn run_on(tree: &Path, run: &Run, cache: &Path, deadline: Duration) -> Option<Outcome> {
    let mut command = child::command("one_run");
    command.env(RUN_VARIABLE, &run.name).env("MYELON_TIMEOUT", TIMEOUTS[usize::from(run.sanitizer.is_some())]);
    command.env("MYELON_CACHE", cache).env(source::TREE_VARIABLE, tree).envs(&run.environment);
    if let Some(sanitizer) = &run.sanitizer
        && !child::watch(&mut command, sanitizer)
    {
        return None;
    }
    Some(child::run(command, deadline))
}

/// Copies the kernels, with one text replaced.
fn plant(mutant: Option<&Mutant>, tree: &Path) -> Result<(), String> {
    let mut planted = mutant.is_none();
    for &(name, text) in source::files().unwrap() {
        let file = tree.join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        let changed = match mutant.filter(|mutant| mutant.file == name) {
            None => text.to_owned(),
            Some(mutant) => {
                planted = true;
                let times = text.matches(&mutant.from).count();
                if times != 1 {
                    return Err(format!("`{}` stands {times} times in {name}: make it stand once", mutant.from));
                }
                text.replacen(&mutant.from, &mutant.to, 1)
            }
        };
        fs::write(file, changed).unwrap();
    }
    if planted { Ok(()) } else { Err("its file does not exist".into()) }
}

fn reason_of(outcome: &Outcome) -> Option<Reason> {
    let first = SIGNS.iter().filter_map(|&(sign, reason)| Some((outcome.text.find(sign)?, reason)));
    let first = first.min_by_key(|(at, _)| *at).map(|(_, reason)| reason);
    first.or(outcome.status.is_none().then_some(Reason::Hung))
}

/// Calls `work` with every index below `count`, on two threads; the first `idle` of them, which only wait, each on one of its own.
fn in_parallel(count: usize, idle: usize, work: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(idle);
    std::thread::scope(|scope| {
        let work = &work;
        for index in 0..idle {
            scope.spawn(move || work(index));
        }
        for _ in 0..2 {
            scope.spawn(|| {
                while let Some(index) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|index| *index < count) {
                    work(index);
                }
            });
        }
    });
}

#[test]
fn every_mutant_is_caught_and_the_kernels_as_they_are_pass() {
    let Plan { run: runs, mutant: mutants, .. } = plan();
    // A hang takes the whole deadline, and no processor.
    let (hangs, others): (Vec<_>, Vec<_>) = mutants.into_iter().partition(|mutant| mutant.caught_as == [Reason::Hung]);
    let idle = hangs.len();
    let mutants: Vec<_> = hangs.into_iter().chain(others).collect();
    let place = tempfile::tempdir().unwrap();
    // What is not broken may have been compiled for other tests already, where they all have a cache.
    let cache = std::env::var_os("MYELON_CACHE").map_or_else(|| place.path().join("cache"), PathBuf::from);
    let by_name: HashMap<_, _> = runs.iter().map(|run| (run.name.as_str(), run)).collect();
    let complaints = Mutex::new(Vec::new());
    let complain = |text: String| complaints.lock().unwrap().push(text);

    let as_is = place.path().join("as-is");
    plant(None, &as_is).unwrap();
    in_parallel(runs.len() + mutants.len(), idle, |index| {
        let start = Instant::now();
        let told = |name: &str, what: &str| eprintln!("{:>6.1} s  {name}: {what}", start.elapsed().as_secs_f32());
        if let Some(run) = index.checked_sub(mutants.len()).map(|index| &runs[index]) {
            match run_on(&as_is, run, &cache, AS_IS_DEADLINE).filter(|_| run.is_possible()) {
                Some(outcome) if !outcome.passed() => {
                    complain(format!("run {} fails on the kernels as they are: {outcome}", run.name));
                }
                Some(_) => told(&run.name, "passes"),
                None => told(&run.name, "not possible here"),
            }
            return;
        }
        let mutant = &mutants[index];
        let tree = place.path().join(format!("mutant-{index}"));
        let Some(run) = by_name.get(mutant.run.as_str()) else {
            return complain(format!("{}: no run is called {}", mutant.name, mutant.run));
        };
        if let Err(problem) = plant(Some(mutant), &tree) {
            return complain(format!("{}: {problem}", mutant.name));
        }
        let Some(outcome) = run_on(&tree, run, &cache, DEADLINE).filter(|_| run.is_possible()) else {
            return told(&mutant.name, "not possible here");
        };
        match reason_of(&outcome) {
            _ if outcome.passed() => complain(format!("{}: run {} did not notice", mutant.name, run.name)),
            Some(reason) if mutant.caught_as.contains(&reason) => told(&mutant.name, &format!("{reason:?}")),
            reason => complain(format!(
                "{}: caught as {reason:?} where one of {:?} was expected: {outcome}",
                mutant.name, mutant.caught_as
            )),
        }
    });
    let complaints = complaints.into_inner().unwrap();
    assert!(complaints.is_empty(), "{} complaints:\n{}", complaints.len(), complaints.join("\n"));
}

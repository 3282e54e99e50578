//! `myelon-perf` as scripts see it: one line and the documented exit status for bad input, files, and reports.
#![cfg(feature = "cli")]

mod compares;
mod launched;
mod overlaps;
mod reports;
mod studies;
mod sweeps;

use std::path::Path;
use std::process::{Command, Output};

use myelon_ccl::measure::{Results, Row, Stored};

/// Kernels are compiled once for all tests.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");

/// The program, unaware of who runs the tests: no launcher, no settings, no GPU.
fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_myelon-perf"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["MYELON_", "OMPI_", "PMI"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).current_dir(directory).env("MYELON_CACHE", CACHE);
    command
}

fn perf(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().unwrap()
}

/// Expects status 0 and reads what `--json run.json` wrote.
#[track_caller]
fn measured(directory: &Path, arguments: &[&str]) -> Vec<Row> {
    let output = perf(directory, &[arguments, &["--device", "cpu", "--json", "run.json"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("these are the real kernels on the CPU; the times mean nothing"));
    Results::read(&directory.join("run.json")).unwrap().rows
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

/// Expects status 2, nothing on standard output, and one line that has all of `parts`.
#[track_caller]
fn refused(directory: &Path, arguments: &[&str], parts: &[&str]) {
    let output = perf(directory, arguments);
    let message = text(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
    assert!(output.stdout.is_empty(), "{arguments:?}");
    assert!(message.starts_with("error: ") && message.lines().count() == 1, "{arguments:?}: {message}");
    for part in parts {
        assert!(message.contains(part), "{arguments:?}: '{part}' is missing from: {message}");
    }
}

#[test]
fn what_cannot_be_printed_is_a_failure_in_one_line_and_files_are_written_all_the_same() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let full = || std::fs::File::options().write(true).open("/dev/full").unwrap();
    std::fs::write(here.join("stored.json"), reports::RESULTS).unwrap();
    let sweep = [
        "--device",
        "cpu",
        "--ranks",
        "2",
        "--variant",
        "ring",
        "-b",
        "1K",
        "-e",
        "1K",
        "-n",
        "1",
        "-w",
        "0",
        "--json",
        "run.json",
    ];
    let cases: [&[&str]; 4] = [&sweep, &["report", "stored.json"], &["compare", "stored.json"], &["--help"]];
    for arguments in cases {
        let output = command(here, arguments).stdout(full()).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{arguments:?}: {message}");
        assert!(message.starts_with("error: cannot write to standard output: "), "{arguments:?}: {message}");
        assert_eq!(message.lines().count(), 1, "{arguments:?}: {message}");
    }
    assert_eq!(Results::read(&here.join("run.json")).unwrap().rows.len(), 1);

    let lost_log = command(here, &sweep).env("MYELON_LOG", "debug").stderr(full()).output().unwrap();
    assert_eq!(lost_log.status.code(), Some(0), "a log that cannot be written ends nothing");
    assert!(text(&lost_log.stdout).contains("0 OK"), "{}", text(&lost_log.stdout));
}

#[test]
fn what_every_rank_would_say_is_said_once() {
    let directory = tempfile::tempdir().unwrap();
    let told = |arguments: &[&str], setting: Option<(&str, &str)>, status: i32, part: &str| {
        let output = command(directory.path(), arguments).envs(setting).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(status), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.lines().count() == 1, "{arguments:?}: {message}");
        assert!(message.contains(part), "{arguments:?}: {message}");
    };
    let (sweep, neighbour) = (["--device", "cpu", "--ranks", "4"], ["neighbour", "--device", "cpu"]);
    for setting in [("MYELON_CACHE", "/proc/kernels"), ("MYELON_KERNEL_TREE", "/nowhere/cuda")] {
        told(&sweep, Some(setting), 2, setting.0);
        told(&neighbour, Some(setting), 2, setting.0);
    }
    // More than there are addresses.
    let room = "no room for 512 TiB of operands a rank, 2048 TiB for 4 ranks";
    told(&[&sweep[..], &["-b", "256T", "-e", "256T", "-n", "1"]].concat(), None, 3, room);
}

#[test]
fn help_documents_flags_examples_and_statuses() {
    let output = perf(Path::new("."), &["--help"]);
    assert_eq!(output.status.code(), Some(0));
    for part in
        ["-b, --minbytes", "-G, --cudagraph", "--share-gpus", "Examples:", "mpirun", "Exit status: 0", "2 the request"]
    {
        assert!(text(&output.stdout).contains(part), "'{part}' is missing");
    }
}

//! Ranks that are processes: a launcher's, or started by a parent.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use myelon_ccl::bootstrap::UniqueId;
use myelon_ccl::measure::{Results, Stored};
use rustix::process::{Pid, Signal, kill_process};

use crate::{command, text};

/// As a launcher starts them; the ranks meet at a port that was free a moment ago.
pub(crate) fn launched(directory: &Path, arguments: &[&str]) -> [Command; 2] {
    let root = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    ["0", "1"].map(|rank| {
        let mut command = command(directory, arguments);
        command.env("MYELON_RANK", rank).env("MYELON_WORLD_SIZE", "2").env("MYELON_ROOT", &root);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    })
}

#[test]
fn ranks_of_a_launcher_measure_together_and_one_prints() {
    let directory = tempfile::tempdir().unwrap();
    let size = ["-b", "1K", "-e", "4K", "-n", "2", "-w", "1"];
    let line = [&["--device", "cpu", "--variant", "auto", "--json", "run.json"][..], &size].concat();
    let running = launched(directory.path(), &line).map(|mut rank| rank.spawn().unwrap());
    let [first, second] = running.map(|rank| rank.wait_with_output().unwrap());
    for output in [&first, &second] {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(text(&first.stdout).contains("# 2 cpu ranks") && second.stdout.is_empty());
    let rows = Results::read(&directory.path().join("run.json")).unwrap().rows;
    assert_eq!(rows.iter().map(|row| (row.bytes, row.wrong)).collect::<Vec<_>>(), [(1024, Some(0)), (4096, Some(0))]);
}

/// The ranks' half of a run that starts a process a rank: they meet at a server of their parent.
#[test]
fn ranks_meet_at_the_server_of_the_process_that_started_them() {
    let directory = tempfile::tempdir().unwrap();
    let (id, server) = UniqueId::create().unwrap();
    let line = ["--device", "cpu", "--variant", "auto", "-b", "1K", "-e", "1K", "-n", "1", "--ranks", "2"];
    let running = launched(directory.path(), &line)
        .map(|mut rank| rank.env_remove("MYELON_ROOT").env("MYELON_GROUP_ID", id.to_text()).spawn().unwrap());
    let outputs = running.map(|rank| rank.wait_with_output().unwrap());
    drop(server);
    for output in &outputs {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(text(&outputs[0].stdout).contains("0 OK"));
    let other_size = command(directory.path(), &["--device", "cpu", "--ranks", "3"])
        .envs([("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2"), ("MYELON_GROUP_ID", &id.to_text())])
        .output()
        .unwrap();
    assert_eq!(other_size.status.code(), Some(2));
    assert!(text(&other_size.stderr).contains("the launcher started 2"), "{}", text(&other_size.stderr));
}

#[test]
fn a_lost_rank_ends_the_others_and_the_results_so_far_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let size = ["-b", "4", "-e", "1M", "-i", "4", "-n", "1", "-w", "0"];
    let line = [&["--device", "cpu", "--variant", "auto", "--json", "run.json"][..], &size].concat();
    let [mut first, mut second] = launched(directory.path(), &line);
    let mut first = first.spawn().unwrap();
    let mut second = second.spawn().unwrap();
    // Rows come as they are measured: once there is one, the ranks are in the middle of the sweep.
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(first.stdout.take().unwrap()));
    assert!(lines.any(|line| !line.unwrap().starts_with('#')), "no row came");
    second.kill().unwrap();
    second.wait().unwrap();
    // Read on, so that the first rank is not held up by a full pipe.
    let _ = lines.count();
    let output = first.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("rank 1"), "{}", text(&output.stderr));
    assert!(!Results::read(&directory.path().join("run.json")).unwrap().rows.is_empty());
}

#[test]
fn an_interrupt_of_any_rank_ends_all_and_the_results_so_far_are_kept() {
    let directory = tempfile::tempdir().unwrap();
    let size = ["-b", "4", "-e", "1M", "-i", "4", "-n", "1", "-w", "0"];
    let line = [&["--device", "cpu", "--variant", "auto", "--json", "run.json"][..], &size].concat();
    let [mut first, second] = launched(directory.path(), &line).map(|mut rank| rank.spawn().unwrap());
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(first.stdout.take().unwrap()));
    assert!(lines.any(|line| !line.unwrap().starts_with('#')), "no row came");
    kill_process(Pid::from_child(&second), Signal::INT).unwrap();
    let _ = lines.count();
    let [first, second] = [first, second].map(|rank| rank.wait_with_output().unwrap());
    assert_eq!((first.status.code(), second.status.code()), (Some(3), Some(0)), "{}", text(&second.stderr));
    assert!(text(&first.stderr).contains("rank 0 was cut after "), "{}", text(&first.stderr));
    assert!(!Results::read(&directory.path().join("run.json")).unwrap().rows.is_empty());
}

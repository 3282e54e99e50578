//! One run held against another, and `auto` against what was measured beside it.

use std::path::Path;

use myelon_ccl::measure::{Results, Row, Stored, Summary};

use crate::reports::{RESULTS, TORCH};
use crate::{perf, refused, text};

/// The stored run with this time of `auto`, and what `edit` makes of it.
fn write(directory: &Path, name: &str, auto_us: f64, edit: impl Fn(&mut Results)) {
    let mut run = Results::parse(RESULTS, "run.json").unwrap();
    for row in &mut run.rows {
        row.time_us = Summary { min: row.time_us.p50 * 0.99, ..row.time_us };
    }
    run.rows[0].time_us = Summary { p50: auto_us, p99: auto_us * 2.0, min: auto_us * 0.99 };
    edit(&mut run);
    run.write(&directory.join(name)).unwrap();
}

#[test]
fn the_status_says_whether_a_run_became_worse() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "before.json", 4.0, |_| {});
    write(here, "same.json", 4.1, |_| {});
    write(here, "slower.json", 4.8, |_| {});
    write(here, "faster.json", 3.0, |_| {});
    write(here, "wrong.json", 4.0, |run| run.rows[0].wrong = Some(1));
    write(here, "slow_machine.json", 4.8, |run| {
        run.rows[1].time_us = Summary { p50: 9.9, p99: 20.0, min: 9.8 };
    });
    write(here, "more.json", 4.0, |run| {
        let ring = Row { requested: "ring".into(), ..run.rows[0].clone() };
        run.provenance.driver = "590.1".into();
        run.rows.push(ring);
    });
    let cases = [
        ("same.json", None, 0, "\n1 row of Myelon at 5 %: 0 broken, 0 slower, 0 noise, 1 same, 0 faster, 0 mended\n"),
        ("slower.json", None, 1, "+20.0%"),
        ("slower.json", Some("25"), 0, "at 25 %: 0 broken, 0 slower, 0 noise, 1 same"),
        ("faster.json", None, 0, "1 faster"),
        ("wrong.json", None, 1, "1 broken"),
        ("wrong.json", None, 1, "\n1 row has wrong elements\n"),
        ("slow_machine.json", None, 0, "1 noise"),
        ("more.json", None, 0, "only after: 1\n  ring at 1K"),
        ("more.json", None, 0, "differs driver: 580.159 before, 590.1 after"),
    ];
    for (after, threshold, status, says) in cases {
        let mut line = vec!["compare", "before.json", after];
        line.extend(threshold.into_iter().flat_map(|threshold| ["--threshold", threshold]));
        let output = perf(here, &line);
        assert_eq!(output.status.code(), Some(status), "{line:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).contains(says), "{line:?}: '{says}' is missing from {}", text(&output.stdout));
    }
}

#[test]
fn what_was_wrong_before_is_mended() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "wrong.json", 4.0, |run| run.rows[0].wrong = Some(1));
    write(here, "right.json", 9.0, |_| {});
    let output = perf(here, &["compare", "wrong.json", "right.json"]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("0 faster, 1 mended\n"), "{}", text(&output.stdout));
}

#[test]
fn runs_of_two_machines_are_compared_only_where_that_is_asked_for() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "h200.json", 4.0, |_| {});
    write(here, "b200.json", 3.0, |run| run.provenance.gpu = "NVIDIA B200".into());
    let line = ["compare", "h200.json", "b200.json"];
    let parts = ["h200.json and b200.json are of different machines", "8x NVIDIA B200", "add --any-machine"];
    refused(here, &line, &parts);
    let output = perf(here, &[&line[..], &["--any-machine"]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("need not be one of Myelon"), "{}", text(&output.stdout));
}

#[test]
fn the_status_says_whether_auto_is_behind() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "ahead.json", 4.0, |_| {});
    write(here, "behind.json", 4.0, |run| run.rows[1].time_us = Summary { p50: 3.8, p99: 4.0, min: 3.79 });
    for (file, within, status) in [
        ("ahead.json", Some("3"), 0),
        ("behind.json", None, 0),
        ("behind.json", Some("3"), 1),
        ("behind.json", Some("10"), 0),
    ] {
        let mut line = vec!["compare", file];
        line.extend(within.into_iter().flat_map(|within| ["--auto-within", within]));
        let output = perf(here, &line);
        assert_eq!(output.status.code(), Some(status), "{line:?}: {}{}", text(&output.stdout), text(&output.stderr));
        assert!(text(&output.stdout).starts_with("auto: 8 ranks, f32 sum"), "{}", text(&output.stdout));
    }
    let both = perf(here, &["compare", "ahead.json", "behind.json", "--auto-within", "3"]);
    assert_eq!(both.status.code(), Some(1), "{}", text(&both.stdout));
    assert!(text(&both.stdout).contains("1 same") && text(&both.stdout).contains("in 1 of 1 cases"));
}

#[test]
fn what_cannot_be_compared_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    write(here, "run.json", 4.0, |_| {});
    write(here, "other.json", 4.0, |run| run.rows.iter_mut().for_each(|row| row.bytes *= 2));
    write(here, "named.json", 4.0, |run| run.rows[0].requested = "ring".into());
    std::fs::write(here.join("torch.json"), TORCH).unwrap();
    let cases: [(&[&str], &[&str]); 11] = [
        (&["compare"], &["required", "RESULTS"]),
        (&["compare", "run.json", "none.json"], &["cannot read none.json"]),
        (&["compare", "run.json", "other.json"], &["run.json and other.json have no row of Myelon in common"]),
        (&["compare", "named.json"], &["named.json: no right row of auto", "--variant all"]),
        (&["compare", "run.json", "run.json", "--threshold", "nan"], &["'nan'", "a number of percent"]),
        (&["compare", "run.json", "run.json", "run.json"], &["run.json"]),
        (&["compare", "run.json", "--threshold", "5"], &["--threshold is for two files, and run.json is one"]),
        (&["compare", "run.json", "--any-machine"], &["--any-machine is for two files"]),
        (&["compare", "run.json", "--auto-within", "3", "--all"], &["--all is for two files", "the earlier run"]),
        (&["compare", "run.json", "--all", "--threshold", "5"], &["--threshold and --all are for two files"]),
        (&["compare", "torch.json"], &["torch.json is a file of PyTorch's benchmark", "for python/bench/report.py"]),
    ];
    for (arguments, parts) in cases {
        refused(here, arguments, parts);
    }
}

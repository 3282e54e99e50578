//! Sweeps and the neighbour, in ranks that are threads.

use std::process::Stdio;

use myelon_ccl::measure::neighbour::{self, Neighbours, Work};
use myelon_ccl::measure::text::counted;
use myelon_ccl::measure::{Results, Stored};
use myelon_ccl::variant::Manifest;
use myelon_ccl::{Output, Wait};
use rustix::process::{Pid, Signal, kill_process};

use crate::{command, measured, perf, refused, text};

#[test]
fn bad_sweeps_are_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let cases: [(&[&str], &[&str]); 51] = [
        (&["--variant", ""], &["an empty name: --variant takes auto, all"]),
        (&["--device", "cpu", "--budget", "3", "-n", "1"], &["--budget is for the studies of --ablate"]),
        (&["-b", "-1"], &["'-1' is not a size", "64M"]),
        (&["-n", "abc"], &["'abc'", "--iters", "write a whole number, 0 or more"]),
        (&["-n", "-4"], &["'-4'", "--iters", "write a whole number, 0 or more"]),
        (&["-f", "1.5"], &["'1.5'", "--stepfactor", "write a whole number"]),
        (&["--slots", "-2"], &["'-2'", "--slots", "write a whole number"]),
        (&["-n", "4294967296"], &["too large, write a smaller"]),
        (&["-b", "8", "-e", "128M", "-f", "2", "-g", "8", "-m", "4"], &["nccl-tests' -m is --batch COUNT here"]),
        (&["-R", "1"], &["nccl-tests' -R is --registered here"]),
        (&["-Jx.json"], &["nccl-tests' -J is --json FILE here"]),
        (&["--average", "1"], &["nccl-tests' --average has no counterpart", "the slowest rank"]),
        (&["--ablate", "studies.toml"], &["'studies.toml' is no subcommand", "write --ablate=studies.toml"]),
        (&["--batch", "257"], &["257", "0..=256"]),
        (&["--batch", "2", "-G", "2"], &["cannot be used with", "--cudagraph"]),
        (&["--between", "--batch", "2"], &["cannot be used with", "--batch"]),
        (&["--between", "--overlap"], &["cannot be used with", "--overlap"]),
        (&["-b", "12Q"], &["'12Q' is not a size", "64M"]),
        (&["-b", "2M", "-e", "1M"], &["2M is larger", "swap -b and -e"]),
        (&["-f", "1"], &["-f 1", "2 or more"]),
        (&["-f", "2", "-i", "1K"], &["cannot be used with"]),
        (&["--ranks", "9"], &["9 ranks", "1 to 8"]),
        (&["--device", "tpu"], &["tpu", "auto, cuda, cpu"]),
        (&["--variant", "nosuch"], &["unknown variant 'nosuch'", "auto, all"]),
        (&["--variant", "ring", "--slots", "3"], &["variant ring: slots=3", "2, 4, 8, 16"]),
        (&["--variant", "ring", "--stages", "2"], &["variant ring: stages=2", "no such parameter"]),
        (&["--variant", "low_latency", "--stages", "0,2"], &["variant low_latency: stages=0", "1, 2, 3, 4"]),
        (&["--variant", "ring", "--lanes", "129"], &["lanes=129", "1 to 128"]),
        (
            &["--device", "cpu", "--lane-threads", "33"],
            &["no candidate takes threads=33", "a multiple of 32 up to 1024"],
        ),
        (&["--device", "cpu", "--chunk", "7"], &["no candidate takes chunk=7", "a multiple of 128 from"]),
        (&["--device", "cpu", "--slots", "2,3"], &["no candidate takes slots=3", "2, 4, 8, 16"]),
        (&["--device", "cpu", "--stages", "9"], &["no candidate takes stages=9", "one of 1, 2, 3, 4"]),
        (&["--device", "cpu", "--lanes", "0"], &["no candidate takes lanes=0", "1 to 128"]),
        (&["--variant", "all", "--lanes", "8,200"], &["no candidate takes lanes=200", "1 to 128"]),
        (
            &["--device", "cpu", "--slots", "2", "--output", "landing", "--registered"],
            &["no candidate takes slots=2 output=landing: ", "staged, direct"],
        ),
        (&["--variant", "auto", "--lanes", "8"], &["what the lane table says", "name some with --variant"]),
        (&["--lanes", "many"], &["'many'", "by_size"]),
        (&["--wait", "nap"], &["wait policy 'nap'", "adaptive, spin, yield"]),
        (&["-d", "f31"], &["unknown data type 'f31'", "bf16"]),
        (&["-o", "xor"], &["unknown operator 'xor'", "sum"]),
        (&["--against", "mpi"], &["unknown baseline 'mpi'", "nccl_symmetric"]),
        (&["--device", "cpu", "--against", "nccl"], &["NCCL runs on GPUs only"]),
        (&["--device", "cpu", "--json", "missing/run.json"], &["cannot write missing/run.json"]),
        (&["--ablate=missing.toml"], &["cannot read missing.toml"]),
        (&["--ablate", "--variant", "ring"], &["--ablate", "cannot be used with", "--variant"]),
        (&["--ablate", "--batch", "4"], &["--ablate", "cannot be used with", "--batch"]),
        (&["--ablate", "--slots", "4"], &["leave --lanes and its like out"]),
        (&["--ablate", "--registered"], &["--ablate", "cannot be used with", "--registered"]),
        (&["--variant", "ring", "--output", "direct"], &["--output direct", "add --registered"]),
        (&["--budget", "5"], &["--ablate", "required"]),
        (&["--jsn", "x"], &["--jsn", "--json"]),
    ];
    for (arguments, parts) in cases {
        refused(here, arguments, parts);
    }
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 0, "nothing is left behind");
}

/// Rows come as they are measured: once there is one, the ranks are in the middle of the sweep.
#[test]
fn an_interrupted_sweep_keeps_what_it_measured() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let size = ["-b", "4", "-e", "64K", "-i", "4", "-n", "1", "-w", "0"];
    let line = ["--device", "cpu", "--ranks", "2", "--variant", "one_shot_push", "--json", "a.json", "--csv", "a.csv"];
    for end in [Signal::INT, Signal::TERM] {
        let mut sweep = command(here, &[&line[..], &size].concat());
        let mut sweep = sweep.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = std::io::BufRead::lines(std::io::BufReader::new(sweep.stdout.take().unwrap()));
        assert!(lines.any(|line| !line.unwrap().starts_with('#')), "no row came");
        kill_process(Pid::from_child(&sweep), end).unwrap();
        let rest: Vec<_> = lines.map(Result::unwrap).collect();
        let output = sweep.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
        assert!(rest.iter().any(|line| line.contains("wrong elements") && line.contains("0 OK")), "{rest:?}");
        let rows = Results::read(&here.join("a.json")).unwrap().rows;
        assert!(!rows.is_empty() && rows.len() < 16 << 10);
        let said = format!("was cut after {}, which a.json and a.csv have", counted(rows.len(), "row"));
        assert!(text(&output.stderr).contains(&said), "'{said}' is missing from {}", text(&output.stderr));
        assert_eq!(std::fs::read_to_string(here.join("a.csv")).unwrap().lines().count(), 1 + rows.len());
        assert_eq!(text(&output.stderr).lines().count(), 1, "{}", text(&output.stderr));
    }
}

#[test]
fn a_sweep_measures_and_verifies_every_enabled_variant() {
    let directory = tempfile::tempdir().unwrap();
    let line = ["--ranks", "3", "-b", "1K", "-e", "16K", "-f", "16", "-n", "3", "-w", "1", "-c", "2"];
    let rows = measured(directory.path(), &line);
    let requested = |bytes: u64| {
        let mut names: Vec<_> =
            rows.iter().filter(|row| row.bytes == bytes).map(|row| row.requested.as_str()).collect();
        names.sort_unstable();
        names
    };
    let mut expected: Vec<_> = Manifest::embedded().enabled().map(|spec| spec.name.as_str()).collect();
    expected.push("auto");
    expected.sort_unstable();
    assert_eq!([requested(1024), requested(16384)], [expected.clone(), expected]);
    for row in &rows {
        assert_eq!((row.ranks.get(), row.wrong, row.graph), (3, Some(0), 0), "{row:?}");
        assert!(row.lanes > 0 && row.threads > 0 && row.time_us.min > 0.0, "{row:?}");
    }
}

#[test]
fn a_collective_without_an_operator_says_so_in_table_and_csv() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = ["--device", "cpu", "--ranks", "2", "--variant", "auto", "-b", "1K", "-e", "1K", "-n", "1", "-w", "0"];
    for (collective, op) in [("all_gather", "none"), ("reduce_scatter", "sum"), ("all_reduce", "sum")] {
        let output = perf(here, &[&line[..], &["--collective", collective, "--csv", "run.csv"]].concat());
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        let rows: Vec<_> = text(&output.stdout).lines().filter(|line| !line.starts_with('#')).collect();
        assert!(rows.len() == 1 && rows[0].split_whitespace().nth(3) == Some(op), "{rows:?}");
        let csv = std::fs::read_to_string(here.join("run.csv")).unwrap();
        assert!(csv.lines().nth(1).unwrap().starts_with(&format!("{collective},2,1024,f32,{op},auto,")), "{csv}");
    }
    refused(here, &["--collective", "all_gather", "-o", "all"], &["all_gather", "reduces nothing: leave -o out"]);
}

#[test]
fn a_small_kernel_behind_each_operation_is_part_of_its_time_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let line = ["--ranks", "2", "--variant", "one_shot_push", "-b", "1K", "-e", "1K", "-n", "3", "-w", "1"];
    for graph in ["0", "4"] {
        let alone = measured(directory.path(), &[&line[..], &["-G", graph]].concat());
        let between = measured(directory.path(), &[&line[..], &["-G", graph, "--between"]].concat());
        assert!(alone.iter().all(|row| row.between_us.is_none()) && !between.is_empty());
        for (row, other) in between.iter().zip(&alone) {
            assert_eq!((row.wrong, row.graph.to_string()), (Some(0), graph.to_owned()));
            assert!(row.between_us.is_some_and(|us| us > 0.0), "{row:?}");
            assert_ne!(row.case(), other.case(), "not to be held against each other");
        }
    }
}

#[test]
fn every_combination_of_parameters_is_a_row_that_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let size = ["--ranks", "2", "-b", "64K", "-e", "64K", "-n", "1", "-w", "0"];
    let ring = ["--variant", "ring", "--slots", "2,8", "--chunk", "2K,8K", "--lanes", "16", "--wait", "spin"];
    let rows = measured(directory.path(), &[&size[..], &ring].concat());
    let shapes: Vec<_> = rows.iter().map(|row| (row.chunk, row.slots, row.stages, row.wait)).collect();
    let of = |chunk, slots| (chunk, slots, 0, Some(Wait::Spin));
    assert_eq!(shapes, [of(2048, 2), of(2048, 8), of(8192, 2), of(8192, 8)]);
    assert!(rows.iter().all(|row| row.lanes == 16 && row.wrong == Some(0)), "{rows:?}");
    let pipeline = ["--variant", "low_latency", "--stages", "1,4", "--lanes", "by_size"];
    let rows = measured(directory.path(), &[&size[..], &pipeline].concat());
    let shapes: Vec<_> = rows.iter().map(|row| (row.chunk, row.slots, row.stages, row.wait)).collect();
    assert_eq!(shapes, [1, 4].map(|stages| (0, 0, stages, Some(Wait::Adaptive))));
    assert!(rows.iter().all(|row| row.lanes == 32 && row.wrong == Some(0)), "{rows:?}");
}

#[test]
fn registered_results_go_straight_into_the_output_where_the_variant_can() {
    let directory = tempfile::tempdir().unwrap();
    let line = ["--ranks", "3", "-b", "40004", "-e", "40004", "-n", "1", "-w", "0", "-c", "2", "--registered"];
    let outputs = |arguments: &[&str]| {
        let rows = measured(directory.path(), &[&line[..], arguments].concat());
        assert!(rows.iter().all(|row| row.registered && row.wrong == Some(0)), "{rows:?}");
        rows.into_iter().map(|row| row.output).collect::<Vec<_>>()
    };
    let [staged, direct] = [Output::Staged, Output::Direct].map(Some);
    assert_eq!(outputs(&["--variant", "ring,signal_ring"]), [direct, None]);
    assert_eq!(outputs(&["--variant", "ring", "--output", "staged,direct", "--in-place"]), [staged, direct]);
    assert_eq!(outputs(&["--variant", "ring", "-G", "3"]), [direct]);
    assert_eq!(outputs(&["--variant", "ring", "--batch", "6"]), [direct]);
}

#[test]
fn replays_in_place_and_narrow_types_are_verified_too() {
    let directory = tempfile::tempdir().unwrap();
    let line = [
        "--ranks",
        "2",
        "-b",
        "3",
        "-e",
        "4099",
        "-i",
        "2048",
        "-n",
        "2",
        "-w",
        "0",
        "-G",
        "3",
        "-c",
        "4",
        "--in-place",
    ];
    let rows =
        measured(directory.path(), &[&line[..], &["-d", "bf16,i8", "-o", "sum,max", "--variant", "auto"]].concat());
    assert_eq!(rows.len(), 2 * 2 * 3);
    assert!(rows.iter().all(|row| row.in_place && row.graph == 3 && row.wrong == Some(0)), "{rows:?}");
    let unverified = measured(
        directory.path(),
        &["--ranks", "1", "-b", "64", "-e", "64", "-n", "1", "-c", "0", "--variant", "auto"],
    );
    assert!(unverified.iter().all(|row| row.wrong.is_none()), "{unverified:?}");
}

#[test]
fn batches_are_verified_and_what_the_host_spends_is_a_field() {
    let directory = tempfile::tempdir().unwrap();
    let line = ["--ranks", "2", "-b", "64", "-e", "256", "-n", "2", "-w", "1", "-d", "i32"];
    for (batch, place) in [("5", "--in-place"), ("3", "--threads")] {
        let rows = measured(
            directory.path(),
            &[&line[..], &["--batch", batch, place, "--variant", "auto,ring", "--csv", "run.csv"]].concat(),
        );
        assert_eq!(rows.len(), 4);
        for row in &rows {
            assert_eq!((row.batch.to_string().as_str(), row.graph, row.wrong), (batch, 0, Some(0)), "{row:?}");
            assert!(row.host_us.is_some_and(|host_us| host_us > 0.0), "{row:?}");
        }
        let csv = std::fs::read_to_string(directory.path().join("run.csv")).unwrap();
        assert!(
            csv.lines().next().unwrap().contains(",graph,batch,") && csv.contains(&format!(",0,{batch},")),
            "{csv}"
        );
    }
    let rows = measured(directory.path(), &line);
    assert!(rows.iter().all(|row| row.batch == 0 && row.host_us.is_some()), "{rows:?}");
    // More than a mailbox of the CPU device takes: several launches an operation.
    let large = ["--ranks", "2", "-b", "1M", "-e", "1M", "-n", "1", "-w", "0", "--variant", "one_shot_push"];
    let rows = measured(directory.path(), &large);
    assert!(rows.iter().all(|row| row.host_us.is_none()), "{rows:?}");
}

#[test]
fn a_neighbour_is_measured_alone_and_beside_every_wait() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = ["neighbour", "--device", "cpu", "--ranks", "3", "-n", "2", "--json", "neighbour.json"];
    let output = perf(here, &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("the times mean nothing"), "{}", text(&output.stdout));
    let rows = Neighbours::read(&here.join("neighbour.json")).unwrap().rows;
    assert!(text(&output.stdout).ends_with(&neighbour::table(&rows)), "{}", text(&output.stdout));
    let parts = ["neighbour.json is a file of neighbours, not a results file", "--patterns PAGE --neighbours FILE"];
    refused(here, &["compare", "neighbour.json"], &parts);
    let mut expected = Vec::new();
    for variant in ["ring", "one_shot_push", "signal_one_shot"] {
        for &wait in Wait::ALL.iter().filter(|&&wait| wait != Wait::Paired || variant == "one_shot_push") {
            expected.extend(Work::ALL.map(|work| (variant, wait, work)));
        }
    }
    let seen: Vec<_> = rows.iter().map(|row| (row.variant.as_str(), row.wait, row.work)).collect();
    assert_eq!(seen, expected);
    assert!(rows.iter().all(|row| row.ranks.get() == 3 && row.lanes > 0 && row.threads > 0), "{rows:?}");
    let cases: [(&[&str], &[&str]); 5] = [
        (&["--ranks", "1"], &["2 ranks or more"]),
        (&["--variant", "rign"], &["unknown variant 'rign'"]),
        (&["--variant", "two_shot_tma"], &["variant two_shot_tma: wait=adaptive"]),
        (&["--lanes", "0"], &["lanes=0", "1 to 128"]),
        (&["-n", "0"], &["--iters", "0"]),
    ];
    for (arguments, parts) in cases {
        refused(here, &[&["neighbour", "--device", "cpu"], arguments].concat(), parts);
    }
}

/// The test data is spoiled after it was made, by a header that the compiler is told to read first.
#[test]
fn a_wrong_result_is_counted_and_told_by_the_exit_status() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let plant = "#include \"verify/pattern.cuh\"\n#define narrow(...) narrow((__VA_ARGS__) + 1)\n";
    std::fs::write(here.join("plant.h"), plant).unwrap();
    let size = ["--ranks", "2", "-b", "1K", "-e", "1K", "-n", "1"];
    let line = [&["--device", "cpu", "--variant", "auto", "--json", "run.json"][..], &size].concat();
    let compiler = format!("c++ -include {}", here.join("plant.h").display());
    let output =
        command(here, &line).env("MYELON_CXX", compiler).env("MYELON_CACHE", here.join("kernels")).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("512 FAILED"), "{}", text(&output.stdout));
    let rows = Results::read(&here.join("run.json")).unwrap().rows;
    assert_eq!(rows[0].wrong, Some(512), "256 elements on each of two ranks");
}

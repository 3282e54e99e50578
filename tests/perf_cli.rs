//! `myelon-perf` as scripts see it: one line and the documented exit status for bad input, and a report's round trip.
#![cfg(feature = "cli")]

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use myelon_ccl::Wait;
use myelon_ccl::bootstrap::UniqueId;
use myelon_ccl::measure::neighbour::{self, Neighbours, Work};
use myelon_ccl::measure::{Results, Row};
use myelon_ccl::study::Ablation;
use myelon_ccl::variant::Manifest;

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

const RESULTS: &str = r#"{"schema":1,
"provenance":{"date":"2026-11-20T10:00:00Z","version":"0.1.0","source_hash":"1a2b","gpu":"NVIDIA H200","gpus":8,"link":"NV18","driver":"580.159","cuda":"13.0","nccl":"2.28.9","nvls":"off","cpu":"Test"},
"rows":[
{"ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"auto","variant":"ring","lanes":16,"threads":512,"in_place":false,"graph":20,"time_us":{"p50":4.0,"p99":6.0,"min":2.0},"algbw_gbps":0.256,"busbw_gbps":0.448,"wrong":0},
{"ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"nccl","variant":"nccl","lanes":0,"threads":0,"in_place":false,"graph":20,"time_us":{"p50":8.0,"p99":12.0,"min":4.0},"algbw_gbps":0.128,"busbw_gbps":0.224,"wrong":0}
]}
"#;

const README: &str = "# Title\n<!-- results:plot -->\n<!-- /results -->\nprose\n<!-- results:latency-8 -->\nold\n<!-- /results -->\n<!-- results:provenance -->\n<!-- /results -->\nend\n";

#[test]
fn bad_sweeps_are_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let cases: [(&[&str], &[&str]); 26] = [
        (&["--batch", "257"], &["257", "0..=256"]),
        (&["--batch", "2", "-G", "2"], &["cannot be used with", "--cudagraph"]),
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
        (&["--budget", "5"], &["--ablate", "required"]),
        (&["--jsn", "x"], &["--jsn", "--json"]),
    ];
    for (arguments, parts) in cases {
        refused(here, arguments, parts);
    }
    assert_eq!(std::fs::read_dir(here).unwrap().count(), 0, "nothing is left behind");
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
    let mut expected = Vec::new();
    for variant in ["ring", "one_shot_push", "signal_one_shot"] {
        for &wait in Wait::ALL {
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

/// As a launcher starts them; the ranks meet at a port that was free a moment ago.
fn launched(directory: &Path, arguments: &[&str]) -> [Command; 2] {
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
        .map(|mut rank| rank.env_remove("MYELON_ROOT").env("MYELON_PERF_ID", id.to_text()).spawn().unwrap());
    let outputs = running.map(|rank| rank.wait_with_output().unwrap());
    drop(server);
    for output in &outputs {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(text(&outputs[0].stdout).contains("0 OK"));
    let other_size = command(directory.path(), &["--device", "cpu", "--ranks", "3"])
        .envs([("MYELON_RANK", "0"), ("MYELON_WORLD_SIZE", "2"), ("MYELON_PERF_ID", &id.to_text())])
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

const STUDIES: &str = r#"
schema = 1
[[study]]
name = "slots"
title = "Slots"
claim = "More slots are faster."
because = "They take more chunks."
[[study.group]]
title = "ring"
sizes = ["8K", "64K"]
graph = 2
repeats = 2
baseline = { label = "2 slots", variant = "ring", slots = 2 }
candidates = [
    { label = "16 slots, 16 lanes", variant = "ring", slots = 16, lanes = 16 },
    { label = "by the table, launched alone", variant = "auto", graph = 0, aside = true },
]
[[study.group]]
title = "two-shot"
sizes = ["8K"]
repeats = 2
baseline = { label = "signals", variant = "signal_two_shot" }
candidates = [{ label = "push", variant = "two_shot_push" }]
[[study]]
name = "later"
title = "Later"
claim = "It is better."
because = "It is newer."
[[study.group]]
sizes = ["1K"]
ranks = [8]
baseline = { label = "signals", variant = "signal_one_shot" }
candidates = [{ label = "push", variant = "one_shot_push" }]
"#;

#[test]
fn studies_are_measured_and_become_a_page() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    std::fs::write(here.join("studies.toml"), STUDIES).unwrap();
    let line = ["--device", "cpu", "--ranks", "2", "-w", "1", "--ablate=studies.toml", "--json", "ablation.json"];
    let output = perf(here, &line);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    for part in ["# slots: Slots\n", "# claim: More slots", "ring: 16 slots, 16 lanes", "# wrong elements    : 0 OK"] {
        assert!(text(&output.stdout).contains(part), "'{part}' is missing from: {}", text(&output.stdout));
    }
    let run = Ablation::read(&here.join("ablation.json")).unwrap();
    assert_eq!((run.studies.len(), run.cut().len(), run.caution.is_some()), (1, 0, true));
    let rows: Vec<_> = run.studies[0].rows.iter().map(|it| (it.label.as_str(), it.row.bytes, it.row.graph)).collect();
    let ring =
        |bytes| [("2 slots", bytes, 2), ("16 slots, 16 lanes", bytes, 2), ("by the table, launched alone", bytes, 0)];
    let two_shot = [("signals", 8192, 20), ("push", 8192, 20)];
    assert_eq!(rows, [&ring(8192)[..], &ring(65536), &two_shot].concat());
    assert!(run.studies[0].rows.iter().all(|it| it.row.wrong == Some(0)));
    assert_eq!(
        (run.studies[0].rows[4].row.slots, run.studies[0].rows[4].row.requested.as_str()),
        (16, "ring lanes=16 slots=16")
    );

    let report = ["report", "ablation.json", "--patterns", "docs/PATTERNS.md", "--studies", "studies.toml"];
    std::fs::create_dir(here.join("docs")).unwrap();
    let check = [&report[..], &["--check"]].concat();
    assert_eq!(perf(here, &check).status.code(), Some(1));
    assert!(!here.join("docs/plots").exists(), "a check writes nothing");
    let written = perf(here, &report);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    assert_eq!(perf(here, &check).status.code(), Some(0));
    let page = std::fs::read_to_string(here.join("docs/PATTERNS.md")).unwrap();
    for part in [
        "the times mean nothing. Nothing is concluded",
        "| 16 slots, 16 lanes |",
        "](plots/patterns/slots.svg)",
        "Not measured.",
    ] {
        assert!(page.contains(part), "'{part}' is missing from: {page}");
    }
    assert!(std::fs::read_to_string(here.join("docs/plots/patterns/slots.svg")).unwrap().starts_with("<svg"));
    assert!(!here.join("docs/plots/patterns/later.svg").exists());
}

#[test]
fn studies_stop_together_when_their_time_is_spent() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("studies.toml"), STUDIES).unwrap();
    let line = ["--device", "cpu", "--ablate=studies.toml", "--budget", "0", "--json", "ablation.json"];
    let running = launched(directory.path(), &line).map(|mut rank| rank.spawn().unwrap());
    let [first, second] = running.map(|rank| rank.wait_with_output().unwrap());
    for output in [&first, &second] {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    assert!(text(&first.stdout).contains("# cut for time      : slots;"), "{}", text(&first.stdout));
    let run = Ablation::read(&directory.path().join("ablation.json")).unwrap();
    assert_eq!((run.cut(), run.studies[0].rows.len()), (vec!["slots"], 0));
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

#[test]
fn a_report_fills_the_readme_and_then_has_nothing_to_do() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    std::fs::create_dir_all(here.join("docs")).unwrap();
    std::fs::write(here.join("run.json"), RESULTS).unwrap();
    std::fs::write(here.join("README.md"), README).unwrap();
    let line = ["report", "run.json", "--readme", "README.md", "--svg", "docs/plot.svg"];
    let check = [&line[..], &["--check"]].concat();

    let stale = perf(here, &check);
    assert_eq!(stale.status.code(), Some(1));
    assert_eq!(text(&stale.stderr).lines().count(), 2, "plot and README: {}", text(&stale.stderr));
    assert_eq!(std::fs::read_to_string(here.join("README.md")).unwrap(), README);

    let written = perf(here, &line);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    let readme = std::fs::read_to_string(here.join("README.md")).unwrap();
    assert!(readme.contains("| 1 KiB | 4.00 | `ring` | 8.00 | 2.00× |"), "{readme}");
    assert!(readme.contains("](<docs/plot.svg>)") && readme.contains("Measured on 2026-11-20"), "{readme}");
    assert!(readme.starts_with("# Title\n") && readme.ends_with("end\n") && !readme.contains("old"), "{readme}");
    assert!(std::fs::read_to_string(here.join("docs/plot.svg")).unwrap().starts_with("<svg"));
    assert_eq!(perf(here, &check).status.code(), Some(0));

    std::fs::write(here.join("other.json"), RESULTS.replace("H200", "B200")).unwrap();
    let both = [&line[..], &["other.json"]].concat();
    assert_eq!(perf(here, &both).status.code(), Some(0));
    let other = std::fs::read_to_string(here.join("docs/plot-2.svg")).unwrap();
    assert!(other.starts_with("<svg"), "{other}");
    assert!(std::fs::read_to_string(here.join("README.md")).unwrap().contains("](<docs/plot-2.svg>)"));

    let printed = perf(here, &["report", "run.json"]);
    assert_eq!(printed.status.code(), Some(0));
    assert!(readme.contains(text(&printed.stdout).trim()), "the README has what is printed");
}

#[test]
fn bad_reports_are_refused_in_one_line_and_touch_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let write = |name: &str, contents: &str| std::fs::write(here.join(name), contents).unwrap();
    write("run.json", RESULTS);
    write("new.json", &RESULTS.replace("\"schema\":1", "\"schema\":7"));
    write("plain.md", "no markers\n");
    write("open.md", "<!-- results:latency -->\n");
    write("typo.md", "<!-- results:latencies -->\n<!-- /results -->\n");
    let cases: [(&[&str], &[&str]); 11] = [
        (&["report"], &["required", "RESULTS"]),
        (&["report", "none.json"], &["cannot read none.json"]),
        (&["report", "new.json"], &["new.json: schema: 7"]),
        (&["report", "run.json", "--check"], &["--check has nothing to check"]),
        (&["report", "run.json", "--svg", "missing/a.svg"], &["cannot write missing/a.svg"]),
        (&["report", "run.json", "--patterns", "a.md"], &["run.json", "a file that --ablate --json wrote"]),
        (&["report", "run.json", "--patterns", "a.md", "--readme", "plain.md"], &["cannot be used with"]),
        (&["report", "run.json", "--studies", "a.toml"], &["--patterns", "required"]),
        (&["report", "run.json", "--readme", "plain.md", "--svg", "a.svg"], &["plain.md has no <!-- results:NAME -->"]),
        (
            &["report", "run.json", "--readme", "open.md", "--svg", "a.svg"],
            &["open.md: line 1: 'latency' is never closed"],
        ),
        (&["report", "run.json", "--readme", "typo.md", "--svg", "a.svg"], &["'latencies'", "latency, latency-8"]),
    ];
    for (arguments, parts) in cases {
        refused(here, arguments, parts);
    }
    assert!(!here.join("a.svg").exists());
    assert_eq!(std::fs::read_to_string(here.join("open.md")).unwrap(), "<!-- results:latency -->\n");
}

//! `myelon-tune` as scripts see it, on the CPU device: from its arguments to a table that `auto` takes.
#![cfg(feature = "cli")]

mod broken;

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use myelon_ccl::measure::{Results, Stored};
use myelon_ccl::table::{Buffers, DTypeClass, Judged, Judgement, LaneTable, Row};
use myelon_ccl::{Communicator, WorldSize};
use rustix::process::{Pid, Signal, kill_process};

/// Kernels are compiled once for all tests.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/kernels");
/// What takes a second or two on an idle machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A program, unaware of who runs the tests: no launcher, no settings, no GPU.
fn command(program: &str, directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["MYELON_", "OMPI_", "PMI"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).args(["--device", "cpu"]).current_dir(directory).env("MYELON_CACHE", CACHE);
    command
}

fn tune(directory: &Path, arguments: &[&str]) -> Command {
    command(env!("CARGO_BIN_EXE_myelon-tune"), directory, arguments)
}

/// Two ranks as a launcher starts them; they meet at a port that was free a moment ago.
fn launched(directory: &Path, arguments: &[&str]) -> [Command; 2] {
    let root = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    ["0", "1"].map(|rank| {
        let mut command = tune(directory, arguments);
        command.env("MYELON_RANK", rank).env("MYELON_WORLD_SIZE", "2").env("MYELON_ROOT", &root);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    })
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[track_caller]
fn succeeded(output: Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout).to_owned()
}

#[track_caller]
fn await_file(path: &Path, of: &mut Child) {
    let end = Instant::now() + PATIENCE;
    while !path.exists() {
        assert_eq!(of.try_wait().unwrap(), None, "it ended early");
        assert!(Instant::now() < end, "{} never came", path.display());
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn variants(table: &LaneTable) -> Vec<String> {
    let mut names: Vec<_> =
        table.sections().iter().flat_map(|it| &it.rows).map(|row| row.choice.variant.name.clone()).collect();
    names.sort();
    names.dedup();
    names
}

const TWO: [&str; 6] = ["--variant", "two_shot_push,ring", "--ranks", "2", "-G", "2"];

#[test]
fn a_table_is_tuned_and_taken() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = [&TWO[..], &["-b", "1K", "-e", "64K", "-f", "8", "-n", "2", "-o", "t.toml"]].concat();
    let said = succeeded(tune(here, &line).output().unwrap());
    for part in [
        "f32 and i32, 3 sizes from 1K to 64K",
        "plain and registered buffers",
        "the times mean nothing",
        "# wrote t.toml",
    ] {
        assert!(said.contains(part), "'{part}' is missing from: {said}");
    }
    let table = LaneTable::read(&here.join("t.toml")).unwrap();
    assert!(table.complete && !here.join("t.toml.journal.json").exists());
    let classes = table.sections().iter().map(|section| (section.ranks.get(), section.buffers, section.dtypes));
    let both = [DTypeClass::Float, DTypeClass::Integer];
    let expected = [Buffers::Plain, Buffers::Registered].map(|buffers| both.map(|dtypes| (2, buffers, dtypes)));
    assert!(classes.eq(expected.concat()), "{:?}", table.sections());
    for section in table.sections() {
        let asked = [1 << 10, 8 << 10, 64 << 10];
        assert!(asked.iter().all(|bytes| section.rows.iter().any(|row| row.measured.at.0 == *bytes)), "{section:?}");
        assert!(section.rows.iter().all(|row| row.measured.p50_us > 0.0));
        let is_possible = |row: &Row| section.buffers == Buffers::Registered || !row.choice.shape.is_direct();
        assert!(section.rows.iter().all(is_possible), "{section:?}");
    }

    // What it says is what runs, and the log says why.
    let line =
        ["--variant", "auto", "--ranks", "2", "-b", "8K", "-e", "8K", "-n", "1", "-w", "0", "--json", "run.json"];
    let mut perf = command(env!("CARGO_BIN_EXE_myelon-perf"), here, &line);
    perf.env("MYELON_LANE_TABLE", "t.toml").env("MYELON_LOG", "myelon_ccl=debug");
    let output = perf.output().unwrap();
    let log = text(&output.stderr).to_owned();
    succeeded(output);
    let two = WorldSize::new(2).unwrap();
    let row = table.choose(two, DTypeClass::Float, Buffers::Plain, 8 << 10).unwrap();
    let decision = format!("f32 sum of 8192 bytes: {} (t.toml, the row from", row.choice);
    assert_eq!(log.matches(&decision).count(), 2, "once a rank: {log}");
    let ran = Results::read(&here.join("run.json")).unwrap().rows.remove(0);
    assert_eq!(
        (ran.wrong, ran.variant.as_str(), ran.threads),
        (Some(0), &*row.choice.variant.name, row.choice.shape.threads.unwrap())
    );

    // A judge takes it as well.
    let sizes = ["-b", "8K", "-e", "8K", "-n", "2", "-d", "f32", "--exhaustive"];
    let line = [&TWO[..], &sizes, &["--judge", "t.toml", "-o", "j.toml", "--json", "judge-2.json"]].concat();
    let output = tune(here, &line).output().unwrap();
    assert!(matches!(output.status.code(), Some(0 | 1)), "{}", text(&output.stderr));
    assert!(text(&output.stdout).contains("of 2 cases"), "{}", text(&output.stdout));
    let judged = Judged::read(&here.join("judge-2.json")).unwrap();
    assert_eq!((judged.table.as_str(), judged.exhaustive, judged.complete), ("t.toml", true, true));
    let rows: Vec<_> = judged.rows.iter().map(|row| (row.buffers, row.bytes, row.candidates > 1)).collect();
    assert_eq!(rows, [(Buffers::Plain, 8 << 10, true), (Buffers::Registered, 8 << 10, true)]);
    assert_eq!(output.status.code(), Some(judged.rows.iter().any(Judgement::is_behind).into()));

    // A report shows it.
    std::fs::write(here.join("doc.md"), "<!-- results:judged -->\n<!-- /results -->\n").unwrap();
    let line = ["report", "run.json", "--readme", "doc.md", "--judged", "judge-2.json"];
    succeeded(Command::new(env!("CARGO_BIN_EXE_myelon-perf")).args(line).current_dir(here).output().unwrap());
    let filled = std::fs::read_to_string(here.join("doc.md")).unwrap();
    assert!(filled.contains("`t.toml` against every candidate on 2 ranks"), "{filled}");
}

#[test]
fn registered_buffers_can_be_left_out_or_tuned_alone() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    for buffers in [Buffers::Plain, Buffers::Registered] {
        let size = ["-b", "64K", "-e", "64K", "-n", "2", "-d", "f32", "-o", "t.toml", "--buffers", buffers.name()];
        let said = succeeded(tune(here, &[&TWO[..], &size].concat()).output().unwrap());
        assert!(said.contains(", 1 size from 64K to 64K:"), "{said}");
        let table = LaneTable::read(&here.join("t.toml")).unwrap();
        let sections: Vec<_> = table.sections().iter().map(|section| section.buffers).collect();
        assert_eq!(sections, [buffers]);
    }
}

#[test]
fn a_stale_table_and_one_for_other_ranks_are_told() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = [&TWO[..], &["-b", "1K", "-e", "1K", "-n", "1", "-d", "f32", "-o", "t.toml"]].concat();
    succeeded(tune(here, &line).output().unwrap());
    let written = std::fs::read_to_string(here.join("t.toml")).unwrap();
    let hash = format!("\"{}\"", LaneTable::read(&here.join("t.toml")).unwrap().provenance.source_hash);
    std::fs::write(here.join("stale.toml"), written.replace(&hash, "\"ff00\"")).unwrap();
    std::fs::write(here.join("bad.toml"), written.replace("lanes =", "lane =")).unwrap();
    std::fs::write(here.join("gpu.toml"), written.replace("device = \"cpu\"", "device = \"cuda\"")).unwrap();
    let perf = |table: &str, ranks: &str| {
        let line = ["--variant", "auto", "--ranks", ranks, "-b", "1K", "-e", "1K", "-n", "1"];
        let output = command(env!("CARGO_BIN_EXE_myelon-perf"), here, &line).env("MYELON_LANE_TABLE", table).output();
        let output = output.unwrap();
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let (code, log) = perf("t.toml", "2");
    assert_eq!((code, log.as_str()), (Some(0), ""));
    let (code, log) = perf("stale.toml", "2");
    assert!(
        code == Some(0) && log.contains("stale.toml is stale (kernels") && log.contains("measured with ff00"),
        "{log}"
    );
    let (code, log) = perf("t.toml", "3");
    assert!(code == Some(0) && log.contains("no section for 3 ranks") && log.contains("myelon-tune"), "{log}");
    let (code, log) = perf("bad.toml", "2");
    assert!(code == Some(2) && log.contains("bad.toml: line ") && log.contains(": lane: "), "{log}");
    let kinds = "gpu.toml is of device kind cuda, and the ranks run on cpu";
    let (code, log) = perf("gpu.toml", "2");
    assert!(code.is_some_and(|code| code > 1) && log.contains(kinds), "{code:?}: {log}");
    let judge = tune(here, &["--ranks", "2", "-o", "j.toml", "--judge", "gpu.toml"]).output().unwrap();
    assert!(judge.status.code() == Some(2) && text(&judge.stderr).contains(kinds), "{}", text(&judge.stderr));
}

#[test]
fn a_lost_rank_ends_the_run_and_another_one_goes_on_from_the_journal() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let (journal, table) = (here.join("t.toml.journal.json"), here.join("t.toml"));
    std::fs::write(&table, "as it was").unwrap();
    let of = |more: &[&'static str]| {
        [&TWO[..2], &["-G", "2", "-b", "1K", "-e", "4K", "-d", "f32", "-o", "t.toml"], more].concat()
    };
    let [first, second] = launched(here, &of(&["-n", "10000"])).map(|mut rank| rank.spawn().unwrap());
    let (mut first, mut second) = (first, second);
    await_file(&journal, &mut first);
    second.kill().unwrap();
    second.wait().unwrap();
    let killed = Instant::now();
    let output = first.wait_with_output().unwrap();
    assert!(killed.elapsed() < Duration::from_secs(100), "peers hear of a loss within seconds");
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(
        text(&output.stderr).contains("rank 1") && text(&output.stderr).contains("--resume"),
        "{}",
        text(&output.stderr)
    );
    assert_eq!(std::fs::read_to_string(&table).unwrap(), "as it was");

    let ranks = launched(here, &of(&["-n", "2", "--resume"])).map(|mut rank| rank.spawn().unwrap());
    let [first, second] = ranks.map(|rank| rank.wait_with_output().unwrap());
    assert!(succeeded(first).contains("# resumed with"));
    assert!(succeeded(second).is_empty(), "one rank prints");
    assert!(LaneTable::read(&table).unwrap().complete && !journal.exists());
}

#[test]
fn an_interrupted_search_leaves_a_table_of_what_is_known() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = [&TWO[..], &["-b", "1K", "-e", "4K", "-n", "10000", "-o", "t.toml"]].concat();
    let mut tuning = tune(here, &line);
    let mut running = tuning.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    await_file(&here.join("t.toml.journal.json"), &mut running);
    kill_process(Pid::from_child(&running), Signal::INT).unwrap();
    let said = succeeded(running.wait_with_output().unwrap());
    assert!(said.contains("# cut: interrupted"), "{said}");
    let table = LaneTable::read(&here.join("t.toml")).unwrap();
    assert!(!table.complete && !table.sections().is_empty());
}

#[test]
fn ranks_with_different_tables_refuse_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = [&TWO[..], &["-b", "1K", "-e", "1K", "-n", "1", "-d", "f32", "-o", "t.toml"]].concat();
    succeeded(tune(here, &line).output().unwrap());
    let table = |text: &str| myelon_ccl::Options {
        table: Some(LaneTable::parse("t", text).unwrap().into()),
        ..Default::default()
    };
    let one = std::fs::read_to_string(here.join("t.toml")).unwrap();
    let other = one.replace("complete = true", "complete = false");
    let group = myelon_ccl::bootstrap::LocalBootstrap::group(WorldSize::new(2).unwrap(), PATIENCE);
    let errors: Vec<_> = std::thread::scope(|scope| {
        let ranks = group.into_iter().zip([&one, &other]).map(|(bootstrap, text)| {
            scope.spawn(move || {
                let device = myelon_ccl::device::cpu::CpuDevice::new(0).unwrap();
                Communicator::connect(device, std::sync::Arc::new(bootstrap), table(text)).unwrap_err().to_string()
            })
        });
        let ranks: Vec<_> = ranks.collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    assert!(errors.iter().all(|error| error.contains("disagree on the lane tables")), "{errors:?}");
}

#[test]
fn what_cannot_be_tuned_is_refused_in_one_line() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let cases: [(&[&str], &str); 18] = [
        (&["--ranks", "1"], "2 or more"),
        (&["--variant", "rign"], "unknown variant 'rign'"),
        (&["-d", "f32,bf16"], "both are of the class float"),
        (&["-d", "all"], "one type for each class"),
        (&["-b", "2K", "-e", "1K"], "swap -b and -e"),
        (&["-b", "4", "-e", "8"], "use 8 or more"),
        (&["-o", "missing/t.toml"], "cannot write missing/t.toml: there is no directory missing: make it"),
        (&["--judge", "none.toml"], "cannot read none.toml"),
        (&["--footprint", "1K"], "no candidate is left that can run: raise --footprint"),
        (&["-b", "0"], "-b 0 is less than an element: use 8 or more"),
        (&["-b", "0", "-e", "0"], "use 8 or more"),
        (&["--resume"], "--resume has no t.toml.journal.json to go on from: leave --resume out"),
        (&["--buffers", "window"], "known are plain, registered"),
        (&["--json", "j.json"], "--judge"),
        (&["--ranks", "2", "--chunk", "7"], "no candidate takes chunk=7: variant ring"),
        (&["--ranks", "2", "--chunk", "4K,1M"], "no candidate is tried with chunk=1M"),
        (&["--ranks", "2", "--lanes", "2,129"], "no candidate takes lanes=129"),
        (&["--ranks", "2", "--variant", "ring", "--stages", "2"], "stages=2 is not possible, it has no such"),
    ];
    for (arguments, part) in cases {
        let file: &[&str] = if arguments.contains(&"-o") { &[] } else { &["-o", "t.toml"] };
        let output = tune(here, &[file, arguments].concat()).output().unwrap();
        let message = text(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {message}");
        assert!(message.starts_with("error: ") && message.lines().count() == 1 && message.contains(part), "{message}");
    }
    let nowhere = tune(here, &["--ranks", "2"]).output().unwrap();
    let message = text(&nowhere.stderr);
    assert_eq!(nowhere.status.code(), Some(2), "{message}");
    assert!(message.contains("no directory configs/lanes here") && message.contains("-o FILE"), "{message}");
    for (name, value, fix) in [
        ("MYELON_VARIANT", "ring", "unset both"),
        ("MYELON_MAX_LANES", "2", "unset them"),
        ("MYELON_LARGE_LANES", "2", "unset them"),
        ("MYELON_MAILBOX", "64K", "unset them"),
    ] {
        let forced = tune(here, &["--ranks", "2", "-o", "t.toml"]).env(name, value).output().unwrap();
        let message = text(&forced.stderr);
        assert!(forced.status.code() == Some(2) && message.contains(name) && message.contains(fix), "{message}");
    }
    assert!(!here.join("t.toml").exists());
    let help = succeeded(tune(here, &["--help"]).output().unwrap());
    for part in ["How it searches", "--budget", "--buffers plain", "--resume", "Exit status: 0"] {
        assert!(help.contains(part), "'{part}' is missing");
    }
}

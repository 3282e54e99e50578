//! `myelon-doctor` as scripts see it: JSON, and a status that says whether all-reduce works here.
#![cfg(feature = "cli")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use myelon_ccl::WorldSize;
use myelon_ccl::measure::Bytes;
use myelon_ccl::table::{Buffers, DTypeClass, LaneTable};
use serde_json::Value;

/// Kernels are compiled once for all tests.
const CACHE: &str = concat!(env!("CARGO_TARGET_TMPDIR"), "/doctor-kernels");

/// The program in an environment of its own: no launcher, no settings but these.
fn command(arguments: &[&str], settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_myelon-doctor"));
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        if ["MYELON_", "OMPI_", "PMI", "CUDA_", "MSCCLPP_"].iter().any(|prefix| name.starts_with(prefix)) {
            command.env_remove(&*name);
        }
    }
    command.args(arguments).env("MYELON_CACHE", CACHE).envs(settings.iter().copied());
    command
}

fn doctor(arguments: &[&str], settings: &[(&str, &str)]) -> Output {
    command(arguments, settings).output().unwrap()
}

/// What it says as JSON, after a check of its status.
#[track_caller]
fn examined(arguments: &[&str], settings: &[(&str, &str)], status: i32) -> Value {
    let output = doctor(&[arguments, &["--json"]].concat(), settings);
    let text = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(status), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(value["ok"], status == 0);
    value
}

/// Whether a finding of this level has this text.
fn says(examination: &Value, level: &str, text: &str) -> bool {
    let findings = examination["findings"].as_array().unwrap();
    findings.iter().any(|finding| finding["level"] == level && finding["what"].as_str().unwrap().contains(text))
}

fn wrong(examination: &Value) -> Vec<&Value> {
    let findings = examination["findings"].as_array().unwrap();
    findings.iter().filter(|finding| finding["level"] == "wrong").collect()
}

#[test]
fn the_cpu_device_is_tried_for_real() {
    let examination = examined(&["--device", "cpu"], &[], 0);
    assert_eq!((&examination["device"], &examination["schema"]), (&"cpu".into(), &1.into()));
    let trials = examination["trials"].as_array().unwrap();
    assert_eq!(trials.iter().map(|trial| &trial["ranks_are"]).collect::<Vec<_>>(), ["threads", "processes"]);
    for trial in trials {
        assert_eq!((&trial["ranks"], &trial["device"], &trial["shared"]), (&2.into(), &"cpu".into(), &false.into()));
        let operations = trial["operations"].as_array().unwrap();
        assert!(operations.len() >= 2 && operations.iter().all(|tried| tried["wrong"] == 0), "{trial}");
        assert!(trial["heap_bytes"].as_u64().unwrap() > 0, "{trial}");
    }
    assert!(examination["cache"]["kernels"].as_u64().unwrap() > 0);
    let names: Vec<_> = examination["libraries"].as_array().unwrap().iter().map(|library| &library["name"]).collect();
    assert_eq!(names, ["NVRTC", "NCCL", "C++ compiler", "MPI"]);
    assert!(examination["table"]["choices"].as_array().unwrap().len() > 3);
}

#[test]
fn without_a_driver_gpus_are_wrong_only_where_they_are_asked_for() {
    let nowhere = [("MYELON_CUDA_LIB", "/nowhere/libcuda.so.1")];
    assert!(says(&examined(&["--device", "cuda"], &nowhere, 1), "wrong", "/nowhere/libcuda.so.1"));
    let examination = examined(&["--no-trial"], &nowhere, 0);
    assert!(says(&examination, "note", "/nowhere/libcuda.so.1") && examination["trials"] == Value::Array(Vec::new()));
    assert_eq!(examination["device"], "cpu");
}

#[test]
fn what_is_wrong_is_named() {
    let cases = [
        (("MYELON_TIMEOUT", "soon"), "MYELON_TIMEOUT"),
        (("MYELON_CXX", "/nowhere/c++"), "/nowhere/c++"),
        (("MYELON_CACHE", "/proc/kernels"), "/proc/kernels"),
        (("MYELON_KERNEL_TREE", "/nowhere/cuda"), "/nowhere/cuda"),
        (("MYELON_RANK", "7"), "MYELON_WORLD_SIZE"),
        (("MYELON_SOCKET_ADDR", "eth0"), "MYELON_SOCKET_ADDR"),
        (("MYELON_CPU_DELAYS", "often"), "MYELON_CPU_DELAYS"),
        (("MYELON_CPU_SANITIZE", "all"), "MYELON_CPU_SANITIZE"),
        (("MYELON_LOG", "verbose"), "'verbose' is no level"),
    ];
    for (setting, text) in cases {
        let examination = examined(&["--device", "cpu"], &[setting], 1);
        assert!(says(&examination, "wrong", text), "{setting:?}: {}", examination["findings"]);
        let wrong = wrong(&examination);
        assert!(wrong.len() == 1 && wrong[0]["fix"].is_string(), "one cause counts once, with its fix: {wrong:?}");
    }
    let several = [
        ("MYELON_TIMEOUT", "soon"),
        ("MYELON_LANE_TABLE", "/nowhere/t.toml"),
        ("MYELON_VARIANT", "rign"),
        ("MYELON_CACHE", "/proc/kernels"),
        ("MYELON_LOG", "verbose"),
        ("MYELON_SOCKET_ADDR", "eth0"),
        ("MYELON_CPU_DELAYS", "often"),
        ("MYELON_CPU_SANITIZE", "all"),
        ("MYELON_CXX", "/nowhere/c++"),
    ];
    let examination = examined(&["--device", "cpu"], &several, 1);
    let findings = wrong(&examination);
    for (name, _) in several {
        let named = findings.iter().filter(|finding| finding["fix"].as_str().unwrap().contains(name)).count();
        assert_eq!(named, 1, "{name}: {findings:?}");
    }
    assert_eq!(findings.len(), several.len(), "{findings:?}");
    let typo = examined(&["--device", "cpu", "--no-trial"], &[("MYELON_TIMEOT", "3")], 0);
    assert!(says(&typo, "warning", "nothing reads MYELON_TIMEOT"), "{}", typo["findings"]);
    let secret = doctor(&["--no-trial"], &[("MYELON_SECRET", "hush-hush")]);
    assert!(!String::from_utf8_lossy(&secret.stdout).contains("hush-hush"), "secrets stay secret");
}

#[test]
fn what_the_variables_choose_is_shown() {
    // A shipped table whose rings of floats have copies beside them, whatever its measurement took.
    let directory = tempfile::tempdir().unwrap();
    let table = directory.path().join("lanes.toml");
    let shipped = include_str!("../configs/lanes/h200-nvlink-2.toml");
    let (floats, others) = shipped.split_at(shipped.match_indices("[[section]]").nth(1).unwrap().0);
    // Without the parameters that a ring alone has.
    let with_copies =
        |line: &str| match (line.contains("variant = \"ring\","), line.find(", sync = "), line.find(", at = ")) {
            (true, Some(own), Some(measured)) => {
                format!("{}{}\n", &line[..own], &line[measured..]).replace("\"ring\",", "\"ring_with_copies\",")
            }
            _ => format!("{line}\n"),
        };
    let with_copies: String = floats.lines().map(with_copies).collect();
    std::fs::write(&table, with_copies + others).unwrap();
    let table = table.to_str().unwrap();
    let shown = |settings: &[(&str, &str)]| {
        let examination = examined(&["--device", "cpu", "--no-trial"], settings, 0);
        let choices = examination["table"]["choices"].as_array().unwrap().clone();
        let sizes: Vec<_> = choices.iter().map(|choice| choice["bytes"].as_u64().unwrap()).collect();
        let of =
            |part: &str| choices.iter().map(|choice| choice[part].as_str().unwrap().to_owned()).collect::<Vec<_>>();
        (examination["table"]["lane_table"].as_str().unwrap().to_owned(), sizes, of("choice"), of("origin"))
    };
    let (from, _, _, origins) = shown(&[]);
    assert!(
        from.starts_with("none for this machine") && origins.iter().all(|it| it.ends_with("of the rule")),
        "{origins:?}"
    );
    let (from, sizes, choices, origins) = shown(&[("MYELON_LANE_TABLE", table), ("MYELON_MAX_LANES", "4")]);
    assert_eq!(from, format!("{table}, from MYELON_LANE_TABLE"));
    let rows = LaneTable::read(table.as_ref()).unwrap();
    let mut copies = 0;
    for ((bytes, choice), origin) in sizes.iter().zip(&choices).zip(&origins) {
        let row = rows.choose(WorldSize::new(2).unwrap(), DTypeClass::Float, Buffers::Plain, *bytes).unwrap();
        // Copies beside a ring are taken in all of their lanes only.
        if row.choice.variant.name == "ring_with_copies" {
            copies += 1;
            assert!(choice == "ring" && origin.ends_with("of the rule"), "{bytes} bytes: {choice}, {origin}");
        } else {
            assert_eq!(*origin, format!("{table}, the row from {}", Bytes(row.from)));
            assert!(choice.starts_with(&format!("{} lanes=4 ", row.choice.variant.name)), "{bytes} bytes: {choice}");
        }
    }
    assert!(0 < copies && copies < sizes.len(), "{choices:?}");
    let forced = [("MYELON_VARIANT", "ring"), ("MYELON_LANES", "3"), ("MYELON_LANE_TABLE", table)];
    let (_, _, choices, origins) = shown(&forced);
    assert!(choices.iter().all(|it| it == "ring lanes=3"), "{choices:?}");
    assert!(origins.iter().all(|it| it == "MYELON_VARIANT"), "{origins:?}");
}

/// A library with NCCL's functions that does nothing but say this version.
fn pretended_nccl(directory: &Path, version: u32) -> PathBuf {
    let names =
        ["GetUniqueId", "CommInitRank", "CommDestroy", "CommAbort", "CommGetAsyncError", "GetErrorString", "AllReduce"];
    let others = ["ReduceScatter", "AllGather", "Broadcast", "GroupStart", "GroupEnd"];
    let functions: String =
        names.iter().chain(&others).map(|name| format!("int nccl{name}() {{ return 0; }}\n")).collect();
    let (source, library) = (directory.join("nccl.cc"), directory.join(format!("pretended-{version}.so")));
    let get_version = format!("int ncclGetVersion(int* code) {{ *code = {version}; return 0; }}\n");
    std::fs::write(&source, format!("extern \"C\" {{\n{functions}{get_version}}}\n")).unwrap();
    let compiler = std::env::var("CXX").unwrap_or_else(|_| "c++".into());
    let ended = Command::new(compiler).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).output().unwrap();
    assert!(ended.status.success(), "{}", String::from_utf8_lossy(&ended.stderr));
    library
}

#[test]
fn mscclpp_is_looked_at_where_it_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let (mscclpp, nccl) = (pretended_nccl(directory.path(), 900), pretended_nccl(directory.path(), 22_803));
    let named = |library: &Path, settings: &[(&str, &str)]| {
        let library = [("MYELON_MSCCLPP_LIB", library.to_str().unwrap())];
        let examination = examined(&["--device", "cpu", "--no-trial"], &[&library[..], settings].concat(), 0);
        examination["libraries"].as_array().unwrap().last().unwrap().clone()
    };
    let off = ("MSCCLPP_FORCE_DISABLE_NVLS", "1");
    let found = named(&mscclpp, &[off, ("MSCCLPP_NCCL_SYMMETRIC_MEMORY", "1")]);
    assert_eq!(found["name"], "MSCCL++");
    assert_eq!(found["version"], "0.9.0, NVLS off, symmetric memory on", "{found}");
    let refused = |library: &Path, settings: &[(&str, &str)], expected: &str| {
        let found = named(library, settings);
        assert!(found["missing"].as_str().unwrap().contains(expected), "{found}");
    };
    refused(&mscclpp, &[], "set MSCCLPP_FORCE_DISABLE_NVLS=1");
    refused(&mscclpp, &[off, ("MSCCLPP_NCCL_LIB_PATH", "libnccl.so.2")], "MSCCLPP_NCCL_LIB_PATH is set");
    refused(&nccl, &[off], "says it is release 2.28.3");
    refused(Path::new("/nowhere/libmscclpp_nccl.so"), &[off], "/nowhere/libmscclpp_nccl.so from MYELON_MSCCLPP_LIB");
}

#[test]
fn people_are_told_in_words() {
    let output = doctor(&["--device", "cpu"], &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    for part in
        ["kernels run on: cpu", "\nGPUs\n", "\nwhat auto takes\n", "0 wrong elements", "all-reduce works here\n"]
    {
        assert!(text.contains(part), "'{part}' is missing from: {text}");
    }
    let help = doctor(&["--help"], &[]);
    assert!(String::from_utf8_lossy(&help.stdout).contains("Exit status: 0"));
    assert_eq!(doctor(&["--device", "tpu"], &[]).status.code(), Some(2));
}

#[test]
fn an_examination_that_cannot_be_written_is_a_failure() {
    for arguments in [&["--device", "cpu", "--no-trial", "--json"][..], &["--help"]] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = command(arguments, &[]).stdout(full).output().unwrap();
        let message = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{message}");
        assert!(message.starts_with("error: cannot write to standard output: "), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

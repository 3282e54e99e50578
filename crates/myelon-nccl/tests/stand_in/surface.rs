//! What the library exports: every function that programs look for, and nothing else.

use std::collections::BTreeSet;
use std::process::Command;

use super::rig::{output_of, stand_in};

/// What `libtorch_cuda.so` of 2.9 to 2.15 and nccl-tests import, what vLLM looks up, and the rest of NCCL 2.30: one a line.
const WANTED: &str = include_str!("../functions.txt");

fn exported() -> BTreeSet<String> {
    let listing = output_of(Command::new("nm").args(["-D", "--defined-only"]).arg(stand_in()));
    assert!(listing.status.success(), "nm (binutils) lists the symbols: {}", String::from_utf8_lossy(&listing.stderr));
    let text = String::from_utf8(listing.stdout).unwrap();
    text.lines().filter_map(|line| line.split_whitespace().nth(2)).map(str::to_owned).collect()
}

#[test]
fn every_function_is_there_and_nothing_else() {
    let wanted: BTreeSet<_> =
        WANTED.lines().filter(|line| !line.starts_with('#') && !line.is_empty()).map(str::to_owned).collect();
    assert!(wanted.len() > 70);
    // NCCL's have a second name, by which tools that stand before them call them.
    let second: Vec<_> =
        wanted.iter().filter(|name| *name != "ncclMyelonVersion").map(|name| format!("p{name}")).collect();
    let wanted: BTreeSet<_> = wanted.into_iter().chain(second).collect();
    let exported = exported();
    let missing: Vec<_> = wanted.difference(&exported).collect();
    assert!(missing.is_empty(), "not exported: {missing:?}");
    let more: Vec<_> = exported.difference(&wanted).collect();
    assert!(more.is_empty(), "exported besides: {more:?}");
}

#[test]
fn it_has_a_name_of_its_own_and_stays_loaded() {
    let listing = output_of(Command::new("readelf").args(["-d"]).arg(stand_in()));
    let text = String::from_utf8(listing.stdout).unwrap();
    assert!(text.contains("[libmyelon_nccl.so]"), "{text}");
    assert!(text.contains("NODELETE"), "{text}");
    assert!(!text.contains("libnccl"), "linked to NCCL: {text}");
}

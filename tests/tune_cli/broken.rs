//! Searches over kernels that stall or give wrong results.

use std::path::{Path, PathBuf};
use std::process::Command;

use myelon_ccl::measure::Stored;
use myelon_ccl::table::{Judged, LaneTable};

use super::{succeeded, text, tune, variants};

/// A case, few candidates.
const FEW: [&str; 14] = ["-b", "4K", "-e", "4K", "-n", "2", "-d", "f32", "--ranks", "2", "-G", "2", "--lanes", "4"];

/// In one variant a rank never comes to the barrier, another one's result is a rank's input.
fn broken_kernels(here: &Path) -> PathBuf {
    let tree = here.join("cuda");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("cuda");
    assert!(Command::new("cp").arg("-r").args([&source, &tree]).status().unwrap().success());
    for (file, from, to) in [
        ("algo/signal_one_shot.cuh", "barrier.arrive();", "if (args.rank != 0) barrier.arrive();"),
        ("algo/signal_two_shot.cuh", "reduce_in_order<T, Op>(packs)", "packs[0]"),
    ] {
        let text = std::fs::read_to_string(tree.join(file)).unwrap();
        assert_eq!(text.matches(from).count(), 1, "{file}");
        std::fs::write(tree.join(file), text.replace(from, to)).unwrap();
    }
    tree
}

fn tune_broken(here: &Path, tree: &Path, arguments: &[&str]) -> Command {
    let mut tuning = tune(here, &[&FEW[..], arguments].concat());
    tuning.env("MYELON_KERNEL_TREE", tree).env("MYELON_TIMEOUT", "2").env("MYELON_CACHE", here.join("kernels"));
    tuning
}

#[test]
fn what_stalls_or_is_wrong_is_out_and_the_search_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = ["--variant", "signal_one_shot,signal_two_shot,two_shot_push", "-o", "t.toml"];
    let said = succeeded(tune_broken(here, &broken_kernels(here), &line).output().unwrap());
    for part in [
        "# dropped: signal_one_shot lanes=4",
        "stalled: rank",
        "# dropped: signal_two_shot lanes=4",
        "wrong elements (4096 bytes)",
    ] {
        assert!(said.contains(part), "'{part}' is missing from: {said}");
    }
    assert_eq!(variants(&LaneTable::read(&here.join("t.toml")).unwrap()), ["two_shot_push"]);
}

#[test]
fn where_no_table_comes_of_a_search_its_journal_stays() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = ["--variant", "signal_two_shot", "-o", "t.toml"];
    let output = tune_broken(here, &broken_kernels(here), &line).output().unwrap();
    assert_eq!(output.status.code(), Some(3), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("every candidate is out"), "{}", text(&output.stderr));
    assert!(here.join("t.toml.journal.json").exists() && !here.join("t.toml").exists());
}

#[test]
fn a_table_that_takes_what_is_wrong_is_behind_whatever_its_time() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let line = ["--variant", "signal_two_shot", "-o", "wrong.toml"];
    succeeded(tune(here, &[&FEW[..], &line].concat()).output().unwrap());
    let line = ["--variant", "two_shot_push", "-o", "t.toml", "--judge", "wrong.toml", "--json", "judge.json"];
    let output = tune_broken(here, &broken_kernels(here), &line).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{}", text(&output.stderr));
    let said = text(&output.stdout);
    assert!(said.contains("more than 3 % behind or out at 2 of 2 cases"), "{said}");
    let judged = Judged::read(&here.join("judge.json")).unwrap();
    assert!(judged.rows.is_empty() && judged.out.len() == 2, "{judged:?}");
    assert_eq!(variants(&LaneTable::read(&here.join("t.toml")).unwrap()), ["two_shot_push"]);
}

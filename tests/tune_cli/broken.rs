//! Searches over kernels that stall or give wrong results.

use std::path::Path;
use std::process::Command;

use myelon_ccl::table::LaneTable;

use super::{succeeded, tune, variants};

/// In one variant a rank never comes to the barrier, another one's result is a rank's input.
#[test]
fn what_stalls_or_is_wrong_is_out_and_the_search_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
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
    let line =
        ["--variant", "signal_one_shot,signal_two_shot,two_shot_push", "--ranks", "2", "-G", "2", "--lanes", "4"];
    let size = ["-b", "4K", "-e", "4K", "-n", "2", "-d", "f32", "-o", "t.toml"];
    let mut tuning = tune(here, &[&line[..], &size].concat());
    tuning.env("MYELON_KERNEL_TREE", &tree).env("MYELON_TIMEOUT", "2").env("MYELON_CACHE", here.join("kernels"));
    let said = succeeded(tuning.output().unwrap());
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

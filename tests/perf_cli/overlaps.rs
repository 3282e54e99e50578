//! All-reduces beside a neighbour, and the part of the page of patterns made of them.

use myelon_ccl::measure::Stored;
use myelon_ccl::measure::overlap::{Overlaps, TITLES, line};

use crate::{perf, refused, text};

#[test]
fn all_reduces_and_a_neighbour_are_timed_alone_and_beside_each_other() {
    let directory = tempfile::tempdir().unwrap();
    let here = directory.path();
    let shapes = ["--variant", "ring,one_shot_push,auto", "--lanes", "2,4"];
    let size = ["--overlap", "--device", "cpu", "--ranks", "2", "-n", "2", "-w", "1", "--json", "overlap.json"];
    let output = perf(here, &[&size[..], &shapes].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let run = Overlaps::read(&here.join("overlap.json")).unwrap();
    let lines: String = run.rows.iter().map(line).collect();
    let said = text(&output.stdout);
    assert!(said.ends_with(&format!("{TITLES}{lines}\n{}\n# wrong elements    : 0 OK\n", run.memory())), "{said}");
    for part in [
        "the times mean nothing\n",
        ", heap of 3 MiB\n",
        &format!("# the neighbour, on every rank: {}\n", run.neighbour),
    ] {
        assert!(said.contains(part), "'{part}' is missing from: {said}");
    }
    assert_eq!((run.heap_bytes.div_ceil(1 << 20), run.nccl_memory), (3, None));
    let seen: Vec<_> = run.rows.iter().map(|it| (it.row.requested.as_str(), it.row.lanes)).collect();
    let auto = run.rows[4].row.lanes;
    assert_eq!(seen, [("ring", 2), ("ring", 4), ("one_shot_push", 2), ("one_shot_push", 4), ("auto", auto)]);
    assert!(auto > 0 && run.rows[4].row.variant != "auto", "{:?}", run.rows[4]);
    for overlap in &run.rows {
        assert_eq!(
            (overlap.row.bytes, overlap.row.wrong, overlap.row.ranks.get()),
            (64 << 10, Some(0), 2),
            "{overlap:?}"
        );
    }

    for taker in ["report", "compare"] {
        let parts =
            ["overlap.json is a file of overlaps, not a results file", "report --patterns PAGE --overlaps FILE"];
        refused(here, &[taker, "overlap.json"], &parts);
    }
    let alone = perf(here, &["report", "--patterns", "alone.md", "--overlaps", "overlap.json"]);
    assert_eq!((alone.status.code(), text(&alone.stdout)), (Some(0), ""), "{}", text(&alone.stderr));
    let page = std::fs::read_to_string(here.join("alone.md")).unwrap();
    assert!(page.contains("No study has been measured yet.") && page.contains(&format!("{TITLES}{lines}")), "{page}");

    let report = ["report", "--patterns", "PATTERNS.md", "--overlaps", "overlap.json", "--", "ablation.json"];
    let studies = ["--device", "cpu", "--ranks", "2", "--ablate", "--budget", "0", "--json", "ablation.json"];
    assert_eq!(perf(here, &studies).status.code(), Some(0));
    let written = perf(here, &report);
    assert_eq!((written.status.code(), text(&written.stdout)), (Some(0), ""), "{}", text(&written.stderr));
    let page = std::fs::read_to_string(here.join("PATTERNS.md")).unwrap();
    assert!(page.contains(&format!("{TITLES}{lines}")) && page.contains("<a id=\"overlap\"></a>"), "{page}");
}

#[test]
fn an_overlap_takes_no_graphs_batches_or_studies() {
    let directory = tempfile::tempdir().unwrap();
    let cases: [(&[&str], &[&str]); 5] = [
        (&["-G", "2"], &["cannot be used with", "--cudagraph"]),
        (&["--batch", "2"], &["cannot be used with", "--batch"]),
        (&["--ablate"], &["cannot be used with", "--ablate"]),
        (&["--csv", "x.csv"], &["cannot be used with", "--csv"]),
        (&["--device", "cpu", "--against", "nccl"], &["NCCL runs on GPUs only"]),
    ];
    for (arguments, parts) in cases {
        refused(directory.path(), &[&["--overlap"], arguments].concat(), parts);
    }
}

//! Studies, and the page of patterns made of them.

use myelon_ccl::Output;
use myelon_ccl::measure::Stored;
use myelon_ccl::study::Ablation;

use crate::launched::launched;
use crate::{perf, text};

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

/// Between processes: the results' memory is one that they can map.
#[test]
fn candidates_with_direct_outputs_run_in_a_window_and_the_others_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let direct = STUDIES.replace("slots = 16, lanes = 16", "output = \"direct\"");
    std::fs::write(directory.path().join("studies.toml"), direct).unwrap();
    let line = ["--device", "cpu", "--ablate=studies.toml", "--json", "ablation.json"];
    let running = launched(directory.path(), &line).map(|mut rank| rank.spawn().unwrap());
    for output in running.map(|rank| rank.wait_with_output().unwrap()) {
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    }
    let run = Ablation::read(&directory.path().join("ablation.json")).unwrap();
    let rows = run.studies[0].rows.iter().map(|it| &it.row).filter(|row| row.variant == "ring");
    let registered: Vec<_> = rows.map(|row| (row.output, row.registered, row.wrong)).collect();
    let [staged, direct] = [(Output::Staged, false), (Output::Direct, true)];
    let [staged, direct] = [staged, direct].map(|(output, registered)| (Some(output), registered, Some(0)));
    assert_eq!(registered[..2], [staged, direct]);
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

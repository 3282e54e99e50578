//! The kernels of every enabled variant under ThreadSanitizer and AddressSanitizer.
//!
//! ThreadSanitizer judges orderings by acquire and release: of a sentinel or LL mailbox, which is all relaxed, it can say
//! no more than that nothing else in the kernel races. What those protocols assume is tested by results, with delays
//! between stores. That both sanitizers find what they are there for is shown in `mutants`.

mod support;

use std::time::Duration;

use support::child;
use support::runs::Run;

const RUNS: &str = r#"
[[run]]
name = "mailboxes"
ranks = 2
operations = 60
pairs = ["f32 sum", "i64 max"]
shapes = true

[[run]]
name = "packs"
ranks = 3
operations = 60
pairs = ["bf16 avg", "u8 sum"]
ring_slots = 2

[[run]]
name = "stages"
ranks = 2
operations = 40
pairs = ["f32 sum", "u8 max"]
variants = ["two_shot_tma", "ring_specialized"]
cell_bytes = 12288
"#;

#[derive(serde::Deserialize)]
struct Runs {
    run: Vec<Run>,
}

/// What a child does; the same without a sanitizer, where nobody asked for one.
#[test]
fn sanitizer_subject() {
    let Runs { run: runs } = toml::from_str(RUNS).unwrap();
    for run in runs {
        run.perform();
    }
}

/// Runs the subject watched by `sanitizer`; `sign` is what its reports have in them.
fn expect_no_report(sanitizer: &str, sign: &str) {
    let mut command = child::command("sanitizer_subject");
    if !child::watch(&mut command, sanitizer) {
        return;
    }
    let outcome = child::run(command, Duration::from_secs(240));
    assert!(outcome.passed() && !outcome.text.contains(sign), "{outcome}");
}

#[test]
fn thread_sanitizer_reports_no_race() {
    expect_no_report("thread", "WARNING: ThreadSanitizer");
}

#[test]
fn address_sanitizer_reports_no_access_outside() {
    expect_no_report("address", "ERROR: AddressSanitizer");
}

//! Kernels under ThreadSanitizer: it reports their races, and none of the device's own.
//!
//! Its run-time has to be there before the process starts, so each test starts this test binary once more.

use std::process::{Command, Output};

use super::tests::{APPEND, Bench, ONE, read};
use super::*;

/// Runs one of the ignored tests below in a process of its own, with kernels that the sanitizer watches.
/// `None` where this compiler has no such library to preload.
fn run_watched(test: &str) -> Option<Output> {
    let compiler = CpuCompiler::find(None).unwrap();
    let answer = Command::new(compiler.program()).arg("-print-file-name=libtsan.so").output().unwrap();
    let library = String::from_utf8(answer.stdout).unwrap().trim().to_owned();
    if !library.starts_with('/') {
        eprintln!("skipped: {} has no libtsan.so", compiler.version());
        return None;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", &format!("device::cpu::sanitize_tests::{test}")]);
    command.env("LD_PRELOAD", library).env("MYELON_CPU_SANITIZE", "thread");
    // Exit status 0 in any case: the report is what counts. The test harness hands results over by `memcpy`
    // between its threads, which the first option keeps out.
    command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1 exitcode=0");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(text.contains("1 passed"), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    Some(output)
}

#[test]
fn ordered_kernels_are_no_race() {
    let Some(output) = run_watched("child_with_ordered_kernels") else { return };
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(!report.contains("data race"), "{report}");
}

#[test]
fn unordered_kernels_are_a_race() {
    let Some(output) = run_watched("child_with_unordered_kernels") else { return };
    let report = String::from_utf8_lossy(&output.stderr);
    assert!(report.contains("data race") && report.contains("myelon_kernel"), "{report}");
}

#[test]
#[ignore = "run by ordered_kernels_are_no_race"]
fn child_with_ordered_kernels() {
    let bench = Bench::new();
    let (kernel, first, second) = (bench.load(APPEND), bench.stream(), bench.stream());
    let (device, event) = (&bench.device, bench.device.create_event().unwrap());
    for round in 0..20 {
        let word = bench.words(1, &first);
        bench.launch(kernel, ONE, &[word.address().0, 10, 1], &first);
        device.record_event(event, first.handle()).unwrap();
        device.wait_event(second.handle(), event).unwrap();
        bench.launch(kernel, ONE, &[word.address().0, 10, 2], &second);
        // No event from here to `first`: the host that waits and launches is the order.
        assert_eq!(read(&word, &second), [12], "round {round}");
        bench.launch(kernel, ONE, &[word.address().0, 10, 3], &first);
        assert_eq!(read(&word, &first), [123], "round {round}");
    }
}

#[test]
#[ignore = "run by unordered_kernels_are_a_race"]
fn child_with_unordered_kernels() {
    let bench = Bench::new();
    let (kernel, first, second) = (bench.load(APPEND), bench.stream(), bench.stream());
    let word = bench.words(1, &first);
    // WHY rounds: kernels that happen to run one after the other can be ordered by locks of the device, and then are no race.
    for _ in 0..50 {
        bench.launch(kernel, ONE, &[word.address().0, 10, 1], &first);
        bench.launch(kernel, ONE, &[word.address().0, 10, 2], &second);
    }
    first.synchronize().unwrap();
    second.synchronize().unwrap();
}

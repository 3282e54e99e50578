//! Ranks that leave in order: too early for the others, who have no deadline, or at the right time.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use myelon_ccl::{DType, Error, Rank};

use crate::rig::{ELEMENTS, Rig, SOON, on_rigs, variants, with_timeout};
use crate::support::devices;

/// Waits until aborted.
const FOR_EVER: Duration = Duration::ZERO;

/// Expects the wait for rank 2, which has left, to end soon.
#[track_caller]
fn expect_lost(rig: &Rig, context: &str) {
    let start = Instant::now();
    let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
    assert!(matches!(error, Error::PeerLost { peer: Rank(2), .. }), "{context}: {error}");
    assert!(error.to_string().contains("it left in order after operation"), "{context}: {error}");
    assert!(start.elapsed() < 3 * SOON, "{context}");
}

#[test]
fn a_wait_for_a_rank_that_has_left_ends_without_a_deadline() {
    for variant in &variants() {
        on_rigs(&devices(3), &with_timeout(FOR_EVER), variant, |rig| {
            rig.works();
            if rig.rank() != Rank(2) {
                rig.issue(ELEMENTS, DType::F32).unwrap();
                expect_lost(&rig, &variant.name);
            }
        });
    }
}

#[test]
fn replays_count_as_operations() {
    on_rigs(&devices(3), &with_timeout(FOR_EVER), &variants()[0], |rig| {
        let graph = rig.stream.capture(|| rig.issue(ELEMENTS, DType::F32)).unwrap();
        let replays = if rig.rank() == Rank(2) { 4 } else { 5 };
        for _ in 0..replays {
            graph.launch(&rig.stream).unwrap();
        }
        if rig.rank() == Rank(2) {
            rig.communicator.synchronize(rig.stream.handle()).unwrap();
        } else {
            expect_lost(&rig, "replays");
        }
    });
}

#[test]
fn a_rank_that_leaves_behind_the_last_operation_harms_nobody() {
    let staying = Barrier::new(2);
    on_rigs(&devices(3), &with_timeout(FOR_EVER), &variants()[0], |rig| {
        rig.works();
        if rig.rank() == Rank(2) {
            return;
        }
        // Several looks long.
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            rig.communicator.status().unwrap();
            std::thread::sleep(Duration::from_millis(50));
        }
        staying.wait();
    });
}

//! A rank that never calls, and ranks that call for different things.

use std::sync::Barrier;
use std::time::Instant;

use myelon_ccl::{DType, Error, Rank};

use crate::rig::{ELEMENTS, Rig, SHORT, SOON, culprits_of, on_rigs, variants, with_timeout};
use crate::support::devices;

#[test]
fn a_rank_that_never_calls_is_named_by_all_others_and_a_new_communicator_works() {
    let devices = devices(3);
    for variant in &variants() {
        let everyone_is_done = Barrier::new(3);
        on_rigs(&devices, &with_timeout(SHORT), variant, |rig| {
            rig.fill(0);
            rig.sum(ELEMENTS).unwrap();
            if rig.rank() != Rank(2) {
                let start = Instant::now();
                let error = rig.sum(ELEMENTS).unwrap_err();
                assert!(start.elapsed() < SOON, "{}: {error}", variant.name);
                assert_eq!(culprits_of(&error), [Rank(2)], "{}: {error}", variant.name);
                // The next call says it again, and launches nothing.
                assert!(rig.issue(ELEMENTS, DType::F32).unwrap_err().is_stalled());
            }
            everyone_is_done.wait();
            if rig.rank() == Rank(2) {
                let error = rig.communicator.status().unwrap_err();
                assert!(error.is_aborted() && error.to_string().contains("rank 2 had not started"), "{error}");
                assert!(rig.sum(ELEMENTS).is_err());
            }
        });
        on_rigs(&devices, &with_timeout(SHORT), variant, |rig| rig.works());
    }
}

#[test]
fn the_rank_that_comes_too_late_gets_an_error_too() {
    let first_has_given_up = Barrier::new(2);
    on_rigs(&devices(2), &with_timeout(SHORT), &variants()[0], |rig| {
        if rig.rank() == Rank(0) {
            let error = rig.sum(ELEMENTS).unwrap_err();
            assert_eq!(culprits_of(&error), [Rank(1)], "{error}");
            first_has_given_up.wait();
        } else {
            first_has_given_up.wait();
            let start = Instant::now();
            assert!(rig.sum(ELEMENTS).unwrap_err().is_aborted());
            assert!(start.elapsed() < SOON);
        }
    });
}

/// Two operations: a difference in the first may let it complete everywhere, and is found by the second at the latest.
fn two_operations(rig: &Rig, count: u64, dtype: DType) -> Error {
    let first = rig.issue(count, dtype).and_then(|()| rig.communicator.synchronize(rig.stream.handle()));
    first.and_then(|()| rig.sum(ELEMENTS)).expect_err("the ranks asked for different things")
}

#[test]
fn different_operations_are_an_error_everywhere_that_names_both_sides() {
    let devices = devices(3);
    let of_rank_1 = [(100, DType::F32, "sum of 100 f32"), (1000, DType::I32, "sum of 1000 i32")];
    for variant in &variants() {
        for (count, dtype, text) in of_rank_1 {
            let start = Instant::now();
            let errors = on_rigs(&devices, &with_timeout(SHORT), variant, |rig| match rig.rank() {
                Rank(1) => two_operations(&rig, count, dtype),
                _ => two_operations(&rig, 1000, DType::F32),
            });
            let case = format!("{}, {text}: {errors:?}", variant.name);
            let named = errors.iter().filter(|error| {
                let Error::PeerMismatch { rank, peer, what, .. } = error else { return false };
                let said = error.to_string();
                assert!(*rank == Rank(1) || *peer == Rank(1), "{case}");
                assert_eq!(what, "operation 1", "{case}");
                said.contains(text) && said.contains("sum of 1000 f32")
            });
            assert!(named.count() >= 1, "{case}");
            let known = |error: &Error| matches!(error, Error::PeerMismatch { .. } | Error::Aborted { .. });
            assert!(errors.iter().all(known), "{case}");
            assert!(start.elapsed() < 10 * SOON, "{case}");
        }
        on_rigs(&devices, &with_timeout(SOON), variant, |rig| rig.works());
    }
}

#[test]
fn messages_of_a_different_number_of_pieces_are_a_mismatch_and_no_stall() {
    // The first pieces are alike; only the whole differs.
    on_rigs(&devices(2), &with_timeout(SOON), &variants()[0], |rig| {
        let count = ELEMENTS - 1024 * u64::from(rig.rank().0);
        let error = two_operations(&rig, count, DType::F32);
        assert!(matches!(error, Error::PeerMismatch { .. } | Error::Aborted { .. }), "{error}");
    });
}

//! Every wait policy ends a wait in every way it can end.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use myelon_ccl::variant::{Choice, Shape};
use myelon_ccl::{DType, Rank, Wait};

use crate::rig::{ELEMENTS, SHORT, SOON, culprits_of, on_rigs_of, variants, with_timeout};
use crate::support::devices;

/// Every variant with every policy that it takes.
fn choices() -> impl Iterator<Item = Choice> {
    let each = |variant| Wait::ALL.iter().map(move |&wait| (std::sync::Arc::clone(&variant), wait));
    let choices = variants()
        .into_iter()
        .flat_map(each)
        .map(|(variant, wait)| Choice { variant, shape: Shape { wait: Some(wait), ..Shape::default() } });
    choices.filter(|choice| choice.variant.takes(&choice.shape).is_ok())
}

#[test]
fn a_stall_ends_and_names_the_culprit_under_every_wait_policy() {
    let devices = devices(2);
    for choice in choices() {
        let everyone_is_done = Barrier::new(2);
        on_rigs_of(&devices, &with_timeout(SHORT), &choice, |rig| {
            rig.fill(0);
            rig.sum(ELEMENTS).unwrap();
            rig.check(0);
            if rig.rank() == Rank(0) {
                let start = Instant::now();
                let error = rig.sum(ELEMENTS).unwrap_err();
                assert!(start.elapsed() < SOON, "{choice}: {error}");
                assert_eq!(culprits_of(&error), [Rank(1)], "{choice}: {error}");
            }
            everyone_is_done.wait();
        });
    }
}

#[test]
fn an_abort_ends_a_wait_under_every_wait_policy() {
    let devices = devices(2);
    for choice in choices() {
        let everyone_is_done = Barrier::new(2);
        on_rigs_of(&devices, &with_timeout(Duration::from_secs(100)), &choice, |rig| {
            if rig.rank() == Rank(0) {
                rig.issue(ELEMENTS, DType::F32).unwrap();
                // Long enough for the kernel to be in its cold wait; the test is right without it.
                std::thread::sleep(Duration::from_millis(20));
                let start = Instant::now();
                rig.communicator.abort("enough");
                let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
                assert!(start.elapsed() < SOON && error.is_aborted(), "{choice}: {error}");
            }
            everyone_is_done.wait();
        });
    }
}

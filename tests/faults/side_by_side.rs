//! Several communicators on the same devices, several streams on one communicator, and nothing to do at all.

use std::sync::Barrier;

use myelon_ccl::device::handles::Stream;
use myelon_ccl::{Communicator, DType, Rank};

use crate::rig::{ELEMENTS, Rig, SHORT, SOON, on_rigs, variants, with_timeout};
use crate::support::devices;

#[test]
fn several_communicators_on_the_same_devices_do_not_disturb_each_other() {
    let devices = devices(2);
    let variants = variants();
    let groups: Vec<_> = (0..3).map(|_| Communicator::threads(&devices, &with_timeout(10 * SOON)).unwrap()).collect();
    std::thread::scope(|scope| {
        for (index, group) in groups.into_iter().enumerate() {
            let variant = &variants[index % variants.len()];
            for communicator in group {
                scope.spawn(move || {
                    let rig = Rig::new(communicator, variant);
                    for _ in 0..10 {
                        rig.works();
                    }
                });
            }
        }
    });
}

#[test]
fn a_fault_in_one_communicator_leaves_the_other_alone() {
    let devices = devices(2);
    let stalled = Barrier::new(2);
    on_rigs(&devices, &with_timeout(SHORT), &variants()[0], |rig| {
        // Each rank alone in a world of its own, beside the one with the peer.
        let own = [std::sync::Arc::clone(rig.communicator.device())];
        let alone = Communicator::threads(&own, &with_timeout(SOON)).unwrap().remove(0);
        let alone = Rig::new(alone, &variants()[0]);
        if rig.rank() == Rank(0) {
            rig.issue(ELEMENTS, DType::F32).unwrap();
            alone.works();
            assert!(rig.communicator.synchronize(rig.stream.handle()).unwrap_err().is_stalled());
        }
        // A rank that left before would be the reason.
        stalled.wait();
        alone.works();
    });
}

#[test]
fn two_streams_on_one_communicator_take_turns() {
    for variant in &variants() {
        on_rigs(&devices(2), &with_timeout(10 * SOON), variant, |rig| {
            let streams =
                [Stream::new(rig.communicator.device()).unwrap(), Stream::new(rig.communicator.device()).unwrap()];
            rig.fill(0);
            // Nobody waits in between, and the ranks switch streams at different times.
            for operation in 0..24 {
                let stream = &streams[(operation / (2 + rig.rank().index())) % 2];
                rig.issue_on(stream, ELEMENTS, DType::F32).unwrap();
            }
            for stream in &streams {
                rig.communicator.synchronize(stream.handle()).unwrap();
            }
            rig.check(0);
        });
    }
}

#[test]
fn nothing_to_reduce_needs_no_peer() {
    on_rigs(&devices(2), &with_timeout(SHORT), &variants()[0], |rig| {
        if rig.rank() == Rank(0) {
            rig.sum(0).unwrap();
        }
        rig.works();
    });
}

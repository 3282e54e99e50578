//! Abort from another thread, and drops while a kernel waits.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use myelon_ccl::{DType, Error, Rank};

use crate::rig::{ELEMENTS, on_rigs, variants, with_timeout};
use crate::support::devices;

/// Far beyond what any test here takes: only an abort ends these waits in time.
const LONG: Duration = Duration::from_secs(100);

#[test]
fn an_abort_from_another_thread_ends_a_spinning_kernel_and_reaches_the_peers() {
    let devices = devices(3);
    for variant in &variants() {
        let (launched, done) = (Barrier::new(2), Barrier::new(3));
        on_rigs(&devices, &with_timeout(LONG), variant, |rig| {
            let rig = &rig;
            match rig.rank() {
                Rank(0) => std::thread::scope(|scope| {
                    rig.issue(ELEMENTS, DType::F32).unwrap();
                    launched.wait();
                    let waiting = scope.spawn(|| rig.communicator.synchronize(rig.stream.handle()));
                    // Long enough for the kernel to be in its cold wait; the test is right without it.
                    std::thread::sleep(Duration::from_millis(20));
                    let start = Instant::now();
                    rig.communicator.abort("enough is enough");
                    let error = waiting.join().unwrap().unwrap_err();
                    assert!(start.elapsed() < Duration::from_secs(1), "{}", variant.name);
                    assert!(error.is_aborted() && error.to_string().contains("enough is enough"), "{error}");
                }),
                Rank(1) => {
                    rig.issue(ELEMENTS, DType::F32).unwrap();
                    launched.wait();
                    let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
                    assert!(error.is_aborted() && error.to_string().contains("rank 0 gave up: enough"), "{error}");
                }
                // The rank that never called hears of it as well.
                _ => {
                    let start = Instant::now();
                    let error = loop {
                        match rig.communicator.status() {
                            Ok(()) => assert!(start.elapsed() < LONG / 2, "nothing was heard"),
                            Err(error) => break error,
                        }
                        std::thread::sleep(Duration::from_millis(1));
                    };
                    assert!(error.is_aborted() && error.to_string().contains("rank 0 gave up: enough"), "{error}");
                    assert!(matches!(rig.issue(1, DType::F32), Err(Error::Aborted { .. })));
                }
            }
            done.wait();
        });
    }
    on_rigs(&devices, &with_timeout(LONG), &variants()[0], |rig| rig.works());
}

/// A rank that unwinds before it comes to an operation.
#[test]
fn a_panic_ends_the_waits_of_the_others() {
    let devices = devices(2);
    let issued = Barrier::new(2);
    on_rigs(&devices, &with_timeout(LONG), &variants()[0], |rig| {
        if rig.rank() == Rank(0) {
            let start = Instant::now();
            rig.issue(ELEMENTS, DType::F32).unwrap();
            issued.wait();
            let error = rig.communicator.synchronize(rig.stream.handle()).unwrap_err();
            assert!(error.is_aborted() && error.to_string().contains("rank 1 gave up: its thread panicked"), "{error}");
            assert!(start.elapsed() < LONG / 2);
        } else {
            issued.wait();
            let unwound = std::panic::catch_unwind(std::panic::AssertUnwindSafe(move || {
                let _owned = rig;
                std::panic::resume_unwind(Box::new("planted"));
            }));
            assert!(unwound.is_err());
        }
    });
}

#[test]
fn a_drop_while_a_peer_never_calls_is_bounded() {
    let devices = devices(2);
    on_rigs(&devices, &with_timeout(LONG), &variants()[0], |rig| {
        if rig.rank() == Rank(0) {
            rig.issue(ELEMENTS, DType::F32).unwrap();
        }
        // Buffers and stream go after the communicator: fields drop in order.
        let start = Instant::now();
        drop(rig);
        assert!(start.elapsed() < LONG, "a drop took {:?}", start.elapsed());
    });
    on_rigs(&devices, &with_timeout(LONG), &variants()[0], |rig| rig.works());
}

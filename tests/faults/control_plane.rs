//! Ranks that are missing, or different, when a communicator comes up.

use std::sync::{Arc, Barrier};
use std::time::Instant;

use myelon_ccl::bootstrap::LocalBootstrap;
use myelon_ccl::device::{Device, DeviceKind};
use myelon_ccl::measure::Bytes;
use myelon_ccl::table::{LaneTable, Machine};
use myelon_ccl::{Communicator, DType, Error, Options, Rank, ReduceOp, Result, WorldSize};

use crate::rig::{SHORT, SOON, with_timeout};
use crate::support::{device_kind, devices, options, small_limits};

/// Every rank below `come` connects, with options of its own.
fn connect(come: u32, world: u32, options: impl Fn(Rank) -> Options + Sync) -> Vec<Result<Communicator>> {
    let group = LocalBootstrap::group(WorldSize::new(world).unwrap(), SHORT);
    let devices: Vec<Arc<dyn Device>> = devices(world);
    let done = Barrier::new(come as usize);
    std::thread::scope(|scope| {
        let mut ranks = group.into_iter().zip(devices).zip((0..world).map(Rank));
        let started: Vec<_> = ranks
            .by_ref()
            .take(come as usize)
            .map(|((bootstrap, device), rank)| {
                let (options, done) = (&options, &done);
                scope.spawn(move || {
                    let outcome = Communicator::connect(device, Arc::new(bootstrap), options(rank));
                    done.wait();
                    outcome
                })
            })
            .collect();
        // Those that stay away are neither here nor gone while the others wait.
        let absent: Vec<_> = ranks.collect();
        let outcomes = started.into_iter().map(|rank| rank.join().unwrap()).collect();
        drop(absent);
        outcomes
    })
}

#[test]
fn a_rank_missing_at_init_is_named_by_all_others() {
    let start = Instant::now();
    for outcome in connect(2, 3, |_| options()) {
        let error = outcome.unwrap_err();
        assert!(matches!(error, Error::Bootstrap { .. }) && error.to_string().contains("rank 2"), "{error}");
    }
    assert!(start.elapsed() < SOON);
}

#[test]
fn ranks_with_different_settings_refuse_each_other_and_name_the_setting() {
    let mut other_limits = small_limits();
    other_limits.lanes += 1;
    let cases: [(&str, Options); 4] = [
        ("limits", Options { limits: Some(other_limits), ..options() }),
        ("limits", Options { mailbox: Some(Bytes(8 << 10)), ..options() }),
        ("lanes of large messages", Options { large_lanes: Some(1), ..options() }),
        ("sentinel", Options { sentinel: false, ..options() }),
    ];
    for (word, other) in cases {
        for outcome in connect(2, 2, |rank| if rank == Rank(1) { other.clone() } else { options() }) {
            let error = outcome.unwrap_err();
            let said = error.to_string();
            assert!(matches!(error, Error::PeerMismatch { .. }) && said.contains(word), "{error}");
        }
    }
}

/// Rank 1 has a table for GPUs, which is refused before it says anything to anybody.
#[test]
fn what_stops_one_rank_alone_is_heard_by_the_others() {
    if device_kind() == DeviceKind::Cuda {
        return println!("skipped: of the CPU device");
    }
    let start = Instant::now();
    let of_gpus = LaneTable::embedded(&Machine::of_gpus("NVIDIA H200"), WorldSize::new(2).unwrap());
    let wrong = Options { table: Some(of_gpus.unwrap()), ..options() };
    let outcomes = connect(2, 2, |rank| if rank == Rank(1) { wrong.clone() } else { options() });
    let texts: Vec<_> = outcomes.into_iter().map(|outcome| outcome.unwrap_err().to_string()).collect();
    assert!(texts[0].contains(&texts[1]), "{texts:?}");
    assert!(start.elapsed() < SOON);
}

/// One thread drops all ranks, one after the other: none waits for the next.
#[test]
fn ranks_of_a_process_go_one_after_the_other() {
    let ranks = Communicator::threads(&devices(4), &options()).unwrap();
    let start = Instant::now();
    drop(ranks);
    assert!(start.elapsed() < SOON);
}

#[test]
fn preparing_with_a_rank_that_has_left_is_an_error_that_names_it() {
    let mut ranks = Communicator::threads(&devices(2), &with_timeout(SHORT)).unwrap();
    drop(ranks.pop());
    let staying = ranks.pop().unwrap();
    let error = staying.prepare_types(&[(DType::F32, ReduceOp::Sum)]).unwrap_err();
    assert!(error.to_string().contains("rank 1 already said goodbye"), "{error}");
}

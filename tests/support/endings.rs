//! A last operation that cannot complete, and what each rank must be told of it: by the kernels, no host helps.

use std::sync::Barrier;
use std::time::Duration;

use myelon_ccl::device::handles::Buffer;
use myelon_ccl::variant::{Choice, Request};
use myelon_ccl::{DType, Error, Operation, Rank, ReduceOp};
use serde::Deserialize;

use super::Bench;

/// Why it cannot complete.
#[derive(Clone, Copy, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Ending {
    /// Rank 0 never calls: the others stall, and name it.
    Stall,
    /// Rank 0 asks for another count: a kernel finds out, and ends those that wait for it.
    Mismatch,
    /// Rank 0 never calls, and the hosts of the others stop them.
    Abort,
    /// Rank 0 calls when the others have given up: nothing of it may get into their windows.
    Late,
}

/// Elements of the operation: all lanes, and rounds of a ring under `small_limits`.
const COUNT: u64 = 8000;
/// Elements that the rank which differs asks for: fewer rounds, so that nobody else can complete.
const OTHER_COUNT: u64 = 1000;

impl Ending {
    /// Issues the operation; a panic says what was told instead. `hosts` are those of all ranks.
    pub(crate) fn check(self, bench: &Bench, choice: &Choice, hosts: &Barrier) {
        if self == Self::Late {
            return come_late(bench, choice, hosts);
        }
        let communicator = &bench.communicator;
        let rank = communicator.rank();
        let request = |count| Request { count, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let plans = [COUNT, OTHER_COUNT].map(|count| communicator.plan(choice, &request(count)).unwrap());
        communicator.prepare(&plans).unwrap();

        let first = rank == Rank(0);
        if first && self != Self::Mismatch {
            hosts.wait();
            return;
        }
        let data = Buffer::new(communicator.device(), 4 * COUNT).unwrap();
        let (request, stream) = (request(if first { OTHER_COUNT } else { COUNT }), &bench.streams[0]);
        // SAFETY: the buffer holds the operand and outlives the synchronisation.
        unsafe {
            let operation = Operation::of(&request, data.address(), data.address());
            communicator.all_reduce_as(choice, &operation, stream.handle()).unwrap();
        }
        if self == Self::Abort {
            std::thread::sleep(Duration::from_millis(20));
            communicator.abort("enough is enough");
        }
        // WHY not `Communicator::synchronize`: it would tell the peers' hosts, which then would stop kernels that nothing
        // else stops.
        stream.synchronize().unwrap();
        hosts.wait();
        let Err(error) = communicator.status() else {
            // Rank 0 may have had all that it asked for.
            assert!(first, "rank {rank}: {self:?} ended as if all was well");
            return;
        };
        let right = match (self, &error) {
            (Self::Stall, Error::Stalled { culprits, .. }) => {
                assert_eq!(*culprits, [Rank(0)], "rank {rank}: wrong culprits: {error:?}");
                true
            }
            (Self::Mismatch, Error::PeerMismatch { .. }) => true,
            (Self::Mismatch | Self::Abort, Error::Aborted { .. }) => true,
            _ => false,
        };
        assert!(right, "rank {rank}: {self:?} ended as {error:?}");
    }
}

fn come_late(bench: &Bench, choice: &Choice, hosts: &Barrier) {
    const KEPT: u8 = 0x77;
    let (communicator, stream) = (&bench.communicator, &bench.streams[0]);
    let rank = communicator.rank();
    let request = Request { count: COUNT, dtype: DType::F32, op: ReduceOp::Sum, registered: true };
    communicator.prepare(&[communicator.plan(choice, &request).unwrap()]).unwrap();
    let data = Buffer::new(communicator.device(), 4 * COUNT).unwrap();
    // SAFETY: the window goes before the buffer, and then no rank has anything queued.
    let window = unsafe { communicator.register(data.address(), 4 * COUNT).unwrap() };
    let run = || {
        let operation = Operation::of(&request, data.address(), data.address());
        let operation = Operation { window: Some(&window), ..operation };
        // SAFETY: the buffer holds the operand and outlives the synchronisation.
        unsafe { communicator.all_reduce_as(choice, &operation, stream.handle()).unwrap() };
        stream.synchronize().unwrap();
    };
    let late = rank == Rank(0);
    if !late {
        run();
        data.fill(KEPT, stream).unwrap();
        stream.synchronize().unwrap();
    }
    hosts.wait();
    if late {
        run();
    }
    hosts.wait();
    let mut seen = vec![0; 4 * COUNT as usize];
    data.download(&mut seen, stream).unwrap();
    assert!(late || seen.iter().all(|&byte| byte == KEPT), "rank {rank}: one that came late wrote past its output");
    assert!(communicator.status().is_err(), "rank {rank}: an operation that stalled ended as if all was well");
}

//! Barriers hold every stream until the last one has come, and say who did not come.

use std::sync::Barrier;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::{Communicator, DType, Error, Options, Rank, ReduceOp, Result};

use crate::support::{on_ranks, options};

const RANKS: u32 = 3;
/// How late a rank is.
const LATE: Duration = Duration::from_millis(50);

fn barrier(communicator: &Communicator, stream: &Stream) -> Result<()> {
    // SAFETY: every test's streams outlive its synchronisations.
    unsafe { communicator.barrier(stream.handle()) }
}

/// Queues a barrier by `issue` on every rank, on one of them late, each in turn: nobody's stream is through before.
fn check_late_ranks(communicator: &Communicator, stream: &Stream, come: &AtomicU32, issue: &dyn Fn()) {
    let rank = communicator.rank();
    for round in 0..2 * RANKS {
        let all = (round + 1) * RANKS;
        if rank.0 == round % RANKS {
            std::thread::sleep(LATE);
        }
        come.fetch_add(1, Ordering::SeqCst);
        issue();
        while !communicator.device().stream_is_idle(stream.handle()).unwrap() {
            std::thread::yield_now();
        }
        assert!(come.load(Ordering::SeqCst) >= all, "rank {rank}: round {round} did not wait for everybody");
        communicator.synchronize(stream.handle()).unwrap();
    }
}

#[test]
fn a_rank_that_is_late_holds_all_streams_up() {
    let come = AtomicU32::new(0);
    on_ranks(RANKS, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        check_late_ranks(&communicator, &stream, &come, &|| barrier(&communicator, &stream).unwrap());
    });
}

#[test]
fn every_replay_of_a_graph_is_a_barrier_also_as_the_first_operation() {
    let come = AtomicU32::new(0);
    on_ranks(RANKS, &options(), |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let graph = stream.capture(|| barrier(&communicator, &stream)).unwrap();
        check_late_ranks(&communicator, &stream, &come, &|| graph.launch(&stream).unwrap());
    });
}

#[test]
fn what_streams_did_before_is_there_for_all_behind() {
    const BYTES: u64 = 64 << 10;
    let addresses = [const { std::sync::OnceLock::new() }; RANKS as usize];
    let hosts = Barrier::new(RANKS as usize);
    on_ranks(RANKS, &options(), |communicator| {
        let device = communicator.device();
        let (stream, rank) = (Stream::new(device).unwrap(), communicator.rank());
        let [own, copy] = [(); 2].map(|()| Buffer::new(device, BYTES).unwrap());
        addresses[rank.index()].set(own.address()).unwrap();
        hosts.wait();
        let next = *addresses[(rank.index() + 1) % RANKS as usize].get().unwrap();
        for round in 0..20_u8 {
            let byte = |rank: u32| round * RANKS as u8 + rank as u8;
            if u32::from(round) % RANKS == rank.0 {
                std::thread::sleep(LATE / 10);
            }
            own.fill(byte(rank.0), &stream).unwrap();
            barrier(&communicator, &stream).unwrap();
            // SAFETY: the next rank's buffer lives until all hosts have met, and is written between barriers only.
            unsafe { device.copy(copy.address(), next, BYTES, stream.handle()).unwrap() };
            barrier(&communicator, &stream).unwrap();
            communicator.synchronize(stream.handle()).unwrap();
            let mut seen = vec![0; BYTES as usize];
            copy.download(&mut seen, &stream).unwrap();
            let expected = byte((rank.0 + 1) % RANKS);
            assert!(seen.iter().all(|&byte| byte == expected), "rank {rank}: round {round}");
        }
        hosts.wait();
    });
}

#[test]
fn barriers_and_all_reduces_take_turns() {
    const COUNT: u64 = 3000;
    on_ranks(RANKS, &options(), |communicator| {
        let device = communicator.device();
        // Not by a call: kernels are loaded once a device has nothing to do, and on a shared one a peer may wait for us.
        communicator.prepare_types(&[(DType::U32, ReduceOp::Max), (DType::F32, ReduceOp::Sum)]).unwrap();
        let streams = [(); 2].map(|()| Stream::new(device).unwrap());
        let data = Buffer::new(device, 4 * COUNT).unwrap();
        data.upload(&1_u32.to_ne_bytes().repeat(COUNT as usize), &streams[0]).unwrap();
        // Not in the loop: memory is freed once the device is idle, and on a shared one a peer may wait for us.
        let floats = Buffer::new(device, 4 * COUNT).unwrap();
        floats.fill(0, &streams[0]).unwrap();
        for round in 0..12 {
            // Kinds of mailboxes and barriers, on changing streams.
            let stream = &streams[round % 2];
            barrier(&communicator, stream).unwrap();
            let (at, count) = (data.address(), if round % 3 == 0 { COUNT } else { 5 });
            // SAFETY: the buffer holds COUNT elements; it and the streams outlive the synchronisation.
            unsafe { communicator.all_reduce(at, at, count, DType::U32, ReduceOp::Max, stream.handle()).unwrap() };
            let at = floats.address();
            // SAFETY: as above.
            unsafe { communicator.all_reduce(at, at, count, DType::F32, ReduceOp::Sum, stream.handle()).unwrap() };
            communicator.synchronize(stream.handle()).unwrap();
        }
        let mut seen = vec![0; 4 * COUNT as usize];
        data.download(&mut seen, &streams[0]).unwrap();
        assert!(seen.chunks_exact(4).all(|bytes| bytes == 1_u32.to_ne_bytes()));
    });
}

#[test]
fn a_rank_that_does_not_come_is_named() {
    let done = Barrier::new(RANKS as usize);
    let options = Options { timeout: Duration::from_millis(300), ..options() };
    on_ranks(RANKS, &options, |communicator| {
        if communicator.rank() != Rank(1) {
            let stream = Stream::new(communicator.device()).unwrap();
            barrier(&communicator, &stream).unwrap();
            let error = communicator.synchronize(stream.handle()).unwrap_err();
            let culprits = match &error {
                Error::Stalled { culprits, .. } => format!("{culprits:?}"),
                other => other.to_string(),
            };
            assert!(culprits.contains('1'), "{error}");
        }
        done.wait();
    });
}

#[test]
fn another_operation_is_no_barrier() {
    let done = Barrier::new(2);
    let options = Options { timeout: Duration::from_secs(3), prepare: vec![(DType::F32, ReduceOp::Sum)], ..options() };
    on_ranks(2, &options, |communicator| {
        let stream = Stream::new(communicator.device()).unwrap();
        let data = Buffer::new(communicator.device(), 64).unwrap();
        data.fill(0, &stream).unwrap();
        if communicator.rank() == Rank(0) {
            barrier(&communicator, &stream).unwrap();
        } else {
            let at = data.address();
            // SAFETY: the buffer holds 16 floats and outlives the synchronisation.
            unsafe { communicator.all_reduce(at, at, 16, DType::F32, ReduceOp::Sum, stream.handle()).unwrap() };
        }
        let message = communicator.synchronize(stream.handle()).unwrap_err().to_string();
        assert!(message.contains("a barrier") || message.contains("operations differ"), "{message}");
        done.wait();
    });
}

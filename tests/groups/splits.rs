//! Children of four ranks, as threads and as processes: who is in them, and that they reduce, each for itself.

use std::time::Duration;

use myelon_ccl::device::handles::{Buffer, Stream};
use myelon_ccl::{Communicator, DType, Rank, ReduceOp};

use crate::support::group::{self, Group};
use crate::support::{child, on_ranks, options, with_own_devices};

const RANKS: u32 = 4;
const COUNT: usize = 3000;

/// The sum of what each rank gives, after a few operations whose other results are sums as well.
fn sum(communicator: &Communicator, value: u32) -> u32 {
    let device = communicator.device();
    let (stream, data) = (Stream::new(device).unwrap(), Buffer::new(device, 4 * COUNT as u64).unwrap());
    let mut sums = Vec::new();
    for round in 0..8 {
        data.upload(&(value << round).to_ne_bytes().repeat(COUNT), &stream).unwrap();
        // SAFETY: the buffer holds COUNT elements; it and the stream outlive the synchronisation.
        unsafe {
            let (at, stream) = (data.address(), stream.handle());
            communicator.all_reduce(at, at, COUNT as u64, DType::U32, ReduceOp::Sum, stream).unwrap();
        }
        communicator.synchronize(stream.handle()).unwrap();
        let mut seen = vec![0; 4 * COUNT];
        data.download(&mut seen, &stream).unwrap();
        let sum = u32::from_ne_bytes(seen[..4].try_into().unwrap());
        assert!(seen.chunks_exact(4).all(|bytes| bytes == sum.to_ne_bytes()), "round {round}");
        sums.push(sum >> round);
    }
    assert!(sums.iter().all(|&sum| sum == sums[0]), "{sums:?}");
    sums[0]
}

/// The child of a color, and that it is what it should be: `members` in the order of its ranks, or none.
fn split(parent: &Communicator, color: Option<u32>, key: u32, members: &[u32]) -> Option<Communicator> {
    let child = parent.split(color, key, options()).unwrap();
    let Some(child) = child else {
        assert!(members.is_empty(), "rank {} has no child", parent.rank());
        return None;
    };
    let place = members.iter().position(|&member| Rank(member) == parent.rank());
    assert_eq!((Some(child.rank().index()), child.world_size().get()), (place, members.len() as u32));
    // Each gives a bit of its own, so the sum says who took part.
    let expected: u32 = members.iter().map(|member| 1 << member).sum();
    assert_eq!(sum(&child, 1 << parent.rank().0), expected, "rank {}", parent.rank());
    Some(child)
}

/// What a rank of four does; the last child outlives all others.
fn life(parent: Communicator) {
    let rank = parent.rank().0;
    assert_eq!(sum(&parent, 1 << rank), 0b1111);

    // Two and two, backwards: both reduce at the same time, and so does the parent between their operations.
    let pair = split(&parent, Some(rank % 2), 10 - rank, &[[2, 0], [3, 1]][rank as usize % 2]).unwrap();
    for _ in 0..3 {
        assert_eq!(sum(&parent, 1 << rank), 0b1111);
        assert_eq!(sum(&pair, 1 << rank), [0b0101, 0b1010][rank as usize % 2]);
    }
    // One and three, in the order of the parent.
    let members: &[u32] = if rank == 2 { &[2] } else { &[0, 1, 3] };
    let alone_or_three = split(&parent, Some(u32::from(rank == 2)), 7, members).unwrap();
    // Some stay out, all in turn.
    for out in 0..RANKS {
        let members: Vec<u32> = (0..RANKS).filter(|&member| member != out).collect();
        let color = (rank != out).then_some(u32::MAX);
        split(&parent, color, rank, if rank == out { &[] } else { &members });
    }
    assert!(parent.split(None, 0, options()).unwrap().is_none(), "nobody has a color");

    // A child of a child, when its parent and its parent's parent are gone.
    drop(parent);
    let rank_of_three = alone_or_three.rank().0;
    let grandchild = if alone_or_three.world_size().get() == 3 {
        // Ranks 0 and 2 of the child are 0 and 3 of the first parent.
        let color = (rank_of_three != 1).then_some(5);
        alone_or_three.split(color, 0, options()).unwrap()
    } else {
        alone_or_three.split(Some(5), 0, options()).unwrap()
    };
    drop(alone_or_three);
    match (rank, &grandchild) {
        (1, grandchild) => assert!(grandchild.is_none()),
        (2, Some(alone)) => assert_eq!(sum(alone, 4), 4),
        (_, Some(two)) => assert_eq!(sum(two, 1 << rank), 0b1001),
        (_, None) => panic!("rank {rank} has a color"),
    }
    assert_eq!(sum(&pair, 1 << rank), [0b0101, 0b1010][rank as usize % 2]);
}

#[test]
fn threads_split() {
    if with_own_devices(RANKS) < RANKS {
        return println!(
            "skipped: {RANKS} ranks as threads make communicators beside operations, each on a GPU of its own"
        );
    }
    on_ranks(RANKS, &options(), life);
}

#[test]
fn processes_split() {
    let group = Group::new(RANKS);
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let run = |rank| child::run(group.command(rank, "splits::rank_process"), Duration::from_secs(240));
        let ranks: Vec<_> = group.ranks().map(|rank| scope.spawn(move || run(rank))).collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    });
    for (rank, outcome) in outcomes.iter().enumerate() {
        assert!(outcome.passed(), "rank {rank}: {outcome}");
    }
}

/// A rank of the test above, in a process of its own.
#[test]
fn rank_process() {
    if let Some(communicator) = group::join(options()) {
        life(communicator);
    }
}

/// A fault of one is no fault of the other: each has its own heap and control plane.
#[test]
fn a_child_is_aborted_alone() {
    on_ranks(2, &options(), |parent| {
        let child = parent.split(Some(0), 0, options()).unwrap().unwrap();
        if parent.rank() == Rank(0) {
            child.abort("enough of this one");
        }
        while child.status().is_ok() {
            std::thread::yield_now();
        }
        let error = child.split(Some(0), 0, options()).unwrap_err();
        assert!(error.is_aborted() && error.to_string().contains("enough of this one"), "{error}");
        drop(child);
        assert_eq!(sum(&parent, 1), 2);
        let again = parent.split(Some(0), 0, options()).unwrap().unwrap();
        assert_eq!(sum(&again, 1), 2);
    });
}

//! Which launches let up the next one before their own turn.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use crate::device::{LaunchShape, StreamHandle};

/// Threads of a grid that is small: four of them have no more than one large grid.
const MOST_THREADS: u32 = 16384;
/// One launch of so many in a row on a stream waits for its turn first.
const CYCLE: u32 = 3;

/// The launches of one communicator, as far as they are small.
///
/// A launch that is let up early saves some of the way from turn to turn (docs/PERFORMANCE.md). INVARIANT: of the launches that
/// follow each other on a stream, or in a capture, never three in a row let up the next one early. So at most four grids are up,
/// however long the first one waits for a peer.
#[derive(Debug, Default)]
pub(super) struct EarlyLaunches {
    stream: AtomicU64,
    /// Launches on that stream since the last one that waited for its turn.
    run: AtomicU32,
}

impl EarlyLaunches {
    /// Whether the next launch may come up before the turn of this one. The caller's turn (`Order`) makes calls a sequence.
    pub(super) fn lets_up_next(&self, shape: &LaunchShape, stream: StreamHandle) -> bool {
        // One handle that is another stream on each thread says nothing of what follows what.
        if !shape.dependent || shape.grid * shape.block > MOST_THREADS || stream == StreamHandle::PER_THREAD {
            return false;
        }
        let goes_on = self.stream.swap(stream.raw(), Ordering::Relaxed) == stream.raw();
        let run = if goes_on { (self.run.load(Ordering::Relaxed) + 1) % CYCLE } else { 0 };
        self.run.store(run, Ordering::Relaxed);
        run != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: LaunchShape = LaunchShape { grid: 32, block: 128, shared_bytes: 0, dependent: true };

    fn named(stream: u64) -> StreamHandle<'static> {
        // SAFETY: no device sees it.
        unsafe { StreamHandle::from_raw(stream) }
    }

    #[test]
    fn never_three_in_a_row_on_a_stream_whatever_comes_between() {
        let early = EarlyLaunches::default();
        let on = |stream: u64| early.lets_up_next(&SMALL, named(stream));
        assert_eq!([(); 7].map(|()| on(8)), [false, true, true, false, true, true, false]);
        // Every third call is on another stream, one that is captured for example.
        let of_first: Vec<_> = (0..30).map(|turn| (turn, on(if turn % 3 == 0 { 9 } else { 8 }))).collect();
        let of_first: Vec<_> = of_first.iter().filter(|(turn, _)| turn % 3 != 0).map(|&(_, early)| early).collect();
        assert!(of_first.windows(3).all(|three| three.contains(&false)), "{of_first:?}");
    }

    #[test]
    fn large_grids_and_streams_of_threads_wait_for_their_turn() {
        let early = EarlyLaunches::default();
        let large = LaunchShape { grid: 128, block: 256, ..SMALL };
        let plain = LaunchShape { dependent: false, ..SMALL };
        for (shape, stream) in [(large, named(8)), (plain, named(8)), (SMALL, StreamHandle::PER_THREAD)] {
            assert!([(); 4].iter().all(|()| !early.lets_up_next(&shape, stream)));
        }
    }
}

//! Ranks that leave in order while an operation of this rank waits for them: that is no loss, and without a deadline nothing
//! else would end the wait.
//!
//! Every operation announces its number to all ranks before it waits for any (`cuda/sync/operation.cuh`), and a rank leaves once
//! its operations have ended. So what a rank that has left announced here is final, and an operation of this rank with a higher
//! number waits in vain. Only the device knows these numbers: replays of a graph count as well.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::Watch;
use crate::abi::{HeapLayout, MAX_WORLD, OPERATION_BITS};
use crate::bootstrap::ControlEvent;
use crate::device::handles::Stream;
use crate::device::{Device, DevicePtr, HostBlock};
use crate::error::Result;
use crate::types::Rank;

/// Time between two looks. Ranks mostly leave together, and the first look comes after them.
const INTERVAL: Duration = Duration::from_millis(250);
/// Longest wait for a look that is under way when the communicator ends: its kernels have ended by then.
const LAST_LOOK_PATIENCE: Duration = Duration::from_secs(1);

/// What every rank announced last, by the parity of the operation's number.
type Signatures = [[u64; 2]; MAX_WORLD];

/// Looks, once a rank has left, whether an operation of this rank waits for it, and if so stops the rank as a loss does.
#[derive(Debug)]
pub struct Departures {
    shared: Arc<Shared>,
}

/// Where goodbyes are reported, for as long as the [`Departures`] live.
#[derive(Debug)]
pub struct Goodbyes(Weak<Shared>);

#[derive(Debug)]
struct Shared {
    device: Arc<dyn Device>,
    watch: Arc<Watch>,
    /// In this rank's heap.
    signatures: DevicePtr,
    /// Their copy.
    page: HostBlock,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    left: Vec<Rank>,
    has_ended: bool,
    thread: Option<JoinHandle<()>>,
}

impl Departures {
    /// For the rank of `watch`, whose heap begins at `heap` and lives at least as long as what is made here.
    pub fn new(device: &Arc<dyn Device>, watch: &Arc<Watch>, heap: DevicePtr, layout: &HeapLayout) -> Result<Self> {
        let shared = Shared {
            device: Arc::clone(device),
            watch: Arc::clone(watch),
            signatures: heap.offset(layout.signatures),
            page: device.allocate_host(size_of::<Signatures>() as u64)?,
            state: Mutex::default(),
            changed: Condvar::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Where goodbyes are reported.
    pub fn goodbyes(&self) -> Goodbyes {
        Goodbyes(Arc::downgrade(&self.shared))
    }
}

impl Goodbyes {
    /// Takes note that `rank` has left; never waits.
    pub fn hear(&self, rank: Rank) {
        if let Some(shared) = self.0.upgrade() {
            Shared::note(&shared, rank);
        }
    }
}

impl Drop for Departures {
    fn drop(&mut self) {
        let thread = {
            let mut state = self.shared.state();
            state.has_ended = true;
            state.thread.take()
        };
        self.shared.changed.notify_all();
        // One that panicked has told on standard error.
        let _ = thread.map(JoinHandle::join);
    }
}

impl Shared {
    fn note(this: &Arc<Self>, rank: Rank) {
        let mut state = this.state();
        state.left.push(rank);
        if state.has_ended || state.thread.is_some() {
            return;
        }
        let looking = Arc::clone(this);
        let thread = std::thread::Builder::new().name(format!("myelon-left-{}", this.watch.rank)).spawn(move || {
            if let Err(error) = looking.look_until_the_end() {
                tracing::warn!(rank = looking.watch.rank.0, %error, "a wait for a rank that has left would not be noticed");
            }
        });
        match thread {
            Ok(thread) => state.thread = Some(thread),
            Err(error) => {
                tracing::warn!(rank = this.watch.rank.0, %error, "a wait for rank {rank}, which has left, would not be noticed");
            }
        }
    }

    fn look_until_the_end(&self) -> Result<()> {
        if self.ends_within(INTERVAL) {
            return Ok(());
        }
        // Not before: most communicators have ended by now.
        let stream = Stream::new(&self.device)?;
        loop {
            let Some(signatures) = self.look(&stream)? else { return Ok(()) };
            let left = self.state().left.clone();
            if let Some(event) = in_vain(self.watch.rank, &left, &signatures) {
                self.watch.hear(event);
                return Ok(());
            }
            if self.ends_within(INTERVAL) {
                return Ok(());
            }
        }
    }

    /// The signatures as they are now; `None` if the communicator ends before they have come.
    fn look(&self, stream: &Stream) -> Result<Option<Signatures>> {
        const POLL: Duration = Duration::from_millis(1);
        let words = (size_of::<Signatures>() / size_of::<u64>()) as u64;
        // SAFETY: the heap outlives this (`Departures::new`), as the wait below sees to; the page is nobody else's.
        unsafe { self.device.copy_words(self.page.device, self.signatures, words, stream.handle())? };
        // Bounded where the stream shares a hardware queue with work that waits: that work ends with the communicator.
        let mut has_ended = false;
        while !self.device.stream_is_idle(stream.handle())? && !has_ended {
            has_ended = self.ends_within(POLL);
        }
        let end = Instant::now() + LAST_LOOK_PATIENCE;
        while !self.device.stream_is_idle(stream.handle())? {
            if Instant::now() >= end {
                tracing::error!(rank = self.watch.rank.0, "a copy of 128 bytes did not end");
                break;
            }
            std::thread::sleep(POLL);
        }
        // SAFETY: the copy has ended; plain words, in memory that begins with a page.
        Ok((!has_ended).then(|| unsafe { self.page.host.cast::<Signatures>().read() }))
    }

    /// Waits this long at most, for the end of the communicator.
    fn ends_within(&self, time: Duration) -> bool {
        let waiting = |state: &mut State| !state.has_ended;
        let waited = self.changed.wait_timeout_while(self.state(), time, waiting);
        waited.unwrap_or_else(PoisonError::into_inner).0.has_ended
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // WHY: nothing under this lock panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What there is to say if rank `own` has begun an operation that a rank of `left` never will.
fn in_vain(own: Rank, left: &[Rank], signatures: &Signatures) -> Option<ControlEvent> {
    let begun = |rank: Rank| latest(signatures[rank.index()]);
    let ours = begun(own);
    let rank = left.iter().copied().find(|&rank| is_ahead(ours, begun(rank)))?;
    let detail = format!("it left in order after operation {}, and operation {ours} waits for it", begun(rank));
    Some(ControlEvent::PeerLost { rank, detail })
}

/// The number of the later of two operations that a rank announced; 0 before the first.
fn latest(signatures: [u64; 2]) -> u32 {
    let [even, odd] = signatures.map(|signature| (signature >> (u64::BITS - OPERATION_BITS)) as u32);
    if is_ahead(odd, even) { odd } else { even }
}

/// Whether an operation comes after `other`; their numbers begin again at 2^24.
fn is_ahead(operation: u32, other: u32) -> bool {
    let ahead = operation.wrapping_sub(other) & ((1 << OPERATION_BITS) - 1);
    ahead != 0 && ahead < 1 << (OPERATION_BITS - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature(number: u64) -> u64 {
        number << (u64::BITS - OPERATION_BITS) | 7
    }

    #[test]
    fn who_is_behind_and_has_left_is_waited_for_in_vain() {
        let mut signatures = Signatures::default();
        let mut at = |rank: usize, even, odd| signatures[rank] = [signature(even), signature(odd)];
        at(0, 6, 7);
        at(1, 6, 5);
        at(2, 8, 7);
        let event = |left: &[Rank]| in_vain(Rank(0), left, &signatures).map(|event| event.to_string());
        assert_eq!(event(&[]), None);
        assert_eq!(event(&[Rank(2)]), None, "it began an operation more, which this rank will come to");
        let said = event(&[Rank(2), Rank(1)]).unwrap();
        assert_eq!(said, "rank 1 is lost: it left in order after operation 6, and operation 7 waits for it");
        // A rank that never began any.
        assert!(event(&[Rank(3)]).unwrap().contains("after operation 0"));
    }

    #[test]
    fn numbers_begin_again() {
        let last = (1 << OPERATION_BITS) - 1;
        assert_eq!(latest([signature(0), signature(last)]), 0);
        assert_eq!(latest([signature(0), signature(1)]), 1);
        assert_eq!(latest([0, 0]), 0);
        assert!(is_ahead(0, last as u32) && !is_ahead(last as u32, 0) && !is_ahead(5, 5));
    }
}

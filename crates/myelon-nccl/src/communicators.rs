//! What Myelon knows of each real communicator, beside its handle.

use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use myelon_ccl::device::handles::Event;
use myelon_ccl::device::{DeviceKind, StreamHandle};
use myelon_ccl::{Call, Collective, Communicator, Error, Operation};

use crate::abi::Comm;
use crate::attach::Control;
use crate::cuda::CurrentContext;
use crate::route::Prepared;
use crate::sequence::Sequence;

/// A communicator that was made through this library and not destroyed yet.
pub(crate) struct Entry {
    /// The rank, for messages.
    pub(crate) rank: u32,
    /// Myelon's side; absent where everything is forwarded.
    pub(crate) attached: Option<Attached>,
}

/// Myelon beside a real communicator, on all ranks of it.
pub(crate) struct Attached {
    pub(crate) communicator: Communicator,
    pub(crate) control: Arc<Control>,
    pub(crate) prepared: Prepared,
    pub(crate) sequence: Sequence,
    /// Whether each rank is a process of its own.
    pub(crate) are_processes: bool,
    /// Behind what was on the GPU when it was asked, after a loss, whether replays wait.
    pub(crate) replays: Mutex<Option<(Event, Instant)>>,
}

/// How long replays may take, once a rank is lost, before they count as waiting for it.
const REPLAYS_PATIENCE: Duration = Duration::from_secs(2);

impl Attached {
    /// What went wrong, if it harms an operation that was queued, or may be under way in a graph. A peer that ended after all operations
    /// had, as at the end of a program, harms nobody before the next operation.
    pub(crate) fn status(&self) -> Result<(), Error> {
        let (state, lost) = (self.communicator.status(), self.control.lost());
        if state.is_ok() && lost.is_none() {
            return Ok(());
        }
        let is_waiting = || !self.communicator.is_idle() || lost.is_some() && self.has_waiting_replays();
        let harms = self.communicator.has_fault() || self.bound(is_waiting);
        // A rank that is lost explains everything that followed.
        if harms { lost.map_or(state, Err) } else { Ok(()) }
    }

    /// Whether replays seem to wait, of graphs that hold operations: something that was on the GPU when this was asked before is still
    /// there.
    fn has_waiting_replays(&self) -> bool {
        let mut mark = self.replays.lock().unwrap_or_else(PoisonError::into_inner);
        match &*mark {
            Some((event, since)) if !event.is_reached().unwrap_or(true) => since.elapsed() >= REPLAYS_PATIENCE,
            _ => match self.communicator.mark_replays() {
                Ok(Some(event)) => {
                    *mark = Some((event, Instant::now()));
                    false
                }
                // Where it cannot be known.
                Ok(None) => self.communicator.has_captured(),
                Err(_) => true,
            },
        }
    }

    /// On the CPU a call holds the host until its operation has ended.
    pub(crate) fn is_cpu(&self) -> bool {
        self.communicator.device().properties().kind == DeviceKind::Cpu
    }

    /// Runs work that may change the thread's current context.
    pub(crate) fn bound<R>(&self, work: impl FnOnce() -> R) -> R {
        let _kept = self.keep_context();
        work()
    }

    /// What puts the thread's current context back when dropped.
    pub(crate) fn keep_context(&self) -> Option<CurrentContext> {
        (!self.is_cpu()).then(CurrentContext::keep)
    }

    /// Queues calls in order. On the CPU device, which has no streams that a caller could wait for, they have ended then.
    pub(crate) fn issue(&self, calls: &[Call], stream: StreamHandle) -> Result<(), Error> {
        self.bound(|| {
            // Nothing is queued that waits for a rank which will not come.
            self.control.lost().map_or(Ok(()), Err)?;
            self.sequence.before_myelon(stream)?;
            let issued = self.queue(calls, stream);
            let has_queued = issued.is_ok() && calls.iter().any(|call| call.count > 0);
            let noted = self.sequence.after_myelon(stream, has_queued);
            issued.and(noted)?;
            if !self.is_cpu() {
                return Ok(());
            }
            let ended = self.communicator.synchronize(stream);
            // Without a fault the data are there, whatever became of a peer since.
            if self.communicator.has_fault() { ended } else { Ok(()) }
        })
    }

    fn queue(&self, calls: &[Call], stream: StreamHandle) -> Result<(), Error> {
        let reduces = calls.len() > 1 && calls.iter().all(|call| call.collective == Collective::AllReduce);
        if reduces {
            let operation = |call: &Call| Operation::of(&call.request(), call.input, call.output);
            let operations: Vec<_> = calls.iter().map(operation).collect();
            // SAFETY: buffers and stream are what the caller of ncclAllReduce promises of them; streams may go after the call.
            return unsafe { self.communicator.all_reduce_batch(&operations, stream) };
        }
        // SAFETY: as above, of the caller of each function.
        calls.iter().try_for_each(|call| unsafe { self.communicator.call(call, stream) })
    }
}

/// What has the entries.
static OWNED: Mutex<BTreeMap<usize, Arc<Entry>>> = Mutex::new(BTreeMap::new());

/// Handles in order.
type Known = Vec<(usize, Weak<Entry>)>;

/// The handles of all entries, to be read at every call without a lock.
///
/// INVARIANT: of entries it has nothing that keeps them: whoever still reads an older list would be the one to end what another thread
/// took out, and with it wait for the peers of that.
static KNOWN: LazyLock<ArcSwap<Known>> = LazyLock::new(ArcSwap::default);

/// What is known of a handle.
pub(crate) fn find(comm: Comm) -> Option<Arc<Entry>> {
    let known = KNOWN.load();
    let place = known.binary_search_by_key(&(comm as usize), |(comm, _)| *comm).ok()?;
    known[place].1.upgrade()
}

/// Puts an entry for a new handle, in place of one that an earlier communicator left.
pub(crate) fn insert(comm: Comm, rank: u32, attached: Option<Attached>) {
    let entry = Arc::new(Entry { rank, attached });
    drop(change(|owned| owned.insert(comm as usize, entry)));
}

/// Takes a handle out: from now on its calls are forwarded.
pub(crate) fn remove(comm: Comm) -> Option<Arc<Entry>> {
    change(|owned| owned.remove(&(comm as usize)))
}

/// Changes the entries; what is taken out is dropped by the caller, behind the lock.
fn change(change: impl FnOnce(&mut BTreeMap<usize, Arc<Entry>>) -> Option<Arc<Entry>>) -> Option<Arc<Entry>> {
    let mut owned = OWNED.lock().unwrap_or_else(PoisonError::into_inner);
    let taken = change(&mut owned);
    KNOWN.store(Arc::new(owned.iter().map(|(&comm, entry)| (comm, Arc::downgrade(entry))).collect()));
    taken
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn handles_are_found_replaced_and_forgotten() {
        let comms = [0x30usize, 0x10, 0x20].map(|address| address as Comm);
        for (rank, comm) in comms.into_iter().enumerate() {
            insert(comm, rank as u32, None);
        }
        assert_eq!(comms.map(|comm| find(comm).unwrap().rank), [0, 1, 2]);
        insert(comms[1], 7, None);
        assert_eq!(find(comms[1]).unwrap().rank, 7);
        assert_eq!(remove(comms[1]).unwrap().rank, 7);
        assert!(find(comms[1]).is_none() && remove(comms[1]).is_none());
        assert!(find(std::ptr::null_mut()).is_none());
        assert!(find(comms[0]).is_some() && find(comms[2]).is_some());
        // A call that reads the list meanwhile does not keep what is taken out.
        let _reading = KNOWN.load_full();
        let removed = remove(comms[0]).unwrap();
        assert_eq!(Arc::strong_count(&removed), 1);
        assert!(find(comms[2]).is_some());
    }
}

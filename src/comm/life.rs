//! How a communicator fares and ends: waits of the host, what went wrong, aborts, and the drop.

use std::mem::ManuallyDrop;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::Communicator;
use super::engine::Engine;
use crate::device::handles::Event;
use crate::device::{DevicePtr, StreamHandle};
use crate::error::{Error, Result};

impl Communicator {
    /// Waits until the stream has passed everything queued, and says what went wrong with the collectives on it.
    ///
    /// Bounded, unless [`Options::timeout`](super::Options::timeout) is 0 or NCCL runs the operations: every wait inside a kernel has the
    /// deadline. It ends when a peer is lost in any case.
    ///
    /// Errors: [`Error::Stalled`], [`Error::PeerLost`], [`Error::PeerMismatch`] and [`Error::Aborted`] of any operation so far; those of
    /// the device, of which the peers are told where it is lost.
    pub fn synchronize(&self, stream: StreamHandle) -> Result<()> {
        // A rank whose device is lost comes to no operation any more.
        self.order.synchronize(stream).inspect_err(|error| {
            if error.is_of_lost_device() {
                self.tell(error);
            }
        })?;
        self.status()
    }

    /// Makes later work of `stream` wait for the operation that was issued last, for work that is not this communicator's; inside a
    /// capture, for the one that was last captured there.
    ///
    /// # Safety
    /// `stream` belongs to this rank's device and exists; without
    /// [`Options::transient_streams`](super::Options::transient_streams) so does that of the last operation.
    pub unsafe fn follow(&self, stream: StreamHandle) -> Result<()> {
        self.order.follow(stream)
    }

    /// Whether the operation that was issued last is known to have ended. Replays of graphs are not known here. Never waits: while an
    /// operation is being queued, and while the stream of the last one is being captured, none is known to have ended.
    pub fn is_idle(&self) -> bool {
        self.order.is_idle()
    }

    /// Whether operations of this communicator were captured, so that replays may be under way. Never waits: while an operation is being
    /// queued, it may be so.
    pub fn has_captured(&self) -> bool {
        self.order.has_captured()
    }

    /// Whether a kernel of this rank has ended without its data. Where none has, what [`Communicator::status`] says of a peer that is
    /// lost may be of one that ended after all operations had.
    pub fn has_fault(&self) -> bool {
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.watch().has_fault(),
            Engine::Nccl(nccl) => nccl.check().is_err(),
        }
    }

    /// What went wrong so far, without waiting for operations. Errors: as [`Communicator::synchronize`].
    ///
    /// A fault that this rank found is passed on to its peers when it is first told, here, by an operation or by
    /// [`Communicator::synchronize`]: they may not be waiting for anything.
    pub fn status(&self) -> Result<()> {
        let state = match &*self.engine {
            Engine::Kernels(kernels) => kernels.watch().check(),
            Engine::Nccl(nccl) => nccl.check(),
        };
        state.inspect_err(|error| {
            let own = matches!(error, Error::Stalled { .. } | Error::PeerMismatch { .. });
            if own {
                self.tell(error);
            }
        })
    }

    /// Tells the peers why this rank gives up, once.
    fn tell(&self, error: &Error) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.bootstrap.announce_abort(&error.to_string());
        }
    }

    /// Queues a copy of a word into 4 bytes of device memory, on `stream` and behind the operation that was issued last: 0 where every
    /// operation of this rank that ended so far did so with its data, else 1. For work on the GPU that must not use results that never
    /// came, such as a step of an optimizer, with no wait of the host; it can be captured. [`Communicator::status`] says what it was.
    ///
    /// Errors: [`Error::Unsupported`] where operations run on NCCL, which has no such word; those of the device.
    ///
    /// # Safety
    /// `status` is 4 bytes that this rank's device reaches, aligned and valid until the stream has passed; the stream is as for an operation.
    pub unsafe fn queue_status(&self, status: DevicePtr, stream: StreamHandle) -> Result<()> {
        let Engine::Kernels(kernels) = &*self.engine else {
            return Err(Error::unsupported(
                "NCCL's operations leave no word on the GPU that says whether one has failed: use status()",
            ));
        };
        // In the order of operations, so that the heap lives until the copy has ended.
        // SAFETY: the rest is the caller's promise.
        self.order.issue(stream, None, || unsafe { self.device.copy(status, kernels.fault_word(), 4, stream) })
    }

    /// Ends every running and future operation of this communicator, on this rank at once and on its peers as soon as they
    /// hear of it. From any thread.
    pub fn abort(&self, detail: &str) {
        // Peers first: their kernels hear of ours as soon as it stops, their hosts should know why by then.
        self.bootstrap.announce_abort(detail);
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.watch().abort(detail),
            Engine::Nccl(nccl) => nccl.abort(detail),
        }
    }

    /// An event behind everything that this process has on the rank's device now, where operations of this communicator were captured:
    /// once it is reached, the replays launched so far have ended. None where no operation was, or the driver is older than 12.5.
    ///
    /// While any stream of the device is being captured this is an error, and the driver ends that capture.
    pub fn mark_replays(&self) -> Result<Option<Event>> {
        match *self.engine {
            Engine::Kernels(_) => self.order.mark_replays(),
            // It knows of replays itself.
            Engine::Nccl(_) => Ok(None),
        }
    }

    fn is_within_process(&self) -> bool {
        match &*self.engine {
            Engine::Kernels(kernels) => kernels.is_within_process(),
            Engine::Nccl(_) => false,
        }
    }

    /// Waits a bounded time for this rank's kernels to end; false if they did not.
    pub(super) fn drain(&self, patience: Duration) -> bool {
        within(patience, || self.order.is_idle())
    }

    /// Waits a bounded time for replays, and stops those that take longer; false if the device still has work that may be theirs.
    fn drain_replays(&self) -> bool {
        let Engine::Kernels(kernels) = &*self.engine else { return true };
        let mark = match self.mark_replays() {
            Ok(Some(mark)) => mark,
            Ok(None) => return true,
            Err(error) => {
                tracing::warn!(rank = self.rank().0, %error, "whether replays of graphs run cannot be known");
                kernels
                    .watch()
                    .abort("the communicator was dropped while replays of its graphs could not be waited for");
                return false;
            }
        };
        // A dead context: nothing runs there any more.
        let is_reached = || mark.is_reached().unwrap_or(true);
        within(DRAIN_PATIENCE, is_reached) || {
            // WHY: on this rank alone: it may be other work of the program that takes so long, and then all operations have ended.
            kernels.watch().abort("the communicator was dropped while replays of its graphs were running");
            within(STOP_PATIENCE, is_reached)
        }
    }
}

/// Looks until something is so, for a bounded time; whether it is.
fn within(patience: Duration, is_so: impl Fn() -> bool) -> bool {
    let end = Instant::now() + patience;
    while !is_so() {
        if Instant::now() >= end {
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    true
}

/// How long a drop waits for operations that were queued, and then for them to obey the abort word.
pub(super) const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long a drop waits for replays to obey the abort word.
const STOP_PATIENCE: Duration = Duration::from_secs(1);
/// How long a drop waits for the peers to say goodbye.
const LEAVE_PATIENCE: Duration = Duration::from_secs(5);

impl Drop for Communicator {
    fn drop(&mut self) {
        // WHY: peers may wait for operations that this rank does not come to any more; a goodbye would not tell them so.
        if std::thread::panicking() {
            self.abort("its thread panicked");
        }
        if !self.drain(DRAIN_PATIENCE) {
            self.abort("the communicator was dropped while operations were running");
            if !self.drain(DRAIN_PATIENCE) {
                // A kernel that obeys nothing still uses this memory: losing it is the lesser evil.
                tracing::error!(rank = self.rank().0, "kernels did not end; leaking the heap of the communicator");
                return;
            }
        }
        let replays_ended = self.drain_replays();
        // Peers may still load from our heap: it is theirs too (SharedBlock), so nothing is freed under them. WHY: within a process no wait
        // for them is needed, and one thread may drop all ranks, one after the other.
        let is_free_to_go = self.is_within_process() && !self.bootstrap.carries_peers();
        self.bootstrap.leave(if is_free_to_go { Duration::ZERO } else { LEAVE_PATIENCE });
        if !replays_ended {
            tracing::warn!(
                rank = self.rank().0,
                "work that was queued before the communicator was dropped may still run on the device, replays of its graphs perhaps: \
                 keeping its heap; wait for them before the drop, and drop it while no stream of the device is being captured"
            );
            return;
        }
        // SAFETY: dropped once, here; nothing uses it afterwards.
        unsafe { ManuallyDrop::drop(&mut self.engine) }
    }
}

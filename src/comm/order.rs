//! One communicator is one sequence of operations, whatever streams they are put on.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::device::captures::Captures;
use crate::device::handles::Event;
use crate::device::{Device, StreamHandle};
use crate::error::{Error, Result};

/// Which stream the last operation went to, and how the next one waits for it.
pub(super) struct Order {
    device: Arc<dyn Device>,
    /// Whether streams may go after their call, and their handles come again for others.
    transient: bool,
    state: Mutex<State>,
}

struct State {
    /// `None` once that stream is known to have passed everything: its owner may have destroyed it since. Captured operations
    /// do not count: what runs before the next one is what was issued, not what was recorded since.
    last: Option<Last>,
    /// Operations so far, captured ones aside.
    issued: u64,
    event: Event,
    /// Set from the start, or once a second stream was seen: from then on every operation is followed by a record of `event`.
    several_streams: bool,
    captures: Captures,
}

struct Last {
    stream: u64,
    identity: Identity,
    /// INVARIANT: lives until another stream was made to wait for this one, or this one was waited for.
    owner: Option<Owner>,
}

impl Last {
    fn stream(&self) -> StreamHandle<'_> {
        // SAFETY: who issues an operation keeps its stream until another one was made to wait for it, or it was waited for: the contract of
        // `Communicator::all_reduce`. Where streams may go before that, `several_streams` holds from the start, and this one is not asked.
        unsafe { StreamHandle::from_raw(self.stream) }
    }
}

/// What is equal for one stream only.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Identity {
    /// As long as the stream lives.
    Handle(u64),
    /// For good.
    Number(u64),
}

/// Where an operation goes.
#[derive(Clone, Copy)]
enum Place {
    /// To a stream.
    Stream(Identity),
    /// Into a capture, by number.
    Capture(u64),
}

/// What keeps a stream alive.
pub(super) type Owner = Arc<dyn Any + Send + Sync>;

/// The right to issue one operation, or a batch; calls from other threads wait for it to end.
struct Turn<'a> {
    device: &'a dyn Device,
    stream: StreamHandle<'a>,
    place: Place,
    state: MutexGuard<'a, State>,
}

impl Order {
    /// With `transient` every operation has a mark of its own from the first one on, and no stream is touched after its call.
    pub(super) fn new(device: &Arc<dyn Device>, transient: bool) -> Result<Self> {
        let (event, captures) = (Event::new(device)?, Captures::new(device)?);
        let state = State { last: None, issued: 0, event, several_streams: transient, captures };
        Ok(Self { device: Arc::clone(device), transient, state: Mutex::new(state) })
    }

    /// Queues `work` on `stream` behind the operation before it. An owner is kept for as long as this is the last operation.
    ///
    /// Errors: [`Error::InvalidArgument`] where `stream` cannot wait for that operation, `work` not begun; those of `work`.
    pub(super) fn issue(
        &self,
        stream: StreamHandle,
        owner: Option<Owner>,
        work: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let mut turn = self.turn(stream)?;
        turn.follow_the_last()?;
        let launched = work();
        // WHY: after a failure as well: some of its launches may be queued.
        let ended = turn.end(owner);
        launched.and(ended)
    }

    /// Makes later work of `stream` wait for the last operation; inside a capture, for the last one of that capture.
    pub(super) fn follow(&self, stream: StreamHandle) -> Result<()> {
        self.turn(stream)?.follow_the_last()
    }

    /// Waits until `stream` has passed everything queued, and then has no more to do with it, unless another thread goes on.
    pub(super) fn synchronize(&self, stream: StreamHandle) -> Result<()> {
        let (identity, issued) = (self.identity(stream)?, self.state().issued);
        self.device.synchronize_stream(stream)?;
        let mut state = self.state();
        if state.issued == issued {
            state.last.take_if(|last| last.identity == identity);
        }
        Ok(())
    }

    /// As [`super::Communicator::mark_replays`].
    pub(super) fn mark_replays(&self) -> Result<Option<Event>> {
        if self.state().captures.is_empty() {
            return Ok(None);
        }
        let event = Event::new(&self.device)?;
        Ok(event.record_everything()?.then_some(event))
    }

    /// Whether operations were captured, as far as is known without waiting.
    pub(super) fn has_captured(&self) -> bool {
        match self.state.try_lock() {
            Ok(state) => !state.captures.is_empty(),
            Err(TryLockError::Poisoned(poisoned)) => !poisoned.into_inner().captures.is_empty(),
            Err(TryLockError::WouldBlock) => true,
        }
    }

    /// Whether the last operation is known to have ended. Replays of graphs are not known here.
    pub(super) fn is_idle(&self) -> bool {
        // WHY: without waiting for the lock: an operation that is being queued may be held up by the queue, and whoever asks here may
        // be the one that would end it.
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        // A dead context, or a stream that is gone: nothing runs there any more.
        state.last.as_ref().is_none_or(|last| match state.several_streams {
            true => state.event.is_reached().unwrap_or(true),
            false => {
                !self.device.is_capturing(last.stream()).unwrap_or(false)
                    && self.device.stream_is_idle(last.stream()).unwrap_or(true)
            }
        })
    }

    /// Whether the stream of the last operation is being captured, so that it cannot be asked what has ended.
    pub(super) fn is_hidden(&self) -> bool {
        let state = self.state();
        !state.several_streams
            && state.last.as_ref().is_some_and(|last| self.device.is_capturing(last.stream()).unwrap_or(false))
    }

    fn turn<'a>(&'a self, stream: StreamHandle<'a>) -> Result<Turn<'a>> {
        let place = match self.device.capture_of(stream)? {
            Some(capture) => Place::Capture(capture),
            None => Place::Stream(self.identity(stream)?),
        };
        Ok(Turn { device: &*self.device, stream, place, state: self.state() })
    }

    fn identity(&self, stream: StreamHandle) -> Result<Identity> {
        Ok(match self.transient || stream == StreamHandle::PER_THREAD {
            true => Identity::Number(self.device.stream_number(stream)?),
            false => Identity::Handle(stream.raw()),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    fn follow_the_last(&mut self) -> Result<()> {
        let (state, stream) = (&mut *self.state, self.stream);
        let identity = match self.place {
            Place::Stream(identity) => identity,
            // Captured work cannot wait for work outside the capture: there the user orders the replays.
            Place::Capture(capture) => return state.captures.hold(capture, stream),
        };
        let Some(last) = state.last.as_ref().filter(|last| last.identity != identity) else { return Ok(()) };
        if !state.several_streams {
            // Too late to record behind the last operation: an event there would be of the capture.
            if self.device.is_capturing(last.stream())? {
                return Err(Error::invalid(
                    "the stream of the operation before this one is being captured, and another stream cannot wait for it: \
                     end the capture first, use the same stream, or synchronize the communicator before the capture",
                ));
            }
            state.event.record(last.stream())?;
            state.several_streams = true;
        }
        state.event.hold(stream)
    }

    /// The operation is queued, in part at least, or captured.
    fn end(mut self, owner: Option<Owner>) -> Result<()> {
        let (state, stream) = (&mut *self.state, self.stream);
        let identity = match self.place {
            Place::Stream(identity) => identity,
            Place::Capture(capture) => return state.captures.record(capture, stream),
        };
        state.issued += 1;
        match state.last.as_mut().filter(|last| last.identity == identity) {
            Some(last) => last.owner = last.owner.take().or(owner),
            None => state.last = Some(Last { stream: stream.raw(), identity, owner }),
        }
        // On another thread its handle is another stream's: too late there for a mark.
        state.several_streams |= stream == StreamHandle::PER_THREAD;
        if state.several_streams {
            state.event.record(stream)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

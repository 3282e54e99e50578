//! One communicator is one sequence of operations, whatever streams they are put on.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::handles::Event;
use crate::device::{Device, StreamHandle};
use crate::error::Result;

/// Which stream the last operation went to, and how the next one waits for it.
pub(super) struct Order {
    device: Arc<dyn Device>,
    state: Mutex<State>,
}

struct State {
    /// `None` once that stream is known to have passed everything: its owner may have destroyed it since.
    last: Option<StreamHandle>,
    /// Operations so far.
    issued: u64,
    event: Event,
    /// Set once a second stream was seen: from then on every operation is followed by a record of `event`.
    several_streams: bool,
    /// Keeps streams alive that came with an owner: `last`, and the one before while the next operation is being issued.
    kept: [Option<Arc<dyn Any + Send + Sync>>; 2],
}

/// The right to issue one operation; calls from other threads wait for it to end.
pub(super) struct Turn<'a> {
    device: &'a dyn Device,
    state: MutexGuard<'a, State>,
    stream: StreamHandle,
}

impl Order {
    pub(super) fn new(device: &Arc<dyn Device>) -> Result<Self> {
        let event = Event::new(device)?;
        let state = State { last: None, issued: 0, event, several_streams: false, kept: [None, None] };
        Ok(Self { device: Arc::clone(device), state: Mutex::new(state) })
    }

    /// Takes the turn, and makes `stream` wait for the operation before this one, if that went elsewhere.
    pub(super) fn turn(&self, stream: StreamHandle) -> Result<Turn<'_>> {
        let mut turn = Turn { device: &*self.device, state: self.state(), stream };
        turn.follow_the_last()?;
        Ok(turn)
    }

    /// Keeps the owner of the next operation's stream until another stream has taken its place.
    pub(super) fn keep(&self, owner: Arc<dyn Any + Send + Sync>) {
        let mut state = self.state();
        if state.kept[0].as_ref().is_none_or(|kept| !Arc::ptr_eq(kept, &owner)) {
            state.kept.rotate_right(1);
            state.kept[0] = Some(owner);
        }
    }

    /// Waits until `stream` has passed everything queued, and then has no more to do with it, unless another thread goes on.
    pub(super) fn synchronize(&self, stream: StreamHandle) -> Result<()> {
        let issued = self.state().issued;
        self.device.synchronize_stream(stream)?;
        let mut state = self.state();
        if state.last == Some(stream) && state.issued == issued {
            state.last = None;
        }
        Ok(())
    }

    /// Whether the last operation has ended, as far as its stream can tell.
    pub(super) fn is_idle(&self) -> bool {
        // A stream of a dead context, or one that is gone: nothing runs there any more.
        self.state().last.is_none_or(|stream| self.device.stream_is_idle(stream).unwrap_or(true))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    fn follow_the_last(&mut self) -> Result<()> {
        let (state, stream) = (&mut *self.state, self.stream);
        let Some(last) = state.last.filter(|&last| last != stream) else { return Ok(()) };
        // Captured work cannot wait for work outside the capture: there the user orders the replays.
        if self.device.is_capturing(stream)? || self.device.is_capturing(last)? {
            return Ok(());
        }
        if !state.several_streams {
            state.event.record(last)?;
            state.several_streams = true;
        }
        state.event.hold(stream)
    }

    /// The operation is queued.
    pub(super) fn end(mut self) -> Result<()> {
        self.state.last = Some(self.stream);
        self.state.issued += 1;
        if self.state.several_streams && !self.device.is_capturing(self.stream)? {
            self.state.event.record(self.stream)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::handles::Stream;

    #[test]
    fn a_stream_that_was_waited_for_may_go() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device).unwrap();
        let streams = [(); 3].map(|()| Stream::new(&device).unwrap());
        for stream in &streams {
            order.turn(stream.handle()).unwrap().end().unwrap();
        }
        order.synchronize(streams[0].handle()).unwrap();
        assert_eq!(order.state().last, Some(streams[2].handle()), "another stream had the last operation");
        order.synchronize(streams[2].handle()).unwrap();
        assert_eq!(order.state().last, None);
        drop(streams);
        assert!(order.is_idle());
        let next = Stream::new(&device).unwrap();
        order.turn(next.handle()).unwrap().end().unwrap();
    }
}

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
    /// `None` once that stream is known to have passed everything: its owner may have destroyed it since. Captured operations
    /// do not count: what runs before the next one is what was issued, not what was recorded since.
    last: Option<StreamHandle>,
    /// Where an operation was captured last, so that replays may be running there. `None` as with `last`.
    captured: Option<StreamHandle>,
    /// Operations so far.
    issued: u64,
    event: Event,
    /// Set once a second stream was seen: from then on every operation is followed by a record of `event`.
    several_streams: bool,
    /// Streams that came with an owner, newest first: `last`, `captured`, and those of operations that are being issued.
    kept: [Option<(StreamHandle, Owner)>; 4],
}

type Owner = Arc<dyn Any + Send + Sync>;

/// The right to issue one operation; calls from other threads wait for it to end.
pub(super) struct Turn<'a> {
    device: &'a dyn Device,
    state: MutexGuard<'a, State>,
    stream: StreamHandle,
}

impl Order {
    pub(super) fn new(device: &Arc<dyn Device>) -> Result<Self> {
        let event = Event::new(device)?;
        let state =
            State { last: None, captured: None, issued: 0, event, several_streams: false, kept: [const { None }; 4] };
        Ok(Self { device: Arc::clone(device), state: Mutex::new(state) })
    }

    /// Takes the turn, and makes `stream` wait for the operation before this one, if that went elsewhere.
    pub(super) fn turn(&self, stream: StreamHandle) -> Result<Turn<'_>> {
        let mut turn = Turn { device: &*self.device, state: self.state(), stream };
        turn.follow_the_last()?;
        Ok(turn)
    }

    /// Keeps the owner of the next operation's stream until other streams have taken its place.
    pub(super) fn keep(&self, stream: StreamHandle, owner: Owner) {
        let State { last, captured, kept, .. } = &mut *self.state();
        if kept.iter().flatten().any(|(kept, _)| *kept == stream) {
            return;
        }
        let in_use = |stream: StreamHandle| [*last, *captured].contains(&Some(stream));
        // INVARIANT: two of the four at least are free.
        if let Some(oldest) = kept.iter().rposition(|kept| !kept.as_ref().is_some_and(|(stream, _)| in_use(*stream))) {
            kept[..=oldest].rotate_right(1);
            kept[0] = Some((stream, owner));
        }
    }

    /// Waits until `stream` has passed everything queued, and then has no more to do with it, unless another thread goes on.
    pub(super) fn synchronize(&self, stream: StreamHandle) -> Result<()> {
        let issued = self.state().issued;
        self.device.synchronize_stream(stream)?;
        let mut state = self.state();
        if state.issued == issued {
            state.last = state.last.filter(|&last| last != stream);
            state.captured = state.captured.filter(|&captured| captured != stream);
        }
        Ok(())
    }

    /// Whether the last operation has ended, and replays of the last graph, as far as their streams can tell.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        let mut streams = [state.last, state.captured].into_iter().flatten();
        // A stream of a dead context, or one that is gone: nothing runs there any more.
        streams.all(|stream| self.device.stream_is_idle(stream).unwrap_or(true))
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
        if self.device.is_capturing(stream)? {
            return Ok(());
        }
        if !state.several_streams {
            // WHY: too late to record behind it; an event there would be of the capture.
            if self.device.is_capturing(last)? {
                return Ok(());
            }
            state.event.record(last)?;
            state.several_streams = true;
        }
        state.event.hold(stream)
    }

    /// The operation is queued, or captured.
    pub(super) fn end(mut self) -> Result<()> {
        self.state.issued += 1;
        // Where the last operation went to this stream as well, a capture changes nothing that has to be known.
        let moves = self.state.several_streams || self.state.last != Some(self.stream);
        if moves && self.device.is_capturing(self.stream)? {
            self.state.captured = Some(self.stream);
            return Ok(());
        }
        self.state.last = Some(self.stream);
        if self.state.several_streams {
            self.state.event.record(self.stream)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::handles::{Buffer, Stream};

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

    /// A long operation on one stream, a capture on another, and then an operation there.
    #[test]
    fn a_capture_does_not_hide_the_operation_before_it() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (order, large) = (Order::new(&device).unwrap(), 64 << 20);
        let (data, seen) = (Buffer::new(&device, large).unwrap(), Buffer::new(&device, 1).unwrap());
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        data.fill(0, &first).unwrap();
        first.synchronize().unwrap();
        let issue = |stream: &Stream, work: &dyn Fn()| {
            let turn = order.turn(stream.handle()).unwrap();
            work();
            turn.end().unwrap();
        };
        for round in 1..=8 {
            issue(&first, &|| data.fill(round, &first).unwrap());
            let graph = second.capture(|| {
                issue(&second, &|| {});
                Ok(())
            });
            let last = data.address().offset(large - 1);
            // SAFETY: both buffers outlive the synchronisation below.
            let copy = || unsafe { device.copy(seen.address(), last, 1, second.handle()).unwrap() };
            issue(&second, &copy);
            second.synchronize().unwrap();
            let mut byte = [0];
            seen.download(&mut byte, &second).unwrap();
            assert_eq!(byte, [round], "the second operation overtook the first");
            drop(graph.unwrap());
        }
        first.synchronize().unwrap();
    }

    #[test]
    fn a_stream_with_an_owner_lives_as_long_as_it_matters() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device).unwrap();
        let owners = [(); 6].map(|()| Arc::new(Stream::new(&device).unwrap()));
        let issue = |owner: &Arc<Stream>| {
            order.keep(owner.handle(), Arc::clone(owner) as Owner);
            order.turn(owner.handle()).unwrap().end().unwrap();
        };
        issue(&owners[0]);
        for owner in &owners[1..4] {
            let graph = owner.capture(|| {
                issue(owner);
                Ok(())
            });
            drop(graph.unwrap());
        }
        // Refused before its turn, again and again.
        for owner in owners[4..].iter().cycle().take(9) {
            order.keep(owner.handle(), Arc::clone(owner) as Owner);
        }
        let kept = owners.map(|owner| Arc::strong_count(&owner) > 1);
        assert_eq!(kept, [true, false, false, true, true, true], "the last, the last captured, and the newest");
    }
}

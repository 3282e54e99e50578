//! One communicator is one sequence of operations, whatever streams they are put on.

use std::any::Any;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::device::handles::Event;
use crate::device::{Device, StreamHandle};
use crate::error::{Error, Result};

/// Which stream the last operation went to, and how the next one waits for it.
pub(super) struct Order {
    device: Arc<dyn Device>,
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
}

struct Last {
    stream: StreamHandle,
    /// INVARIANT: lives until another stream was made to wait for this one, or this one was waited for.
    owner: Option<Owner>,
}

/// What keeps a stream alive.
pub(super) type Owner = Arc<dyn Any + Send + Sync>;

/// The right to issue one operation, or a batch; calls from other threads wait for it to end.
struct Turn<'a> {
    device: &'a dyn Device,
    state: MutexGuard<'a, State>,
    stream: StreamHandle,
}

impl Order {
    /// With `several_streams` every operation has a mark of its own from the first one on, and no stream is touched after its call.
    pub(super) fn new(device: &Arc<dyn Device>, several_streams: bool) -> Result<Self> {
        let event = Event::new(device)?;
        let state = State { last: None, issued: 0, event, several_streams };
        Ok(Self { device: Arc::clone(device), state: Mutex::new(state) })
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
        let mut turn = Turn { device: &*self.device, state: self.state(), stream };
        turn.follow_the_last()?;
        let launched = work();
        // WHY: after a failure as well: some of its launches may be queued.
        let ended = turn.end(owner);
        launched.and(ended)
    }

    /// Makes later work of `stream` wait for the last operation.
    pub(super) fn follow(&self, stream: StreamHandle) -> Result<()> {
        Turn { device: &*self.device, state: self.state(), stream }.follow_the_last()
    }

    /// Waits until `stream` has passed everything queued, and then has no more to do with it, unless another thread goes on.
    pub(super) fn synchronize(&self, stream: StreamHandle) -> Result<()> {
        let issued = self.state().issued;
        self.device.synchronize_stream(stream)?;
        let mut state = self.state();
        if state.issued == issued {
            state.last.take_if(|last| last.stream == stream);
        }
        Ok(())
    }

    /// Whether the last operation has ended, as far as its stream can tell. Replays of graphs are not known here.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        // A dead context, or a stream that is gone: nothing runs there any more.
        state.last.as_ref().is_none_or(|last| match state.several_streams {
            true => state.event.is_reached().unwrap_or(true),
            false => self.device.stream_is_idle(last.stream).unwrap_or(true),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Turn<'_> {
    fn follow_the_last(&mut self) -> Result<()> {
        let (state, stream) = (&mut *self.state, self.stream);
        let last = state.last.as_ref().map(|last| last.stream);
        // One handle, and on another thread another stream: behind a mark that is there, waiting for it is right on all of them.
        let is_any = state.several_streams && stream == StreamHandle::PER_THREAD;
        let is_another = |&last: &StreamHandle| last != stream || is_any;
        let Some(last) = last.filter(is_another) else { return Ok(()) };
        // Captured work cannot wait for work outside the capture: there the user orders the replays.
        if self.device.is_capturing(stream)? {
            return Ok(());
        }
        if !state.several_streams {
            // Too late to record behind the last operation: an event there would be of the capture.
            if self.device.is_capturing(last)? {
                return Err(Error::invalid(
                    "the stream of the operation before this one is being captured, and another stream cannot wait for it: \
                     end the capture first, use the same stream, or synchronize the communicator before the capture",
                ));
            }
            state.event.record(last)?;
            state.several_streams = true;
        }
        state.event.hold(stream)
    }

    /// The operation is queued, in part at least, or captured.
    fn end(mut self, owner: Option<Owner>) -> Result<()> {
        let (state, stream) = (&mut *self.state, self.stream);
        let same = state.last.as_mut().filter(|last| last.stream == stream);
        // Where the last operation went to this stream as well, a capture changes nothing that has to be known.
        if (state.several_streams || same.is_none()) && self.device.is_capturing(stream)? {
            return Ok(());
        }
        state.issued += 1;
        match same {
            Some(last) => last.owner = last.owner.take().or(owner),
            None => state.last = Some(Last { stream, owner }),
        }
        if state.several_streams {
            state.event.record(stream)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::handles::{Buffer, Stream};

    fn last(order: &Order) -> Option<StreamHandle> {
        order.state().last.as_ref().map(|last| last.stream)
    }

    #[test]
    fn a_stream_that_was_waited_for_may_go() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, false).unwrap();
        let streams = [(); 3].map(|()| Stream::new(&device).unwrap());
        for stream in &streams {
            order.issue(stream.handle(), None, || Ok(())).unwrap();
        }
        order.synchronize(streams[0].handle()).unwrap();
        assert_eq!(last(&order), Some(streams[2].handle()), "another stream had the last operation");
        order.synchronize(streams[2].handle()).unwrap();
        assert_eq!(last(&order), None);
        drop(streams);
        assert!(order.is_idle());
        let next = Stream::new(&device).unwrap();
        order.issue(next.handle(), None, || Ok(())).unwrap();
    }

    /// A long operation on one stream, a capture on another, and then an operation there.
    #[test]
    fn a_capture_does_not_hide_the_operation_before_it() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (order, large) = (Order::new(&device, false).unwrap(), 64 << 20);
        let (data, seen) = (Buffer::new(&device, large).unwrap(), Buffer::new(&device, 1).unwrap());
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        data.fill(0, &first).unwrap();
        first.synchronize().unwrap();
        let issue = |stream: &Stream, work: &dyn Fn() -> Result<()>| order.issue(stream.handle(), None, work).unwrap();
        for round in 1..=8 {
            issue(&first, &|| data.fill(round, &first));
            let graph = second.capture(|| {
                issue(&second, &|| Ok(()));
                Ok(())
            });
            let last = data.address().offset(large - 1);
            // SAFETY: both buffers outlive the synchronisation below.
            let copy = || unsafe { device.copy(seen.address(), last, 1, second.handle()) };
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
    fn a_captured_operation_leaves_the_order_as_it_was() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, false).unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        let issue = |stream: &Stream| order.issue(stream.handle(), None, || Ok(()));
        let capture = |stream: &Stream| drop(stream.capture(|| issue(stream)).unwrap());
        capture(&second);
        assert_eq!(last(&order), None);
        issue(&first).unwrap();
        let issued = order.state().issued;
        capture(&second);
        assert_eq!((last(&order), order.state().issued), (Some(first.handle()), issued));
        issue(&second).unwrap();
        capture(&first);
        assert_eq!(last(&order), Some(second.handle()));
        // The caller's part is done: the second stream was made to wait for the first.
        drop(first);
        issue(&second).unwrap();
        second.synchronize().unwrap();
        assert!(order.is_idle());
    }

    #[test]
    fn with_marks_from_the_start_a_stream_may_go_after_its_call() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, true).unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        order.issue(first.handle(), None, || Ok(())).unwrap();
        drop(first);
        order.follow(second.handle()).unwrap();
        order.issue(second.handle(), None, || Ok(())).unwrap();
        second.synchronize().unwrap();
        drop(second);
        assert!(order.is_idle());
    }

    #[test]
    fn work_that_fails_may_have_queued_something() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, false).unwrap();
        let streams = [(); 2].map(|()| Stream::new(&device).unwrap());
        for stream in &streams {
            let error = order.issue(stream.handle(), None, || Err(Error::invalid("the second of two launches")));
            assert!(error.unwrap_err().to_string().contains("the second of two launches"));
            assert_eq!(last(&order), Some(stream.handle()));
        }
    }

    #[test]
    fn no_operation_overtakes_one_whose_stream_is_being_captured() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, false).unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        let issue = |stream: &Stream| order.issue(stream.handle(), None, || Ok(()));
        issue(&first).unwrap();
        let capture = first.capture(|| {
            issue(&first)?;
            let begun = || panic!("begun all the same");
            let error = order.issue(second.handle(), None, begun).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument { .. }), "{error}");
            assert!(error.to_string().contains("end the capture first"), "{error}");
            Ok(())
        });
        drop(capture.unwrap());
        issue(&second).unwrap();
        // From here on an event stands behind every operation, and a capture hinders nobody.
        drop(second.capture(|| issue(&first)).unwrap());
    }

    #[test]
    fn a_stream_with_an_owner_lives_as_long_as_it_has_the_last_operation() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let order = Order::new(&device, false).unwrap();
        let owners = [(); 3].map(|()| Arc::new(Stream::new(&device).unwrap()));
        let issue = |owner: &Arc<Stream>| order.issue(owner.handle(), Some(Arc::clone(owner) as Owner), || Ok(()));
        let kept = || owners.each_ref().map(|owner| Arc::strong_count(owner) > 1);
        // An owner that comes late is kept as well, and one that is there stays.
        order.issue(owners[0].handle(), None, || Ok(())).unwrap();
        for owner in [Some(Arc::clone(&owners[0]) as Owner), None] {
            order.issue(owners[0].handle(), owner, || Ok(())).unwrap();
            assert_eq!(kept(), [true, false, false]);
        }
        drop(owners[1].capture(|| issue(&owners[1])).unwrap());
        assert_eq!(kept(), [true, false, false], "a graph needs no stream");
        let refused = owners[0].capture(|| issue(&owners[2]));
        assert!(refused.is_err());
        assert_eq!(kept(), [true, false, false], "nothing waits for the first stream yet");
        issue(&owners[2]).unwrap();
        assert_eq!(kept(), [false, false, true]);
        order.synchronize(owners[2].handle()).unwrap();
        assert_eq!(kept(), [false; 3]);
    }
}

//! One order over both engines: operations of a communicator run one after the other, whoever runs them and on whatever streams.
//!
//! Each engine keeps its own operations in order. Where one of NCCL's follows one of Myelon's on another stream, or the other way
//! round, an event goes between. Without it two kernels that wait for peers could hold each other up: each rank's GPU full of the
//! one that the other rank has not got room for.
//!
//! The operations of a capture are such a sequence of their own: nothing can be put between what is captured and what is not.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use myelon_ccl::device::captures::Captures;
use myelon_ccl::device::handles::Event;
use myelon_ccl::device::{Device, StreamHandle};
use myelon_ccl::{Communicator, Result};

/// Who ran the last operation, and where streams meet.
pub(crate) struct Sequence {
    device: Arc<dyn Device>,
    /// Behind NCCL's last operation.
    event: Event,
    meeting: Event,
    state: Mutex<State>,
}

/// Outside captures, but for the last.
struct State {
    /// The stream of NCCL's last operation, until one of Myelon's is behind that. By number: a handle may be another stream's by then.
    nccl: Option<u64>,
    /// Whether an operation of NCCL's is to wait for one of Myelon's.
    is_myelon_last: bool,
    /// Where captures stand by NCCL's operations in them.
    captures: Captures,
}

impl Sequence {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self {
            device: Arc::clone(device),
            event: Event::new(device)?,
            meeting: Event::new(device)?,
            state: Mutex::new(State { nccl: None, is_myelon_last: false, captures: Captures::new(device)? }),
        })
    }

    pub(crate) fn before_myelon(&self, stream: StreamHandle) -> Result<()> {
        let state = self.state();
        if state.nccl.is_none() && state.captures.is_empty() {
            return Ok(());
        }
        match (self.device.capture_of(stream)?, state.nccl) {
            (Some(capture), _) => state.captures.hold(capture, stream),
            (None, Some(last)) if last != self.device.stream_number(stream)? => self.event.hold(stream),
            _ => Ok(()),
        }
    }

    /// `has_queued`: that an operation is on the stream now, and none is after a call without elements.
    pub(crate) fn after_myelon(&self, stream: StreamHandle, has_queued: bool) -> Result<()> {
        let mut state = self.state();
        let is_known = state.is_myelon_last && (state.nccl.is_none() || !has_queued);
        if !is_known && !self.device.is_capturing(stream)? {
            state.is_myelon_last = true;
            state.nccl.take_if(|_| has_queued);
        }
        Ok(())
    }

    pub(crate) fn before_nccl(&self, communicator: &Communicator, stream: StreamHandle) -> Result<()> {
        if !self.state().is_myelon_last && !self.device.is_capturing(stream)? {
            return Ok(());
        }
        // SAFETY: the stream is the caller's of this call, and the communicator was made for streams that may go.
        unsafe { communicator.follow(stream) }
    }

    /// WHY: always an event, for the stream may be gone when the next operation comes on another one.
    pub(crate) fn after_nccl(&self, stream: StreamHandle) -> Result<()> {
        let mut state = self.state();
        if let Some(capture) = self.device.capture_of(stream)? {
            return state.captures.record(capture, stream);
        }
        self.event.record(stream)?;
        state.nccl = Some(self.device.stream_number(stream)?);
        state.is_myelon_last = false;
        Ok(())
    }

    /// Makes streams wait for each other: what comes on one of them from now on runs behind what is on all of them by now.
    pub(crate) fn meet(&self, streams: &[StreamHandle]) -> Result<()> {
        let Some((&first, others @ [_, ..])) = streams.split_first() else { return Ok(()) };
        // One meeting at a time records the event.
        let _state = self.state();
        for &other in others {
            self.meeting.record(other)?;
            self.meeting.hold(first)?;
        }
        self.meeting.record(first)?;
        others.iter().try_for_each(|&other| self.meeting.hold(other))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use myelon_ccl::device::cpu::CpuDevice;
    use myelon_ccl::device::handles::{Buffer, Stream};

    /// A slow fill, and a copy of its last byte, which tells whether it came behind.
    struct Fill {
        device: Arc<dyn Device>,
        data: Buffer,
        seen: Buffer,
    }

    impl Fill {
        const BYTES: u64 = 32 << 20;

        fn new(device: &Arc<dyn Device>) -> Self {
            let [data, seen] = [Self::BYTES, 1].map(|bytes| Buffer::new(device, bytes).unwrap());
            let stream = Stream::new(device).unwrap();
            data.fill(0, &stream).unwrap();
            stream.synchronize().unwrap();
            Self { device: Arc::clone(device), data, seen }
        }

        fn begin(&self, value: u8, stream: &Stream) -> Result<()> {
            self.data.fill(value, stream)
        }

        fn copy_last(&self, stream: &Stream) -> Result<()> {
            let last = self.data.address().offset(Self::BYTES - 1);
            // SAFETY: both buffers outlive the synchronisation in `seen`.
            unsafe { self.device.copy(self.seen.address(), last, 1, stream.handle()) }
        }

        fn seen(&self, stream: &Stream) -> u8 {
            let mut byte = [0];
            self.seen.download(&mut byte, stream).unwrap();
            byte[0]
        }
    }

    /// NCCL's work is slow on one stream; Myelon's on another sees its end. A call without elements between the two queues nothing, so
    /// the next one is still the first behind NCCL's.
    #[test]
    fn an_operation_of_the_other_engine_waits() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (sequence, fill) = (Sequence::new(&device).unwrap(), Fill::new(&device));
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        for (round, has_an_empty_call) in (1..=8).zip([false, true].into_iter().cycle()) {
            fill.begin(round, &first).unwrap();
            sequence.after_nccl(first.handle()).unwrap();
            if has_an_empty_call {
                sequence.before_myelon(first.handle()).unwrap();
                sequence.after_myelon(first.handle(), false).unwrap();
            }
            sequence.before_myelon(second.handle()).unwrap();
            fill.copy_last(&second).unwrap();
            sequence.after_myelon(second.handle(), true).unwrap();
            assert_eq!(fill.seen(&second), round);
        }
    }

    #[test]
    fn what_is_captured_changes_no_order() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let sequence = Sequence::new(&device).unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        sequence.after_nccl(first.handle()).unwrap();
        let graph = second.capture(|| {
            sequence.before_myelon(second.handle())?;
            sequence.after_myelon(second.handle(), true)?;
            sequence.after_nccl(second.handle())
        });
        drop(graph.unwrap());
        let last = || {
            let state = sequence.state();
            (state.nccl, state.is_myelon_last)
        };
        assert_eq!(last(), (Some(device.stream_number(first.handle()).unwrap()), false));
        sequence.after_myelon(second.handle(), true).unwrap();
        assert_eq!(last(), (None, true));
    }

    /// What is between a slow operation of NCCL's and one of Myelon's on two branches of a capture holds the latter up.
    #[test]
    fn operations_of_one_capture_follow_each_other_on_its_branches() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (sequence, fill) = (Sequence::new(&device).unwrap(), Fill::new(&device));
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        let (forked, joined) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
        let graph = first.capture(|| {
            forked.record(first.handle())?;
            forked.hold(second.handle())?;
            fill.begin(9, &first)?;
            sequence.after_nccl(first.handle())?;
            sequence.before_myelon(second.handle())?;
            fill.copy_last(&second)?;
            joined.record(second.handle())?;
            joined.hold(first.handle())
        });
        graph.unwrap().launch(&first).unwrap();
        first.synchronize().unwrap();
        assert_eq!(fill.seen(&first), 9);
    }

    #[test]
    fn streams_that_meet_wait_for_each_other() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (sequence, fill) = (Sequence::new(&device).unwrap(), Fill::new(&device));
        let streams = [(); 3].map(|()| Stream::new(&device).unwrap());
        let mut value = 0;
        for slow in 0..3 {
            for quick in (0..3).filter(|&quick| quick != slow) {
                value += 1;
                fill.begin(value, &streams[slow]).unwrap();
                sequence.meet(&streams.each_ref().map(Stream::handle)).unwrap();
                fill.copy_last(&streams[quick]).unwrap();
                assert_eq!(fill.seen(&streams[quick]), value, "stream {quick} does not wait for {slow}");
            }
        }
    }
}

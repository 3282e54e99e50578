//! One order over both engines: operations of a communicator run one after the other, whoever runs them and on whatever streams.
//!
//! Each engine keeps its own operations in order. Where one of NCCL's follows one of Myelon's on another stream, or the other way
//! round, an event goes between. Without it two kernels that wait for peers could hold each other up: each rank's GPU full of the
//! one that the other rank has not got room for.
//!
//! Inside a capture nothing is put between: what is captured on one stream is in order, and branches of one graph that use both
//! engines of one communicator are for the program to join.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use myelon_ccl::device::handles::Event;
use myelon_ccl::device::{Device, StreamHandle};
use myelon_ccl::{Communicator, Result};

/// Who ran the last operation outside captures.
pub(crate) struct Sequence {
    device: Arc<dyn Device>,
    /// Behind NCCL's last operation.
    event: Event,
    last: Mutex<Last>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Nothing,
    Myelon,
    Nccl(StreamHandle),
}

impl Sequence {
    pub(crate) fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self { device: Arc::clone(device), event: Event::new(device)?, last: Mutex::new(Last::Nothing) })
    }

    pub(crate) fn before_myelon(&self, stream: StreamHandle) -> Result<()> {
        let Last::Nccl(last) = *self.last() else { return Ok(()) };
        if (last == stream && stream != StreamHandle::PER_THREAD) || self.device.is_capturing(stream)? {
            return Ok(());
        }
        self.event.hold(stream)
    }

    pub(crate) fn after_myelon(&self, stream: StreamHandle) -> Result<()> {
        self.note(stream, Last::Myelon)
    }

    pub(crate) fn before_nccl(&self, communicator: &Communicator, stream: StreamHandle) -> Result<()> {
        if *self.last() != Last::Myelon {
            return Ok(());
        }
        // SAFETY: the stream is the caller's of this call, and the communicator was made for streams that may go.
        unsafe { communicator.follow(stream) }
    }

    /// WHY: always an event, for the stream may be gone when the next operation comes on another one.
    pub(crate) fn after_nccl(&self, stream: StreamHandle) -> Result<()> {
        if self.device.is_capturing(stream)? {
            return Ok(());
        }
        let mut last = self.last();
        self.event.record(stream)?;
        *last = Last::Nccl(stream);
        Ok(())
    }

    fn note(&self, stream: StreamHandle, now: Last) -> Result<()> {
        if *self.last() != now && !self.device.is_capturing(stream)? {
            *self.last() = now;
        }
        Ok(())
    }

    fn last(&self) -> MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use myelon_ccl::device::cpu::CpuDevice;
    use myelon_ccl::device::handles::{Buffer, Stream};

    /// NCCL's work is slow on one stream; Myelon's on another sees its end.
    #[test]
    fn an_operation_of_the_other_engine_waits() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let sequence = Sequence::new(&device).unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        let bytes = 32 << 20;
        let data = Buffer::new(&device, bytes).unwrap();
        let seen = Buffer::new(&device, 1).unwrap();
        data.fill(0, &first).unwrap();
        first.synchronize().unwrap();
        for round in 1..=8 {
            data.fill(round, &first).unwrap();
            sequence.after_nccl(first.handle()).unwrap();
            sequence.before_myelon(second.handle()).unwrap();
            let last = data.address().offset(bytes - 1);
            // SAFETY: both buffers outlive the synchronisation in `download`.
            unsafe { device.copy(seen.address(), last, 1, second.handle()).unwrap() };
            let mut byte = [0];
            seen.download(&mut byte, &second).unwrap();
            assert_eq!(byte, [round]);
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
            sequence.after_myelon(second.handle())?;
            sequence.after_nccl(second.handle())
        });
        drop(graph.unwrap());
        assert_eq!(*sequence.last(), Last::Nccl(first.handle()));
        sequence.after_myelon(second.handle()).unwrap();
        assert_eq!(*sequence.last(), Last::Myelon);
    }
}

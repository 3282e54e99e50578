//! Where captures stand: one mark for each that is open, behind the operation that went into it last.

use std::sync::Arc;

use super::handles::Event;
use super::{Device, StreamHandle};
use crate::error::Result;

/// Captures that may be open at once: of one more, what is on different branches is not put in order.
const OPEN: usize = 16;

/// Marks of captures, those of the captures with the latest operations last. When a capture ends nobody is told, and its streams
/// cannot be asked, for they may be gone: so the mark of the one without an operation for the longest time is used again.
pub struct Captures {
    marks: [Mark; OPEN],
}

struct Mark {
    /// The capture, and the number of the stream of its last operation.
    last: Option<(u64, u64)>,
    event: Event,
}

impl Captures {
    /// Makes all events, so that no capture has to.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        let marks: Vec<_> =
            (0..OPEN).map(|_| Ok(Mark { last: None, event: Event::new(device)? })).collect::<Result<_>>()?;
        Ok(Self { marks: marks.try_into().unwrap_or_else(|_| unreachable!("as many were made")) })
    }

    /// Whether no operation went into any capture so far.
    pub fn is_empty(&self) -> bool {
        self.marks.iter().all(|mark| mark.last.is_none())
    }

    /// Makes later work of `stream`, which takes part in `capture`, wait for the capture's last operation.
    pub fn hold(&self, capture: u64, stream: StreamHandle) -> Result<()> {
        // One handle, and on another thread another stream.
        let is_any = stream == StreamHandle::PER_THREAD;
        let is_before =
            |mark: &&Mark| mark.last.is_some_and(|(of, on)| of == capture && (is_any || on != stream.raw()));
        self.marks.iter().find(is_before).map_or(Ok(()), |mark| mark.event.hold(stream))
    }

    /// An operation went into `capture` on `stream`.
    pub fn record(&mut self, capture: u64, stream: StreamHandle) -> Result<()> {
        let is_its = |mark: &Mark| mark.last.is_some_and(|(of, _)| of == capture);
        let at = self.marks.iter().position(is_its).unwrap_or(0);
        self.marks[at].event.record(stream)?;
        self.marks[at].last = Some((capture, stream.raw()));
        self.marks[at..].rotate_left(1);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;
    use crate::device::handles::{Buffer, Stream};

    /// A slow fill on one branch of a capture and a copy of its last byte on another, with as many captures begun and ended between
    /// the two as leave its mark.
    #[test]
    fn captures_that_are_open_at_once_do_not_mix() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let (mut captures, large) = (Captures::new(&device).unwrap(), 64 << 20);
        let (data, seen) = (Buffer::new(&device, large).unwrap(), Buffer::new(&device, 1).unwrap());
        let [first, second, other] = [(); 3].map(|()| Stream::new(&device).unwrap());
        let (forked, joined) = (Event::new(&device).unwrap(), Event::new(&device).unwrap());
        let capture_of = |stream: &Stream| Ok(device.capture_of(stream.handle())?.expect("it is being captured"));
        data.fill(0, &first).unwrap();
        first.synchronize().unwrap();
        let graph = first.capture(|| {
            forked.record(first.handle())?;
            forked.hold(second.handle())?;
            data.fill(9, &first)?;
            captures.record(capture_of(&first)?, first.handle())?;
            for _ in 1..OPEN {
                drop(other.capture(|| captures.record(capture_of(&other)?, other.handle()))?);
            }
            captures.hold(capture_of(&second)?, second.handle())?;
            // SAFETY: both buffers outlive the replay, which is waited for.
            unsafe { device.copy(seen.address(), data.address().offset(large - 1), 1, second.handle())? };
            joined.record(second.handle())?;
            joined.hold(first.handle())
        });
        graph.unwrap().launch(&first).unwrap();
        first.synchronize().unwrap();
        let mut byte = [0];
        seen.download(&mut byte, &first).unwrap();
        assert_eq!(byte, [9], "the copy overtook the fill");
    }

    #[test]
    fn marks_of_the_oldest_captures_are_used_again() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let mut captures = Captures::new(&device).unwrap();
        let stream = Stream::new(&device).unwrap();
        assert!(captures.is_empty());
        for capture in 0..3 * OPEN as u64 {
            captures.record(capture, stream.handle()).unwrap();
        }
        let latest: Vec<_> = captures.marks.iter().map(|mark| mark.last.unwrap().0).collect();
        assert_eq!(latest, (2 * OPEN as u64..3 * OPEN as u64).collect::<Vec<_>>());
        captures.record(2 * OPEN as u64, stream.handle()).unwrap();
        assert_eq!(captures.marks[OPEN - 1].last.unwrap().0, 2 * OPEN as u64);
    }
}

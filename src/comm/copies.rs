//! Operations whose bytes travel by copy engines: a kernel on the caller's stream, and copies beside it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::abi::{Args, CopyState};
use crate::device::handles::{Event, Stream};
use crate::device::{Device, DevicePtr, StreamHandle};
use crate::error::Result;
use crate::types::{Rank, WorldSize};
use crate::variant::{Copy, Plan, Source};

/// Streams that copies take turns on: one starts while another ends.
const STREAMS: usize = 2;

/// Where copies run.
pub(super) struct CopyStreams {
    device: Arc<dyn Device>,
    sets: Mutex<Sets>,
}

#[derive(Default)]
struct Sets {
    /// For work that runs at once; absent until somebody prepares an operation with copies, for streams share what a GPU has of
    /// hardware queues.
    at_once: Option<Set>,
    /// A capture has one to itself, for its streams are captured until it ends.
    captured: Vec<Set>,
}

/// What one operation needs.
struct Set {
    fork: Event,
    /// Each with the event behind its work.
    streams: Vec<(Stream, Event)>,
}

impl Set {
    fn new(device: &Arc<dyn Device>) -> Result<Self> {
        let stream = |_| Ok((Stream::new(device)?, Event::new(device)?));
        Ok(Self { fork: Event::new(device)?, streams: (0..STREAMS).map(stream).collect::<Result<_>>()? })
    }

    /// Makes the streams wait for what `stream` holds, and the other way round behind `work`. In a capture they join it, and leave
    /// it when it ends.
    fn beside(&self, stream: StreamHandle, work: impl FnOnce() -> Result<()>) -> Result<()> {
        self.fork.record(stream)?;
        for (own, _) in &self.streams {
            self.fork.hold(own.handle())?;
        }
        let worked = work();
        // After a failure as well: some of the work may be queued.
        let joined = self.streams.iter().map(|(own, join)| join.record(own.handle()).and_then(|()| join.hold(stream)));
        let joined = joined.fold(Ok(()), Result::and);
        worked.and(joined)
    }
}

impl CopyStreams {
    pub(super) fn new(device: &Arc<dyn Device>) -> Self {
        Self { device: Arc::clone(device), sets: Mutex::default() }
    }

    /// Makes the streams for work that runs at once, so that no operation has to.
    pub(super) fn prepare(&self) -> Result<()> {
        self.sets().prepare(&self.device).map(drop)
    }

    fn sets(&self) -> MutexGuard<'_, Sets> {
        self.sets.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Issues the copies of `plan` beside the kernel that `launch` queues on `stream` with `args`.
    ///
    /// # Safety
    /// `args` are those of a launch of `plan`; the heaps in them live until no copy runs, and the operands until the stream has
    /// passed the operation.
    pub(super) unsafe fn issue(
        &self,
        plan: &Plan,
        args: &Args,
        stream: StreamHandle,
        launch: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let route = Route::of(args, plan.kernel.world_size);
        let count = plan.copy_count(args.count);
        if count == 0 {
            return launch();
        }
        let device = &*self.device;
        self.with_set(stream, |set| {
            // ORDER: [copy-go] [copy-arrived] reuse: before the kernel, whose first credit lets the previous rank's copies go; all streams
            // have done with the words of the operation before.
            // SAFETY: the heap's words, by the caller's promise.
            unsafe { device.fill(route.own_words, 0, count * size_of::<CopyState>() as u64, stream)? };
            set.beside(stream, || {
                // The kernel first: the copies wait for it, and to issue them takes the host longer.
                launch()?;
                plan.copies(args.count, route.rank).try_for_each(|copy| {
                    let (own, _) = &set.streams[copy.index as usize % STREAMS];
                    // SAFETY: the caller's promise.
                    unsafe { route.issue(device, &copy, own.handle()) }
                })
            })
        })
    }

    /// Calls `work` with streams that nobody else uses now. The caller's turn (`Order`) is all that issues.
    fn with_set(&self, stream: StreamHandle, work: impl FnOnce(&Set) -> Result<()>) -> Result<()> {
        let mut sets = self.sets();
        let Some(capture) = self.device.capture_of(stream)? else {
            return work(sets.prepare(&self.device)?);
        };
        for set in &sets.captured {
            if self.device.capture_of(set.streams[0].0.handle())?.is_none_or(|of| of == capture) {
                return work(set);
            }
        }
        let set = Set::new(&self.device)?;
        sets.captured.push(set);
        work(&sets.captured[sets.captured.len() - 1])
    }
}

impl Sets {
    fn prepare(&mut self, device: &Arc<dyn Device>) -> Result<&Set> {
        match &mut self.at_once {
            Some(set) => Ok(set),
            none => Ok(none.insert(Set::new(device)?)),
        }
    }
}

/// Between which addresses the copies of a launch go.
struct Route {
    rank: Rank,
    input: DevicePtr,
    output: DevicePtr,
    next_slots: DevicePtr,
    next_output: DevicePtr,
    own_words: DevicePtr,
    next_words: DevicePtr,
}

impl Route {
    fn of(args: &Args, world_size: WorldSize) -> Self {
        let heap = |rank: u32| DevicePtr(args.heap[rank as usize]);
        let next = heap((args.rank + 1) % world_size.get());
        Self {
            rank: Rank(args.rank),
            input: DevicePtr(args.input),
            output: DevicePtr(args.output),
            next_slots: next.offset(args.layout.ring),
            next_output: DevicePtr(args.next_output),
            own_words: heap(args.rank).offset(args.layout.copies),
            next_words: next.offset(args.layout.copies),
        }
    }

    /// # Safety
    /// As [`CopyStreams::issue`].
    unsafe fn issue(&self, device: &dyn Device, copy: &Copy, stream: StreamHandle) -> Result<()> {
        let words = |base: DevicePtr| base.offset(copy.index * size_of::<CopyState>() as u64);
        let (go, arrived) =
            (std::mem::offset_of!(CopyState, go) as u64, std::mem::offset_of!(CopyState, arrived) as u64);
        let source = match copy.source {
            Source::Input => self.input,
            Source::Output => self.output,
        };
        let target = match copy.slot {
            Some(slot) => self.next_slots.offset(slot),
            None => self.next_output.offset(copy.offset),
        };
        // SAFETY: the caller's promise; the plan keeps copies within operands, slots and words. The next rank's output is as large as
        // the own one.
        unsafe {
            // ORDER: [copy-go] consume: the bytes are ready, their place is free. The kernel sets the word however it ends.
            device.wait_value(words(self.own_words).offset(go), 1, stream)?;
            if copy.bytes > 0 {
                device.copy(target, source.offset(copy.offset), copy.bytes, stream)?;
            }
            // ORDER: [copy-arrived] publish: behind the copy.
            device.write_value(words(self.next_words).offset(arrived), 1, stream)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::cpu::CpuDevice;

    #[test]
    fn captures_that_are_open_at_the_same_time_share_no_streams() {
        let device: Arc<dyn Device> = CpuDevice::new(0).unwrap();
        let copies = CopyStreams::new(&device);
        copies.prepare().unwrap();
        let [first, second] = [(); 2].map(|()| Stream::new(&device).unwrap());
        // The set that an operation on this stream gets, by its first stream.
        let operate = |stream: &Stream| {
            let mut used = None;
            copies.with_set(stream.handle(), |set| {
                used = Some(set.streams[0].0.handle().raw());
                set.beside(stream.handle(), || Ok(()))
            })?;
            Ok(used.expect("the work was done"))
        };
        let at_once = operate(&first).unwrap();
        assert_eq!(operate(&second).unwrap(), at_once);
        let mut used = Vec::new();
        let outer = first.capture(|| {
            used.push(operate(&first)?);
            let inner = second.capture(|| {
                used.push(operate(&second)?);
                used.push(operate(&first)?);
                Ok(())
            });
            inner?;
            assert_eq!(operate(&second)?, at_once, "the second stream's capture has ended");
            used.push(operate(&first)?);
            Ok(())
        });
        outer.unwrap();
        assert!(used[0] == used[2] && used[0] == used[3] && used[0] != used[1] && !used.contains(&at_once), "{used:?}");
        second.capture(|| operate(&second).map(|again| assert_eq!(again, used[0], "a set is used again"))).unwrap();
        for stream in [first, second] {
            stream.synchronize().unwrap();
        }
    }
}

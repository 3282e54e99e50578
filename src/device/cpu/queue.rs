//! A stream: a queue and the thread that works it off, in order.
//!
//! Kernels spin on what kernels of other streams write, so each stream has a thread of its own.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, unbounded};

use super::capture::Graph;
use super::kernel::{Arguments, Kernel, LaunchSite};
use super::tsan;
use crate::device::LaunchShape;
use crate::error::{Error, Result};

/// One piece of work. The addresses in it are valid until it is done: the promise of whoever queued it.
#[derive(Debug)]
pub(super) enum Item {
    Launch {
        kernel: Arc<Kernel>,
        shape: LaunchShape,
        arguments: Arguments,
    },
    Copy {
        destination: u64,
        source: u64,
        bytes: usize,
    },
    /// Whose source kernels may write meanwhile.
    CopyWords {
        destination: u64,
        source: u64,
        words: u64,
    },
    Fill {
        destination: u64,
        byte: u8,
        bytes: usize,
    },
    Record(Arc<Record>),
    Wait(Arc<Record>),
    /// Holds the stream up until the word at `address` is at least `value`.
    WaitValue {
        address: u64,
        value: u64,
    },
    WriteValue {
        address: u64,
        value: u64,
    },
    Graph(Arc<Graph>),
}

impl Item {
    pub(super) fn run(&self, site: &LaunchSite) {
        match self {
            // SAFETY: `Device::launch` passes its caller's promise on.
            Self::Launch { kernel, shape, arguments } => unsafe { kernel.run(arguments, *shape, site) },
            Self::Copy { destination, source, bytes } => {
                tsan::read(*source, *bytes);
                tsan::write(*destination, *bytes);
                // SAFETY: `Device::copy`: both ranges are valid until this is done. They may overlap.
                unsafe { std::ptr::copy(*source as *const u8, *destination as *mut u8, *bytes) }
            }
            Self::CopyWords { destination, source, words } => {
                for at in (0..*words).map(|word| word * size_of::<u64>() as u64) {
                    // SAFETY: `Device::copy_words`: aligned words, valid until this is done, the source's accessed atomically.
                    let word = unsafe { AtomicU64::from_ptr((source + at) as *mut u64) }.load(Ordering::Relaxed);
                    // SAFETY: as above, and the destination is nobody else's.
                    unsafe { *((destination + at) as *mut u64) = word };
                }
            }
            Self::Fill { destination, byte, bytes } => {
                tsan::write(*destination, *bytes);
                // SAFETY: `Device::fill`: the range is valid until this is done.
                unsafe { std::ptr::write_bytes(*destination as *mut u8, *byte, *bytes) }
            }
            Self::Record(record) => record.reach(),
            Self::Wait(record) => record.wait(),
            Self::WaitValue { address, value } => {
                // SAFETY: `Device::wait_value`: an aligned word, valid until this is done, accessed atomically.
                wait_value(unsafe { AtomicU64::from_ptr(*address as *mut u64) }, *value);
            }
            Self::WriteValue { address, value } => {
                // SAFETY: `Device::write_value`: as above.
                let word = unsafe { AtomicU64::from_ptr(*address as *mut u64) };
                // ORDER: what the stream did before, against whoever acquires the word; ThreadSanitizer knows it by its address.
                tsan::release(word);
                word.store(*value, Ordering::Release);
            }
            Self::Graph(graph) => graph.run(site),
        }
    }
}

/// Polls that let others run, before each lets the processor rest: the word is a kernel's, which needs the processor.
const BUSY_POLLS: u32 = 64;
const REST: Duration = Duration::from_micros(50);

fn wait_value(word: &AtomicU64, value: u64) {
    let mut polls = 0;
    while word.load(Ordering::Acquire) < value {
        if polls < BUSY_POLLS {
            polls += 1;
            std::thread::yield_now();
        } else {
            std::thread::sleep(REST);
        }
    }
    // ORDER: against the kernel that released the word, which ThreadSanitizer sees, and knows by its address.
    tsan::acquire(word);
}

/// The places in streams that an event stands for, mostly one, and when the last of them was reached.
#[derive(Debug)]
pub(super) struct Record {
    state: Mutex<Reach>,
    changed: Condvar,
}

#[derive(Debug)]
struct Reach {
    /// Places that were not reached yet.
    missing: usize,
    last: Instant,
}

impl Record {
    /// Of so many places.
    pub(super) fn of(places: usize) -> Self {
        Self { state: Mutex::new(Reach { missing: places, last: Instant::now() }), changed: Condvar::new() }
    }

    /// When all were reached; `None` before.
    pub(super) fn reached(&self) -> Option<Instant> {
        let reached = {
            let state = locked(&self.state);
            (state.missing == 0).then_some(state.last)
        };
        reached.inspect(|_| tsan::acquire(self))
    }

    pub(super) fn reach(&self) {
        // ORDER: against `wait` and `reached`.
        tsan::release(self);
        {
            let mut state = locked(&self.state);
            *state = Reach { missing: state.missing - 1, last: Instant::now() };
        }
        self.changed.notify_all();
    }

    /// As long as the work before the record takes; kernels have deadlines of their own.
    pub(super) fn wait(&self) {
        let guard = self.changed.wait_while(locked(&self.state), |state| state.missing > 0);
        drop(guard.unwrap_or_else(PoisonError::into_inner));
        tsan::acquire(self);
    }
}

/// How far a stream has come.
#[derive(Debug, Default)]
struct Progress {
    counts: Mutex<Counts>,
    changed: Condvar,
    /// Names of two orderings for ThreadSanitizer: host to worker, and back.
    pushed: u8,
    passed: u8,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    queued: u64,
    done: u64,
    /// The worker is gone.
    ended: bool,
}

impl Counts {
    fn is_idle(self) -> bool {
        self.queued == self.done
    }
}

/// A queue with its worker.
#[derive(Debug)]
pub(super) struct Queue {
    /// `None` only while dropping.
    sender: Option<Sender<Item>>,
    worker: Option<JoinHandle<()>>,
    progress: Arc<Progress>,
    name: String,
}

impl Queue {
    /// Starts a worker with this thread name.
    pub(super) fn start(name: String, site: Arc<LaunchSite>) -> Result<Self> {
        let (sender, receiver) = unbounded();
        let progress = Arc::new(Progress::default());
        let for_worker = Arc::clone(&progress);
        let worker = std::thread::Builder::new().name(name.clone()).spawn(move || work(&receiver, &for_worker, &site));
        let worker = worker.map_err(|error| Error::io(format!("starting the thread {name}"), error))?;
        Ok(Self { sender: Some(sender), worker: Some(worker), progress, name })
    }

    /// Appends work; returns at once.
    pub(super) fn push(&self, item: Item) -> Result<()> {
        // ORDER: counted before it is sent, so `done` never passes `queued`.
        locked(&self.progress.counts).queued += 1;
        // ORDER: what the host did before, against the worker before it runs the item.
        tsan::release(&self.progress.pushed);
        let sent = self.sender.as_ref().is_some_and(|sender| sender.send(item).is_ok());
        if sent { Ok(()) } else { Err(self.worker_is_gone()) }
    }

    /// Whether everything pushed so far is done.
    pub(super) fn is_idle(&self) -> Result<bool> {
        let counts = *locked(&self.progress.counts);
        tsan::acquire(&self.progress.passed);
        if counts.ended && !counts.is_idle() { Err(self.worker_is_gone()) } else { Ok(counts.is_idle()) }
    }

    /// Blocks until everything pushed before the call is done.
    pub(super) fn synchronize(&self) -> Result<()> {
        let counts = locked(&self.progress.counts);
        let target = counts.queued;
        let waiting = |counts: &mut Counts| counts.done < target && !counts.ended;
        let counts = self.progress.changed.wait_while(counts, waiting).unwrap_or_else(PoisonError::into_inner);
        tsan::acquire(&self.progress.passed);
        if counts.done >= target { Ok(()) } else { Err(self.worker_is_gone()) }
    }

    fn worker_is_gone(&self) -> Error {
        let detail = format!("the thread {} has ended with work left: build a new device", self.name);
        Error::Driver { call: "cpu stream", code: 0, detail }
    }
}

impl Drop for Queue {
    /// The worker ends when its queue is empty. It is only waited for if that is now: a kernel may be spinning on a
    /// peer that is gone.
    fn drop(&mut self) {
        let idle = locked(&self.progress.counts).is_idle();
        self.sender = None;
        if let Some(worker) = self.worker.take().filter(|_| idle) {
            // A worker that panicked has told on standard error.
            let _ = worker.join();
        }
    }
}

fn work(receiver: &Receiver<Item>, progress: &Progress, site: &LaunchSite) {
    /// Tells those who wait, whichever way the worker ends.
    struct Ending<'a>(&'a Progress);
    impl Drop for Ending<'_> {
        fn drop(&mut self) {
            locked(&self.0.counts).ended = true;
            self.0.changed.notify_all();
        }
    }
    let _ending = Ending(progress);
    for item in receiver {
        tsan::acquire(&progress.pushed);
        item.run(site);
        // ORDER: dropped before it counts as done, so nothing of the item is alive after `synchronize`.
        drop(item);
        // ORDER: against whoever finds the stream idle.
        tsan::release(&progress.passed);
        locked(&progress.counts).done += 1;
        progress.changed.notify_all();
    }
}

/// Locks; a panic of another holder changes nothing, since no update here is done in two steps.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

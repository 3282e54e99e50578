//! Captures and graphs: work in branches, one for each stream that took part, with marks at which branches wait for each other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, Weak};

use super::kernel::LaunchSite;
use super::queue::{Item, Record, locked};
use super::stream::Stream;
use crate::error::{Error, Result};

/// What a branch does next.
#[derive(Debug)]
enum Step {
    Run(Item),
    /// Reaches a mark.
    Mark(usize),
    /// Waits for a mark of another branch.
    Await(usize),
}

/// Captured work that can be launched any number of times.
#[derive(Debug)]
pub(super) struct Graph {
    branches: Vec<Vec<Step>>,
    marks: usize,
}

impl Graph {
    /// Runs the first branch on this thread and each other one on a thread of its own: a kernel may wait for another branch.
    pub(super) fn run(&self, site: &LaunchSite) {
        let marks: Vec<Record> = (0..self.marks).map(|_| Record::of(1)).collect();
        let marks = marks.as_slice();
        let run = move |branch: &[Step]| {
            for step in branch {
                match step {
                    Step::Run(item) => item.run(site),
                    Step::Mark(mark) => marks[*mark].reach(),
                    Step::Await(mark) => marks[*mark].wait(),
                }
            }
        };
        let Some((first, others)) = self.branches.split_first() else { return };
        std::thread::scope(|scope| {
            for branch in others {
                scope.spawn(move || run(branch));
            }
            run(first);
        });
    }
}

/// A recording of work; `None` once it has ended.
#[derive(Debug)]
pub(super) struct Capture {
    /// No other capture of the process has it.
    pub(super) number: u64,
    recording: Mutex<Option<Recording>>,
}

#[derive(Debug)]
struct Recording {
    /// The first is that of the stream on which the capture began.
    branches: Vec<Branch>,
    marks: usize,
    /// Streams that joined by waiting for a mark.
    joined: Vec<Weak<Stream>>,
}

#[derive(Debug, Default)]
struct Branch {
    steps: Vec<Step>,
    /// Of each branch, how much work is done when this one has come here.
    done: Vec<usize>,
}

impl Branch {
    fn reserve(&mut self, branches: usize) {
        self.done.resize(self.done.len().max(branches), 0);
    }

    fn has_waited_for(&mut self, done: &[usize]) {
        self.reserve(done.len());
        for (own, theirs) in self.done.iter_mut().zip(done) {
            *own = (*own).max(*theirs);
        }
    }
}

/// A place in a branch, for other branches to wait for.
#[derive(Debug)]
pub(super) struct Mark {
    pub(super) capture: Arc<Capture>,
    branch: usize,
    index: usize,
    done: Vec<usize>,
}

/// A stream's part in a capture.
#[derive(Clone, Debug)]
pub(super) struct Part {
    pub(super) capture: Arc<Capture>,
    branch: usize,
}

impl Part {
    /// Begins a capture.
    pub(super) fn begin() -> Self {
        let recording = Recording { branches: vec![Branch::default()], marks: 0, joined: Vec::new() };
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let capture = Capture { number: NEXT.fetch_add(1, Ordering::Relaxed), recording: Mutex::new(Some(recording)) };
        Self { capture: Arc::new(capture), branch: 0 }
    }

    /// A new branch, behind `mark`. `None` where the capture has ended.
    pub(super) fn join(mark: &Mark, stream: Weak<Stream>) -> Option<Self> {
        let mut recording = locked(&mark.capture.recording);
        let Recording { branches, joined, .. } = recording.as_mut()?;
        let mut branch = Branch { steps: vec![Step::Await(mark.index)], done: Vec::new() };
        branch.has_waited_for(&mark.done);
        joined.push(stream);
        branches.push(branch);
        Some(Self { capture: Arc::clone(&mark.capture), branch: branches.len() - 1 })
    }

    pub(super) fn push(&self, item: Item) -> Result<()> {
        self.record(|recording| {
            let branch = &mut recording.branches[self.branch];
            branch.steps.push(Step::Run(item));
            branch.reserve(self.branch + 1);
            branch.done[self.branch] += 1;
        })
    }

    pub(super) fn mark(&self) -> Result<Mark> {
        self.record(|recording| {
            let index = recording.marks;
            recording.marks += 1;
            let branch = &mut recording.branches[self.branch];
            branch.steps.push(Step::Mark(index));
            Mark { capture: Arc::clone(&self.capture), branch: self.branch, index, done: branch.done.clone() }
        })
    }

    /// Makes what follows in this branch wait for a mark of the same capture.
    pub(super) fn wait(&self, mark: &Mark) -> Result<()> {
        if mark.branch == self.branch {
            return Ok(());
        }
        self.record(|recording| {
            let branch = &mut recording.branches[self.branch];
            branch.steps.push(Step::Await(mark.index));
            branch.has_waited_for(&mark.done);
        })
    }

    /// Whether the capture began on the stream that this is the part of.
    pub(super) fn is_first(&self) -> bool {
        self.branch == 0
    }

    /// Ends the capture: its graph, and the streams that had joined.
    ///
    /// Errors: [`Error::InvalidArgument`] where the first branch has not waited for all work of another.
    pub(super) fn end(&self) -> (Result<Graph>, Vec<Weak<Stream>>) {
        let Some(Recording { branches, marks, joined }) = locked(&self.capture.recording).take() else {
            return (Err(ended()), Vec::new());
        };
        let waited_for = |(index, branch): (usize, &Branch)| {
            branches[0].done.get(index).copied().unwrap_or(0) >= branch.done.get(index).copied().unwrap_or(0)
        };
        let graph = if branches.iter().enumerate().all(waited_for) {
            Ok(Graph { branches: branches.into_iter().map(|branch| branch.steps).collect(), marks })
        } else {
            Err(Error::invalid(
                "a stream that joined the capture has work which the stream of the capture does not wait for: record an event \
                 behind that work, and wait for it before the capture ends",
            ))
        };
        (graph, joined)
    }

    fn record<T>(&self, change: impl FnOnce(&mut Recording) -> T) -> Result<T> {
        locked(&self.capture.recording).as_mut().map(change).ok_or_else(ended)
    }
}

fn ended() -> Error {
    Error::invalid("the capture that this stream had joined has ended")
}

//! Streams and events, with the semantics of CUDA's.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::capture::{Graph, Mark, Part};
use super::kernel::LaunchSite;
use super::queue::{Item, Queue, Record, locked};
use crate::error::{Error, Result};

/// A queue that can be captured.
#[derive(Debug)]
pub(super) struct Stream {
    queue: Queue,
    /// The part of a capture that takes this stream's work instead of the queue.
    ///
    /// ORDER: locks are taken event, stream, capture; never the other way round.
    capture: Mutex<Option<Part>>,
    /// Whether it is the default stream, which cannot be captured.
    is_default: bool,
}

impl Stream {
    /// Starts a stream with its worker thread.
    pub(super) fn start(name: String, site: Arc<LaunchSite>, is_default: bool) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { queue: Queue::start(name, site)?, capture: Mutex::default(), is_default }))
    }

    /// Queues work, or records it in a capture.
    pub(super) fn submit(&self, item: Item) -> Result<()> {
        match &*locked(&self.capture) {
            Some(part) => part.push(item),
            None => self.queue.push(item),
        }
    }

    /// Queues all of a graph; not inside a capture.
    pub(super) fn launch(&self, graph: Arc<Graph>) -> Result<()> {
        self.refuse_while_capturing("launching a graph")?;
        self.queue.push(Item::Graph(graph))
    }

    pub(super) fn is_idle(&self) -> Result<bool> {
        self.refuse_while_capturing("asking whether a stream is idle")?;
        self.queue.is_idle()
    }

    pub(super) fn synchronize(&self) -> Result<()> {
        self.refuse_while_capturing("synchronising a stream")?;
        self.queue.synchronize()
    }

    /// Of the capture that takes this stream's work.
    pub(super) fn capture_number(&self) -> Option<u64> {
        locked(&self.capture).as_ref().map(|part| part.capture.number)
    }

    pub(super) fn begin_capture(&self) -> Result<()> {
        if self.is_default {
            return Err(Error::unsupported("the default stream cannot be captured: create a stream"));
        }
        let mut capture = locked(&self.capture);
        if capture.is_some() {
            return Err(Error::invalid("the stream is being captured already"));
        }
        *capture = Some(Part::begin());
        Ok(())
    }

    /// Ends the capture that began on this stream.
    pub(super) fn end_capture(&self) -> Result<Graph> {
        let part = {
            let mut capture = locked(&self.capture);
            if capture.as_ref().is_some_and(|part| !part.is_first()) {
                return Err(Error::invalid("the capture began on another stream: end it there"));
            }
            capture.take().ok_or_else(|| Error::invalid("the stream is not being captured"))?
        };
        let (graph, joined) = part.end();
        for stream in joined.iter().filter_map(Weak::upgrade) {
            locked(&stream.capture).take_if(|theirs| Arc::ptr_eq(&theirs.capture, &part.capture));
        }
        graph
    }

    pub(super) fn refuse_while_capturing(&self, what: &str) -> Result<()> {
        if self.capture_number().is_some() {
            return Err(Error::invalid(format!("{what} is not possible while it is being captured")));
        }
        Ok(())
    }
}

/// What an event was recorded as last.
#[derive(Debug, Default)]
enum Recorded {
    #[default]
    Never,
    Run(Arc<Record>),
    Captured(Mark),
}

/// A place in a stream, with a time.
#[derive(Debug, Default)]
pub(super) struct Event {
    recorded: Mutex<Recorded>,
}

impl Event {
    /// Marks the current end of the stream.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        let mut recorded = locked(&self.recorded);
        *recorded = match &*locked(&stream.capture) {
            Some(part) => Recorded::Captured(part.mark()?),
            None => {
                let record = Arc::new(Record::of(1));
                stream.queue.push(Item::Record(Arc::clone(&record)))?;
                Recorded::Run(record)
            }
        };
        Ok(())
    }

    /// Marks the current end of all these streams together.
    pub(super) fn record_all(&self, streams: &[Arc<Stream>]) -> Result<()> {
        for stream in streams {
            stream.refuse_while_capturing("marking the end of everything")?;
        }
        let record = Arc::new(Record::of(streams.len()));
        *locked(&self.recorded) = Recorded::Run(Arc::clone(&record));
        streams.iter().try_for_each(|stream| stream.queue.push(Item::Record(Arc::clone(&record))))
    }

    /// Makes later work of the stream wait for the last record. A stream that waits for an event of a capture joins
    /// the capture.
    pub(super) fn hold(&self, stream: &Arc<Stream>) -> Result<()> {
        let recorded = locked(&self.recorded);
        let mut theirs = locked(&stream.capture);
        match (&*recorded, &*theirs) {
            (Recorded::Never, _) => Ok(()),
            (Recorded::Run(record), None) => stream.queue.push(Item::Wait(Arc::clone(record))),
            (Recorded::Run(_), Some(_)) => Err(Error::invalid(
                "a captured stream cannot wait for an event that was recorded outside the capture: \
                 record it inside, or wait before the capture begins",
            )),
            (Recorded::Captured(mark), Some(part)) if Arc::ptr_eq(&mark.capture, &part.capture) => part.wait(mark),
            (Recorded::Captured(mark), None) if !stream.is_default => {
                *theirs = Some(Part::join(mark, Arc::downgrade(stream)).ok_or_else(Self::closed)?);
                Ok(())
            }
            (Recorded::Captured(_), _) => Err(Self::closed()),
        }
    }

    /// When the last record was reached: `None` before, and for an event that was never recorded.
    pub(super) fn reached(&self) -> Result<Option<Instant>> {
        match &*locked(&self.recorded) {
            Recorded::Never => Ok(None),
            Recorded::Run(record) => Ok(record.reached()),
            Recorded::Captured(_) => Err(Self::captured()),
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_reached(&self) -> Result<bool> {
        match &*locked(&self.recorded) {
            Recorded::Never => Ok(true),
            Recorded::Run(record) => Ok(record.reached().is_some()),
            Recorded::Captured(_) => Err(Self::captured()),
        }
    }

    fn captured() -> Error {
        Error::invalid("the event was recorded in a capture last: it orders the graph and is never reached itself")
    }

    fn closed() -> Error {
        Error::invalid(
            "the event was recorded in a capture that this stream cannot join: it has ended, \
             the stream is captured elsewhere, or it is the default stream",
        )
    }
}

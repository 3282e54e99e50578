//! Streams, events and captures, with the semantics of CUDA's.

use std::sync::{Arc, Mutex, Weak};
use std::time::Instant;

use super::kernel::LaunchSite;
use super::queue::{Item, Queue, Record, locked};
use crate::error::{Error, Result};

/// A queue that can be captured.
#[derive(Debug)]
pub(super) struct Stream {
    queue: Queue,
    /// The capture that takes this stream's work instead of the queue.
    ///
    /// ORDER: locks are taken event, stream, capture; never the other way round.
    capture: Mutex<Option<Arc<Capture>>>,
    /// Whether it is the default stream, which cannot be captured.
    is_default: bool,
}

/// A recording of work, in the order of the calls. That is an order the graph allows, whichever streams take part.
#[derive(Debug)]
struct Capture {
    /// `None` once the capture has ended.
    items: Mutex<Option<Vec<Item>>>,
    /// Streams that joined by waiting for an event of this capture.
    joined: Mutex<Vec<Weak<Stream>>>,
}

impl Capture {
    fn push(&self, item: Item) -> Result<()> {
        match &mut *locked(&self.items) {
            Some(items) => items.push(item),
            None => return Err(Error::invalid("the capture that this stream had joined has ended")),
        }
        Ok(())
    }

    fn is_open(&self) -> bool {
        locked(&self.items).is_some()
    }
}

impl Stream {
    /// Starts a stream with its worker thread.
    pub(super) fn start(name: String, site: Arc<LaunchSite>, is_default: bool) -> Result<Arc<Self>> {
        Ok(Arc::new(Self { queue: Queue::start(name, site)?, capture: Mutex::default(), is_default }))
    }

    /// Queues work, or records it in a capture.
    pub(super) fn submit(&self, item: Item) -> Result<()> {
        match &*locked(&self.capture) {
            Some(capture) => capture.push(item),
            None => self.queue.push(item),
        }
    }

    /// Queues all of a graph; not inside a capture.
    pub(super) fn launch(&self, graph: Arc<[Item]>) -> Result<()> {
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

    pub(super) fn is_capturing(&self) -> bool {
        locked(&self.capture).is_some()
    }

    pub(super) fn begin_capture(&self) -> Result<()> {
        if self.is_default {
            return Err(Error::unsupported("the default stream cannot be captured: create a stream"));
        }
        let mut capture = locked(&self.capture);
        if capture.is_some() {
            return Err(Error::invalid("the stream is being captured already"));
        }
        *capture = Some(Arc::new(Capture { items: Mutex::new(Some(Vec::new())), joined: Mutex::default() }));
        Ok(())
    }

    /// Ends the capture, on the stream it began on or, unlike CUDA, on one that joined it.
    pub(super) fn end_capture(&self) -> Result<Arc<[Item]>> {
        let capture = locked(&self.capture).take();
        let capture = capture.ok_or_else(|| Error::invalid("the stream is not being captured"))?;
        let items = locked(&capture.items).take();
        // Taken out first: `hold` locks a stream before this list.
        let joined = std::mem::take(&mut *locked(&capture.joined));
        for stream in joined {
            if let Some(stream) = stream.upgrade() {
                locked(&stream.capture).take_if(|theirs| Arc::ptr_eq(theirs, &capture));
            }
        }
        items.map(Arc::from).ok_or_else(|| Error::invalid("the capture has ended already"))
    }

    fn refuse_while_capturing(&self, what: &str) -> Result<()> {
        if self.is_capturing() {
            return Err(Error::invalid(format!("{what} is not possible while it is being captured")));
        }
        Ok(())
    }
}

/// What an event was recorded as last.
#[derive(Debug, Default)]
enum Mark {
    #[default]
    Never,
    Recorded(Arc<Record>),
    Captured(Arc<Capture>),
}

/// A place in a stream, with a time.
#[derive(Debug, Default)]
pub(super) struct Event {
    mark: Mutex<Mark>,
}

impl Event {
    /// Marks the current end of the stream.
    pub(super) fn record(&self, stream: &Stream) -> Result<()> {
        let mut mark = locked(&self.mark);
        *mark = match &*locked(&stream.capture) {
            Some(capture) => Mark::Captured(Arc::clone(capture)),
            None => {
                let record = Arc::new(Record::default());
                stream.queue.push(Item::Record(Arc::clone(&record)))?;
                Mark::Recorded(record)
            }
        };
        Ok(())
    }

    /// Makes later work of the stream wait for the last record. A stream that waits for an event of a capture joins
    /// the capture.
    pub(super) fn hold(&self, stream: &Arc<Stream>) -> Result<()> {
        let mark = locked(&self.mark);
        let mut theirs = locked(&stream.capture);
        match (&*mark, &*theirs) {
            (Mark::Never, _) => Ok(()),
            (Mark::Recorded(record), None) => stream.queue.push(Item::Wait(Arc::clone(record))),
            (Mark::Recorded(_), Some(_)) => Err(Error::invalid(
                "a captured stream cannot wait for an event that was recorded outside the capture: \
                 record it inside, or wait before the capture begins",
            )),
            (Mark::Captured(event), Some(stream)) if Arc::ptr_eq(event, stream) => Ok(()),
            (Mark::Captured(event), None) if event.is_open() && !stream.is_default => {
                locked(&event.joined).push(Arc::downgrade(stream));
                *theirs = Some(Arc::clone(event));
                Ok(())
            }
            (Mark::Captured(_), _) => Err(Error::invalid(
                "the event was recorded in a capture that this stream cannot join: it has ended, \
                 the stream is captured elsewhere, or it is the default stream",
            )),
        }
    }

    /// When the last record was reached: `None` before, and for an event that was never recorded.
    pub(super) fn reached(&self) -> Result<Option<Instant>> {
        match &*locked(&self.mark) {
            Mark::Never => Ok(None),
            Mark::Recorded(record) => Ok(record.reached()),
            Mark::Captured(_) => Err(Self::captured()),
        }
    }

    /// Whether nothing is left to wait for.
    pub(super) fn is_reached(&self) -> Result<bool> {
        match &*locked(&self.mark) {
            Mark::Never => Ok(true),
            Mark::Recorded(record) => Ok(record.reached().is_some()),
            Mark::Captured(_) => Err(Self::captured()),
        }
    }

    fn captured() -> Error {
        Error::invalid("the event was recorded in a capture last: it orders the graph and is never reached itself")
    }
}

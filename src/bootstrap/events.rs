//! Delivery of control-plane events to one listener, in order.

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{ControlEvent, Listener};

/// A queue of events in front of a listener that may come later.
#[derive(Default)]
pub(super) struct Events {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    listener: Option<Listener>,
    queue: VecDeque<ControlEvent>,
    delivering: bool,
}

impl Events {
    /// Hands over what has queued up, then everything to come.
    pub(super) fn listen(&self, listener: Listener) {
        let mut inner = self.lock();
        if inner.listener.is_some() {
            tracing::warn!("a second listener of control events was dropped: the first stays");
            return;
        }
        inner.listener = Some(listener);
        drop(inner);
        self.deliver();
    }

    /// Queues an event and delivers it if a listener is there.
    pub(super) fn emit(&self, event: ControlEvent) {
        self.queue(event);
        self.deliver();
    }

    /// Puts an event in its place; [`Events::deliver`] follows, outside the lock that gave it this place.
    pub(super) fn queue(&self, event: ControlEvent) {
        self.lock().queue.push_back(event);
    }

    /// Hands over what is queued, if a listener is there and no other thread is at it.
    ///
    /// INVARIANT: one thread delivers at a time and holds no lock while the listener runs, so a listener may call
    /// back into any bootstrap, and events keep their order.
    pub(super) fn deliver(&self) {
        let mut inner = self.lock();
        if inner.delivering {
            return;
        }
        let Some(listener) = inner.listener.clone() else { return };
        while let Some(event) = inner.queue.pop_front() {
            inner.delivering = true;
            drop(inner);
            let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| listener(event)));
            if outcome.is_err() {
                tracing::error!("a listener of control events panicked; later events are still delivered");
            }
            inner = self.lock();
            inner.delivering = false;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // WHY: no code that can panic runs under this lock, so a poisoned one holds a whole state.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.lock();
        f.debug_struct("Events").field("listening", &inner.listener.is_some()).field("queued", &inner.queue).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::types::Rank;

    fn lost(rank: u32) -> ControlEvent {
        ControlEvent::PeerLost { rank: Rank(rank), detail: String::new() }
    }

    #[test]
    fn early_events_come_first_and_a_listener_may_emit() {
        let events = Arc::new(Events::default());
        events.emit(lost(1));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let (sink, again) = (Arc::clone(&seen), Arc::clone(&events));
        events.listen(Arc::new(move |event| {
            if event == lost(1) {
                again.emit(lost(2));
            }
            sink.lock().unwrap().push(event);
        }));
        events.emit(lost(3));
        events.listen(Arc::new(|_| panic!("the second listener is never called")));
        events.emit(lost(4));
        assert_eq!(*seen.lock().unwrap(), [lost(1), lost(2), lost(3), lost(4)]);
    }

    #[test]
    fn a_panicking_listener_gets_later_events() {
        let events = Events::default();
        let count = Arc::new(Mutex::new(0));
        let sink = Arc::clone(&count);
        events.listen(Arc::new(move |event| {
            *sink.lock().unwrap() += 1;
            assert_ne!(event, lost(1), "on purpose");
        }));
        events.emit(lost(1));
        events.emit(lost(2));
        assert_eq!(*count.lock().unwrap_or_else(PoisonError::into_inner), 2);
    }
}

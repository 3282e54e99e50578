//! How many communicators of this process use a device.
//!
//! A dependent launch holds residency while the launch before it still spins. With a second communicator on the device that
//! residency could be what a peer's operation waits for, in a circle; so only a communicator that is alone launches so.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

static COUNTS: LazyLock<Mutex<HashMap<String, Arc<AtomicU32>>>> = LazyLock::new(Mutex::default);

/// One communicator's use of a device; ends when dropped.
pub(super) struct Presence(Arc<AtomicU32>);

impl Presence {
    /// Begins the use of the device with this identity.
    pub(super) fn of(identity: &str) -> Self {
        let mut counts = COUNTS.lock().unwrap_or_else(PoisonError::into_inner);
        let count = Arc::clone(counts.entry(identity.to_owned()).or_default());
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }

    /// Whether no other communicator of this process uses the device.
    pub(super) fn is_alone(&self) -> bool {
        self.0.load(Ordering::Relaxed) == 1
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_one_is_noticed_and_forgotten() {
        let first = Presence::of("gpu of this test");
        assert!(first.is_alone());
        let second = Presence::of("gpu of this test");
        assert!(!first.is_alone() && !second.is_alone());
        drop(second);
        assert!(first.is_alone());
        assert!(Presence::of("another gpu").is_alone());
    }
}

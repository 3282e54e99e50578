//! Waiting for a call that may never return.

use std::sync::mpsc;
use std::time::Duration;

use crate::error::{Error, Result};

/// Runs `work` on a thread of its own; `None` where it has not returned after `patience`.
///
/// The thread is then left behind, with all it owns: there is no way to end a foreign call from outside.
pub(super) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<Option<T>> {
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new()
        .name("myelon-nccl".into())
        .spawn(move || {
            // The receiver is gone where the wait ended before.
            let _ = sender.send(work());
        })
        .map_err(|error| Error::io("starting a thread for NCCL", error))?;
    match receiver.recv_timeout(patience) {
        Ok(value) => Ok(Some(value)),
        Err(mpsc::RecvTimeoutError::Timeout) => Ok(None),
        // WHY: the sender goes without a value only where `work` panicked, which is as final as not returning.
        Err(mpsc::RecvTimeoutError::Disconnected) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn what_returns_is_given_back() {
        assert_eq!(within(Duration::from_secs(60), || 7).unwrap(), Some(7));
    }

    #[test]
    fn what_does_not_return_is_left_behind() {
        let (hold, held) = mpsc::channel::<()>();
        let started = Instant::now();
        let outcome = within(Duration::from_millis(50), move || held.recv()).unwrap();
        assert!(outcome.is_none());
        assert!(started.elapsed() < Duration::from_millis(500).max(Duration::from_secs(5)));
        drop(hold);
    }
}

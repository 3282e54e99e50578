//! Ctrl-C, and a launcher that ends its job.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use myelon_ccl::bootstrap::Bootstrap;
use myelon_ccl::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};

use super::exchange;
use super::program::exit;

/// Whether this process was told to come to an end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// Listens from here on; the second time ends the process at once.
    ///
    /// Errors: [`Error::Io`] where signals cannot be listened to.
    pub(crate) fn listen() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        let register = |signal| signal_hook::flag::register(signal, Arc::clone(&flag)).map(drop);
        let end = |signal| {
            signal_hook::flag::register_conditional_shutdown(signal, exit::FAILED.into(), Arc::clone(&flag)).map(drop)
        };
        // WHY: SIGUSR1 is what a process tells the ranks that it started, which a terminal has told already: it never is a second time.
        let listening =
            [SIGINT, SIGTERM].into_iter().try_for_each(|signal| end(signal).and_then(|()| register(signal)));
        listening.and_then(|()| register(SIGUSR1)).map_err(|error| Error::io("listening to signals", error))?;
        Ok(Self(flag))
    }

    /// Whether it came to this process.
    pub(crate) fn came(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether it came to any rank, which ends all. Collective.
    pub(crate) fn came_to_any(&self, bootstrap: &dyn Bootstrap) -> Result<bool> {
        Ok(exchange::sums(bootstrap, "looking for signals", &[self.came().into()])? != [0])
    }

    #[cfg(test)]
    pub(crate) fn now() -> Self {
        Self(Arc::new(AtomicBool::new(true)))
    }
}

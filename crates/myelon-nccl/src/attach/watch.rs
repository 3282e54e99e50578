//! What looks after an exchange: NCCL waits for ranks that do not come for ever, and whoever makes a communicator has no handle yet by
//! which to end that.

use std::ffi::c_int;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::abi::{Comm, SUCCESS};
use crate::log;
use crate::real::call_real;

/// Time between two looks.
const INTERVAL: Duration = Duration::from_millis(50);
/// Wait after which a line says what may be wrong.
const HINT_AFTER: Duration = Duration::from_secs(30);
const HINT: &str = "still waiting for the other ranks to agree on using Myelon: all ranks of a communicator need this library, the same \
                    MYELON_NCCL_DISABLE, all or none a blocking communicator, and communicators made in groups on all ranks alike";

/// Beside one exchange, from before it begins until it has ended.
pub(super) struct Watch(Arc<Shared>);

struct Shared {
    /// Addresses of the communicators.
    comms: Vec<usize>,
    lost: Box<dyn Fn() -> Option<String> + Send + Sync>,
    /// INVARIANT: under its lock the communicators are aborted, and that once; afterwards nobody uses them. No abort comes once the
    /// exchange is over.
    stage: Mutex<Stage>,
    changed: Condvar,
}

enum Stage {
    Begins,
    /// For NCCL, which is told everything.
    Waits(Instant),
    Over,
    Aborted(String),
}

impl Watch {
    /// For an exchange through these communicators. `lost`: why it will not end, if so.
    pub(super) fn start(comms: &[Comm], lost: impl Fn() -> Option<String> + Send + Sync + 'static) -> Self {
        let comms = comms.iter().map(|&comm| comm as usize).collect();
        let (stage, changed) = (Mutex::new(Stage::Begins), Condvar::new());
        let shared = Arc::new(Shared { comms, lost: Box::new(lost), stage, changed });
        let watching = Arc::clone(&shared);
        let started = std::thread::Builder::new().name("myelon-nccl-watch".into()).spawn(move || watching.look());
        if let Err(error) = started {
            log::warn(&format!("no thread to watch over the ranks' exchange: {error}"));
        }
        Self(shared)
    }

    /// Whether the exchange may begin, as far as is known; else it has been ended.
    pub(super) fn may_begin(&self) -> bool {
        let mut stage = self.0.stage();
        self.0.abort_if_lost(&mut stage);
        matches!(*stage, Stage::Begins)
    }

    /// Everything is queued, and NCCL is waited for from now on.
    pub(super) fn waits(&self) {
        *self.0.stage() = Stage::Waits(Instant::now());
    }

    /// Asks NCCL something about a communicator; none once it is aborted.
    pub(super) fn ask(&self, question: impl FnOnce() -> c_int) -> Option<c_int> {
        let stage = self.0.stage();
        (!matches!(*stage, Stage::Aborted(_))).then(question)
    }

    /// The exchange has ended. Why its communicators were aborted, if they were.
    pub(super) fn end(self) -> Option<String> {
        let mut stage = self.0.stage();
        match std::mem::replace(&mut *stage, Stage::Over) {
            Stage::Aborted(why) => Some(why),
            _ => None,
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        *self.0.stage() = Stage::Over;
        self.0.changed.notify_all();
    }
}

impl Shared {
    fn look(&self) {
        let began = Instant::now();
        let mut has_told = false;
        let mut stage = self.stage();
        loop {
            match *stage {
                Stage::Over => return,
                // WHY: not as soon as it waits, for the thread may not have come into NCCL's call yet, which must not begin behind an abort.
                Stage::Waits(since) if since.elapsed() >= INTERVAL => self.abort_if_lost(&mut stage),
                _ => (),
            }
            if !has_told && began.elapsed() >= HINT_AFTER {
                log::warn(HINT);
                has_told = true;
            }
            stage = self.changed.wait_timeout(stage, INTERVAL).unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn abort_if_lost(&self, stage: &mut Stage) {
        let Some(why) = (self.lost)() else { return };
        for &comm in &self.comms {
            let code = call_real!(ncclCommAbort(comm as Comm));
            if code != SUCCESS {
                log::warn(&format!("ncclCommAbort failed with code {code} after a rank was lost"));
            }
        }
        *stage = Stage::Aborted(why);
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Without a communicator there is nothing to abort; what is said is the same.
    fn watch(is_lost: &Arc<AtomicBool>) -> Watch {
        let is_lost = Arc::clone(is_lost);
        Watch::start(&[], move || is_lost.load(Ordering::Relaxed).then(|| "rank 1 is lost".into()))
    }

    #[test]
    fn a_loss_ends_what_waits_and_not_what_has_ended() {
        let is_lost = Arc::new(AtomicBool::new(false));
        let (ended, waiting, preparing) = (watch(&is_lost), watch(&is_lost), watch(&is_lost));
        assert!(ended.may_begin() && waiting.may_begin() && preparing.may_begin());
        ended.waits();
        waiting.waits();
        assert_eq!(ended.end(), None);
        is_lost.store(true, Ordering::Relaxed);
        let began = Instant::now();
        while waiting.ask(|| SUCCESS).is_some() && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(waiting.end().unwrap(), "rank 1 is lost");
        assert_eq!(preparing.ask(|| 5), Some(5), "not while NCCL is not waited for");
        assert_eq!(preparing.end(), None);
        let late = watch(&is_lost);
        assert!(!late.may_begin());
        assert_eq!(late.end().unwrap(), "rank 1 is lost");
    }
}

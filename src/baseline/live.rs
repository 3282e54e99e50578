//! A communicator's life: one call at a time, each wait bounded, closed once.

use std::ffi::c_int;
use std::sync::{Mutex, MutexGuard, TryLockError};
use std::time::{Duration, Instant};

use cudarc::nccl::sys::ncclComm_t;

use super::bounded::within;
use super::library::RankLibrary;
use crate::device::cuda::driver::Context;
use crate::error::{Error, Result};
use crate::types::Rank;

/// Longest wait for NCCL to let go of a communicator.
pub(super) const PARTING_PATIENCE: Duration = Duration::from_secs(30);

/// What a communicator and its symmetric buffers have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) nccl: RankLibrary,
    pub(super) context: Context,
    pub(super) patience: Duration,
    /// NCCL forbids two calls on one communicator at a time; each holds this lock.
    state: Mutex<State>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Live(Handle),
    /// Given back or given up, and why.
    Closed(&'static str),
}

/// A communicator's pointer, to move between threads.
#[derive(Clone, Copy, Debug)]
pub(super) struct Handle(ncclComm_t);

// SAFETY: NCCL lets any thread call on a communicator, one at a time; `Shared::state` sees to the latter.
unsafe impl Send for Handle {}

impl Handle {
    pub(super) fn new(communicator: ncclComm_t) -> Self {
        Self(communicator)
    }

    pub(super) fn get(self) -> ncclComm_t {
        self.0
    }
}

impl Shared {
    pub(super) fn new(nccl: RankLibrary, context: Context, patience: Duration, handle: Handle) -> Self {
        Self { nccl, context, patience, state: Mutex::new(State::Live(handle)) }
    }

    /// One call on the live communicator, under its lock.
    pub(super) fn call(&self, call: &'static str, work: impl FnOnce(&RankLibrary, Handle) -> c_int) -> Result<()> {
        self.call_in(&self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), call, work)
    }

    /// As [`Shared::call`], but that a call of another thread is not waited for: it may wait for peers without end.
    pub(super) fn call_unless_busy(
        &self,
        call: &'static str,
        work: impl FnOnce(&RankLibrary, Handle) -> c_int,
    ) -> Result<()> {
        match self.state.try_lock() {
            Ok(state) => self.call_in(&state, call, work),
            Err(TryLockError::Poisoned(poisoned)) => self.call_in(&poisoned.into_inner(), call, work),
            Err(TryLockError::WouldBlock) => Ok(()),
        }
    }

    fn call_in(
        &self,
        state: &State,
        call: &'static str,
        work: impl FnOnce(&RankLibrary, Handle) -> c_int,
    ) -> Result<()> {
        match *state {
            State::Live(handle) => self.nccl.check(call, work(&self.nccl, handle)),
            State::Closed(why) => Err(self.closed(call, why)),
        }
    }

    /// One bounded piece of work on the live communicator, under its lock; where it does not return the communicator
    /// is given up, since that thread still uses it.
    pub(super) fn long_call<T: Send + 'static>(
        &self,
        call: &'static str,
        work: impl FnOnce(RankLibrary, &Context, Handle) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let mut state = self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let handle = match *state {
            State::Live(handle) => handle,
            State::Closed(why) => return Err(self.closed(call, why)),
        };
        let (nccl, context) = (self.nccl, self.context.clone());
        within(self.patience, move || work(nccl, &context, handle))?.unwrap_or_else(|| {
            *state = State::Closed("a call on it never returned");
            Err(no_return(self.nccl.rank, call, self.patience))
        })
    }

    /// Whether calls are still possible.
    pub(super) fn is_live(&self) -> bool {
        matches!(*self.state.lock().unwrap_or_else(|poisoned| poisoned.into_inner()), State::Live(_))
    }

    /// One bounded piece of work that needs no live communicator.
    pub(super) fn part(
        &self,
        call: &'static str,
        patience: Duration,
        work: impl FnOnce(RankLibrary, &Context) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let (nccl, context) = (self.nccl, self.context.clone());
        within(patience, move || work(nccl, &context))?
            .unwrap_or_else(|| Err(no_return(self.nccl.rank, call, patience)))
    }

    /// Takes the communicator out of use; `None` where it was already.
    pub(super) fn close(&self, why: &'static str) -> Result<Option<Handle>> {
        let Some(mut state) = self.lock_within(PARTING_PATIENCE) else {
            let detail = "another thread's call on this communicator does not return".into();
            return Err(Error::Nccl { rank: self.nccl.rank, call: "closing the communicator", detail });
        };
        match std::mem::replace(&mut *state, State::Closed(why)) {
            State::Live(handle) => Ok(Some(handle)),
            State::Closed(before) => {
                *state = State::Closed(before);
                Ok(None)
            }
        }
    }

    /// WHY: aborting under a running call would free memory that the call uses, and a lock has no deadline of its own.
    fn lock_within(&self, patience: Duration) -> Option<MutexGuard<'_, State>> {
        let deadline = Instant::now() + patience;
        loop {
            match self.state.try_lock() {
                Ok(state) => return Some(state),
                Err(TryLockError::Poisoned(poisoned)) => return Some(poisoned.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() >= deadline => return None,
                Err(TryLockError::WouldBlock) => std::thread::sleep(Duration::from_millis(1)),
            }
        }
    }

    fn closed(&self, call: &'static str, why: &str) -> Error {
        Error::Nccl { rank: self.nccl.rank, call, detail: format!("this communicator is closed: {why}") }
    }
}

/// A call that was left behind.
pub(super) fn no_return(rank: Rank, call: &'static str, patience: Duration) -> Error {
    let detail =
        format!("it did not return within {} s: is every rank alive and in the same call?", patience.as_secs());
    Error::Nccl { rank, call, detail }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_that_does_not_return_names_rank_call_and_wait() {
        let message = no_return(Rank(5), "ncclCommInitRank", Duration::from_secs(120)).to_string();
        assert!(message.starts_with("ncclCommInitRank failed on rank 5: it did not return within 120 s"), "{message}");
    }
}

//! How Myelon leaves a communicator: when its operations have ended, or by ending their waits.

use std::ffi::c_int;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abi::{Comm, SUCCESS};
use crate::communicators::{self, Attached, Entry};
use crate::log;

/// Takes Myelon off a communicator once its operations have ended. Whoever still uses it in another thread keeps it until then.
pub(crate) fn end(comm: Comm) -> c_int {
    // In the table until then, for another thread's abort ends the wait.
    let ended_well = match communicators::find(comm).as_ref().and_then(|entry| entry.attached.as_ref()) {
        Some(attached) => attached.bound(|| settle(attached)),
        None => true,
    };
    match communicators::remove(comm) {
        // Here, for the peers should know that this rank has left before its process can end; but where the thread may be the one that
        // takes another rank off next, it would wait for itself.
        Some(entry) if ended_well && are_processes(&entry) => drop_bound(entry),
        Some(entry) => bury(entry),
        None => (),
    }
    SUCCESS
}

/// Takes Myelon off a communicator and ends its waits.
pub(crate) fn abort(comm: Comm, why: &str) -> c_int {
    stop(comm, why);
    if let Some(entry) = communicators::remove(comm).filter(|entry| entry.attached.is_some()) {
        bury(entry);
    }
    SUCCESS
}

/// How long kernels that were told to end may take. They end where they wait, at once; but one may not have begun.
const STOP_PATIENCE: Duration = Duration::from_secs(1);

/// Ends Myelon's waits on a communicator. As behind NCCL's, nothing of it touches the program's memory any more, unless it takes too
/// long.
pub(crate) fn stop(comm: Comm, why: &str) -> c_int {
    let Some(entry) = communicators::find(comm) else { return SUCCESS };
    let Some(attached) = &entry.attached else { return SUCCESS };
    attached.bound(|| {
        attached.communicator.abort(why);
        let began = Instant::now();
        while !attached.communicator.is_idle() && began.elapsed() < STOP_PATIENCE {
            std::thread::sleep(Duration::from_micros(200));
        }
    });
    SUCCESS
}

/// How long a thread that was told to stop may take to return from its call.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// Gives back what an aborted communicator had, on a thread of its own.
///
/// WHY: it waits for peers to say goodbye, seconds where they hang, and an abort waits for nobody; nor does a call that the abort
/// ended, which would otherwise be the last to have it.
fn bury(entry: Arc<Entry>) {
    let _kept = entry.attached.as_ref().and_then(Attached::keep_context);
    let wait = move || {
        let began = Instant::now();
        while Arc::strong_count(&entry) > 1 && began.elapsed() < RETURN_PATIENCE {
            std::thread::sleep(Duration::from_millis(1));
        }
        drop(entry);
    };
    if std::thread::Builder::new().name("myelon-nccl-end".into()).spawn(wait).is_err() {
        log::warn("no thread to give back what an aborted communicator had");
    }
}

fn are_processes(entry: &Entry) -> bool {
    entry.attached.as_ref().is_none_or(|attached| attached.are_processes)
}

fn drop_bound(entry: Arc<Entry>) {
    let _kept = entry.attached.as_ref().and_then(Attached::keep_context);
    drop(entry);
}

/// Waits until what was queued has ended, as NCCL does: without a deadline, for the program may have queued hours of work before it.
/// A fault or an abort ends it. Whether all is well then.
/// Replays of graphs are waited for as well.
fn settle(attached: &Attached) -> bool {
    // Where they cannot be known, as in drivers before 12.5, the drop does what it can.
    let replays = attached.communicator.mark_replays().ok().flatten();
    let have_ended = || replays.as_ref().is_none_or(|mark| mark.is_reached().unwrap_or(true));
    let mut lost_since = None;
    while !attached.communicator.is_idle() || !have_ended() {
        if attached.communicator.status().is_err() {
            return false;
        }
        // What does not end soon waits for the one that is lost.
        if let Some(lost) = attached.control.lost()
            && lost_since.get_or_insert_with(Instant::now).elapsed() > STOP_PATIENCE
        {
            attached.communicator.abort(&format!("its communicator was ended, and {lost}"));
            return false;
        }
        std::thread::sleep(Duration::from_micros(200));
    }
    attached.communicator.status().is_ok()
}

//! The functions that do more than forward, but for the collectives: what makes and ends communicators, groups, errors.

#![allow(non_snake_case, reason = "these are NCCL's names")]
#![allow(clippy::missing_safety_doc, reason = "the promises are those of NCCL's documentation")]

use std::ffi::{c_char, c_int, c_void};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::abi::{Comm, SUCCESS, UniqueId, is_non_blocking};
use crate::communicators::{self, Attached, Entry};
use crate::guard::{is_inside, no_panic};
use crate::log;
use crate::real::{call_real, real};
use crate::{attach, failure, group};

/// This library's version. NCCL has no such function: whoever finds it has Myelon's stand-in before them.
#[unsafe(no_mangle)]
pub extern "C" fn ncclMyelonVersion() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What follows the making of a communicator: at once, or at the end of the group.
fn made(code: c_int, comm: *mut Comm, blocking: bool) -> c_int {
    log::report_at_exit();
    if code != SUCCESS || !blocking {
        return code;
    }
    if group::is_open() {
        group::will_make(comm);
        return code;
    }
    attach::several(&[comm])
}

/// As NCCL's; the ranks then agree on whether Myelon takes part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut Comm, nranks: c_int, id: UniqueId, rank: c_int) -> c_int {
    let forward = || call_real!(ncclCommInitRank(comm, nranks, id, rank));
    if is_inside() { forward() } else { no_panic(|| made(forward(), comm, true)) }
}

/// As [`ncclCommInitRank`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankConfig(
    comm: *mut Comm,
    nranks: c_int,
    id: UniqueId,
    rank: c_int,
    config: *mut c_void,
) -> c_int {
    // SAFETY: a configuration of NCCL's, or null.
    let blocking = !unsafe { is_non_blocking(config) };
    let forward = || call_real!(ncclCommInitRankConfig(comm, nranks, id, rank, config));
    if is_inside() { forward() } else { no_panic(|| made(forward(), comm, blocking)) }
}

/// As [`ncclCommInitRank`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRankScalable(
    comm: *mut Comm,
    nranks: c_int,
    rank: c_int,
    ids_count: c_int,
    ids: *mut UniqueId,
    config: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    let blocking = !unsafe { is_non_blocking(config) };
    let forward = || call_real!(ncclCommInitRankScalable(comm, nranks, rank, ids_count, ids, config));
    if is_inside() { forward() } else { no_panic(|| made(forward(), comm, blocking)) }
}

/// As NCCL's. One thread drives all ranks, so Myelon takes no part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(comms: *mut Comm, ndev: c_int, devlist: *const c_int) -> c_int {
    call_real!(ncclCommInitAll(comms, ndev, devlist))
}

/// As [`ncclCommInitRank`], for each part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommSplit(
    comm: Comm,
    color: c_int,
    key: c_int,
    newcomm: *mut Comm,
    config: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    let blocking = !unsafe { is_non_blocking(config) };
    let forward = || call_real!(ncclCommSplit(comm, color, key, newcomm, config));
    if is_inside() { forward() } else { no_panic(|| made(forward(), newcomm, blocking)) }
}

/// As [`ncclCommInitRank`], for the ranks that are left.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommShrink(
    comm: Comm,
    exclude: *mut c_int,
    exclude_count: c_int,
    newcomm: *mut Comm,
    config: *mut c_void,
    flags: c_int,
) -> c_int {
    // SAFETY: as above.
    let blocking = !unsafe { is_non_blocking(config) };
    let forward = || call_real!(ncclCommShrink(comm, exclude, exclude_count, newcomm, config, flags));
    if is_inside() { forward() } else { no_panic(|| made(forward(), newcomm, blocking)) }
}

/// As [`ncclCommInitRank`], for old ranks and new ones.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGrow(
    comm: Comm,
    nranks: c_int,
    id: *const UniqueId,
    rank: c_int,
    newcomm: *mut Comm,
    config: *mut c_void,
) -> c_int {
    // SAFETY: as above.
    let blocking = !unsafe { is_non_blocking(config) };
    let forward = || call_real!(ncclCommGrow(comm, nranks, id, rank, newcomm, config));
    if is_inside() { forward() } else { no_panic(|| made(forward(), newcomm, blocking)) }
}

/// As NCCL's, after Myelon's operations have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommFinalize(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| end(comm));
    }
    call_real!(ncclCommFinalize(comm))
}

/// As NCCL's, after Myelon's operations have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| end(comm));
    }
    call_real!(ncclCommDestroy(comm))
}

/// As NCCL's. Ends Myelon's waits as well, on all ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| abort(comm, "ncclCommAbort was called"));
    }
    call_real!(ncclCommAbort(comm))
}

/// As NCCL's. Ends Myelon's waits as well, on all ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommRevoke(comm: Comm, flags: c_int) -> c_int {
    if !is_inside() {
        no_panic(|| abort(comm, "ncclCommRevoke was called"));
    }
    call_real!(ncclCommRevoke(comm, flags))
}

/// Takes Myelon off a communicator once its operations have ended. Whoever still uses it in another thread keeps it until then.
fn end(comm: Comm) -> c_int {
    // In the table until then, for another thread's abort ends the wait.
    if let Some(attached) = communicators::find(comm).as_ref().and_then(|entry| entry.attached.as_ref()) {
        attached.bound(|| settle(attached));
    }
    if let Some(entry) = communicators::remove(comm) {
        // Here, for the peers should know that this rank has left before its process can end.
        drop_bound(entry);
    }
    SUCCESS
}

/// Takes Myelon off a communicator and ends its waits.
fn abort(comm: Comm, why: &str) -> c_int {
    if let Some(entry) = communicators::remove(comm)
        && let Some(attached) = &entry.attached
    {
        attached.bound(|| attached.communicator.abort(why));
        bury(entry);
    }
    SUCCESS
}

/// How long a thread that was told to stop may take to return from its call.
const RETURN_PATIENCE: Duration = Duration::from_secs(60);

/// Gives back what an aborted communicator had, on a thread of its own.
///
/// WHY: it waits for peers to say goodbye, seconds where they hang, and an abort waits for nobody; nor does a call that the abort
/// ended, which would otherwise be the last to have it.
fn bury(entry: Arc<Entry>) {
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

fn drop_bound(entry: Arc<Entry>) {
    let _kept = entry.attached.as_ref().and_then(Attached::keep_context);
    drop(entry);
}

/// Waits until what was queued has ended, as NCCL does: without a deadline, for the program may have queued hours of work before it.
/// A fault or an abort ends it.
fn settle(attached: &Attached) {
    while !attached.communicator.is_idle() && attached.communicator.status().is_ok() {
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// NCCL's, and where NCCL is well Myelon's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommGetAsyncError(comm: Comm, error: *mut c_int) -> c_int {
    let code = call_real!(ncclCommGetAsyncError(comm, error));
    if code != SUCCESS || is_inside() || error.is_null() {
        return code;
    }
    no_panic(|| {
        // SAFETY: NCCL has just written there.
        let theirs = unsafe { *error };
        if theirs == SUCCESS
            && let Some(entry) = communicators::find(comm)
            && let Some(attached) = &entry.attached
            // A peer that ended after all operations had, as at the end of a program, harms nobody before the next operation.
            && (attached.communicator.has_fault() || !attached.communicator.is_idle())
            && let Err(ours) = attached.communicator.status()
        {
            // SAFETY: as above.
            unsafe { *error = failure::of(&ours) };
        }
        code
    })
}

/// Words of the last failure, Myelon's or NCCL's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetLastError(comm: Comm) -> *const c_char {
    if let Some(words) = failure::last_pointer() {
        return words;
    }
    match real().map(|real| real.ncclGetLastError) {
        // SAFETY: the caller made NCCL's promises.
        Ok(Some(function)) => unsafe { function(comm) },
        _ => c"".as_ptr(),
    }
}

/// As NCCL's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGetErrorString(result: c_int) -> *const c_char {
    match real().map(|real| real.ncclGetErrorString) {
        // SAFETY: takes any code.
        Ok(Some(function)) => unsafe { function(result) },
        _ => failure::describe(result).as_ptr(),
    }
}

/// As NCCL's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupStart() -> c_int {
    if is_inside() { call_real!(ncclGroupStart()) } else { no_panic(group::start) }
}

/// As NCCL's; launches what Myelon took inside the group, then ends NCCL's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupEnd() -> c_int {
    if is_inside() { call_real!(ncclGroupEnd()) } else { no_panic(group::end) }
}

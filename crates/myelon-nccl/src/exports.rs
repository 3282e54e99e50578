//! The functions that do more than forward, but for the collectives: what makes and ends communicators, groups, errors.

#![allow(non_snake_case, reason = "these are NCCL's names")]
#![allow(clippy::missing_safety_doc, reason = "the promises are those of NCCL's documentation")]

use std::ffi::{c_char, c_int, c_void};

use crate::abi::{Comm, SUCCESS, UniqueId, blocking_of};
use crate::communicators;
use crate::guard::{is_inside, no_panic};
use crate::log;
use crate::real::{call_real, real};
use crate::{attach, ending, failure, group};

/// This library's version. NCCL has no such function: whoever finds it has Myelon's stand-in before them.
#[unsafe(no_mangle)]
pub extern "C" fn ncclMyelonVersion() -> *const c_char {
    concat!(env!("CARGO_PKG_VERSION"), "\0").as_ptr().cast()
}

/// What a new communicator is made of.
#[derive(Clone, Copy)]
enum Origin {
    /// Ranks that had none, by their unique id.
    Nothing,
    /// A part of this one.
    Parent(Comm),
    /// This one and new ranks, which have null.
    Grown(Comm),
}

/// Whether a new communicator blocks, and its handle is there when the call that makes it has returned. Asked behind that call: NCCL's
/// first one puts the settings of its files into the environment.
///
/// In the order in which NCCL asks: its environment, the configuration, the communicator that it is made of.
///
/// # Safety
/// As [`blocking_of`].
unsafe fn blocks(config: *const c_void, origin: Origin) -> bool {
    let environment = match std::env::var("NCCL_COMM_BLOCKING").as_deref() {
        Ok("0") => Some(false),
        Ok("1") => Some(true),
        _ => None,
    };
    // SAFETY: the caller's promise.
    let said = environment.or_else(|| unsafe { blocking_of(config) });
    // Those that block are known here, every one of them.
    let is_known = |comm| communicators::find(comm).is_some();
    match origin {
        Origin::Nothing => said.unwrap_or(true),
        // NCCL makes parts as the parent does everything: of one that does not block the handle comes later, whatever the part will do.
        Origin::Parent(parent) => said.unwrap_or(true) && is_known(parent),
        Origin::Grown(parent) => said.unwrap_or_else(|| parent.is_null() || is_known(parent)),
    }
}

/// The call that makes a communicator, and what follows: at once, or at the end of the group.
///
/// # Safety
/// As [`blocking_of`].
unsafe fn make(comm: *mut Comm, config: *const c_void, origin: Origin, forward: impl FnOnce() -> c_int) -> c_int {
    if is_inside() {
        return forward();
    }
    no_panic(|| {
        let code = forward();
        log::report_at_exit();
        let is_grouped = group::is_open();
        if is_grouped {
            group::answered(code);
        }
        // SAFETY: the caller's promise.
        if !unsafe { blocks(config, origin) } {
            log::communicator("that does not block, or is made of one that is not known here: forwarded".into());
            return code;
        }
        match code {
            SUCCESS if is_grouped => group::will_make(comm),
            SUCCESS => return attach::several(&[comm]),
            _ => (),
        }
        code
    })
}

/// As NCCL's; the ranks then agree on whether Myelon takes part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitRank(comm: *mut Comm, nranks: c_int, id: UniqueId, rank: c_int) -> c_int {
    let forward = || call_real!(ncclCommInitRank(comm, nranks, id, rank));
    // SAFETY: no configuration.
    unsafe { make(comm, std::ptr::null(), Origin::Nothing, forward) }
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
    let forward = || call_real!(ncclCommInitRankConfig(comm, nranks, id, rank, config));
    // SAFETY: a configuration of NCCL's, or null.
    unsafe { make(comm, config, Origin::Nothing, forward) }
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
    let forward = || call_real!(ncclCommInitRankScalable(comm, nranks, rank, ids_count, ids, config));
    // SAFETY: as above.
    unsafe { make(comm, config, Origin::Nothing, forward) }
}

/// As NCCL's. One thread drives all ranks, so Myelon takes no part.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommInitAll(comms: *mut Comm, ndev: c_int, devlist: *const c_int) -> c_int {
    let forward = || call_real!(ncclCommInitAll(comms, ndev, devlist));
    if is_inside() {
        return forward();
    }
    no_panic(|| {
        let code = forward();
        log::report_at_exit();
        if code == SUCCESS {
            for rank in 0..ndev.max(0) as usize {
                // SAFETY: NCCL has just written so many handles there.
                communicators::insert(unsafe { *comms.add(rank) }, rank as u32, None);
            }
            log::communicator(format!("of {ndev} ranks by ncclCommInitAll: forwarded: one thread drives them all"));
        }
        code
    })
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
    let forward = || call_real!(ncclCommSplit(comm, color, key, newcomm, config));
    // SAFETY: as above.
    unsafe { make(newcomm, config, Origin::Parent(comm), forward) }
}

/// As [`ncclCommInitRank`], for the ranks that are left. Told to abort, it ends Myelon's waits as well, on all ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommShrink(
    comm: Comm,
    exclude: *mut c_int,
    exclude_count: c_int,
    newcomm: *mut Comm,
    config: *mut c_void,
    flags: c_int,
) -> c_int {
    let forward = || call_real!(ncclCommShrink(comm, exclude, exclude_count, newcomm, config, flags));
    if !is_inside() && flags & SHRINK_ABORT != 0 && real().is_ok_and(|real| real.ncclCommShrink.is_some()) {
        no_panic(|| ending::stop(comm, "ncclCommShrink was told to abort"));
    }
    // SAFETY: as above.
    unsafe { make(newcomm, config, Origin::Parent(comm), forward) }
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
    let forward = || call_real!(ncclCommGrow(comm, nranks, id, rank, newcomm, config));
    // SAFETY: as above.
    unsafe { make(newcomm, config, Origin::Grown(comm), forward) }
}

/// As NCCL's, after Myelon's operations have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommFinalize(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| ending::end(comm));
    }
    call_real!(ncclCommFinalize(comm))
}

/// As NCCL's, after Myelon's operations have ended.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommDestroy(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| ending::end(comm));
    }
    call_real!(ncclCommDestroy(comm))
}

/// As NCCL's. Ends Myelon's waits as well, on all ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommAbort(comm: Comm) -> c_int {
    if !is_inside() {
        no_panic(|| ending::abort(comm, "ncclCommAbort was called"));
    }
    call_real!(ncclCommAbort(comm))
}

/// As NCCL's. Ends Myelon's waits as well, on all ranks, and what Myelon would take afterwards is an error.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclCommRevoke(comm: Comm, flags: c_int) -> c_int {
    // Only where NCCL will: of ranks of which some had revoked, the others would wait for ever.
    if !is_inside() && flags == 0 && real().is_ok_and(|real| real.ncclCommRevoke.is_some()) {
        no_panic(|| ending::stop(comm, "ncclCommRevoke was called"));
    }
    call_real!(ncclCommRevoke(comm, flags))
}

/// `NCCL_SHRINK_ABORT`.
const SHRINK_ABORT: c_int = 1;

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
            && let Err(ours) = attached.status()
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

/// As NCCL's, of its own operations: the group ends, and nothing of it runs.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupSimulateEnd(info: *mut c_void) -> c_int {
    if is_inside() { call_real!(ncclGroupSimulateEnd(info)) } else { no_panic(|| group::simulate_end(info)) }
}

/// As NCCL's; launches what Myelon took inside the group, then ends NCCL's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn ncclGroupEnd() -> c_int {
    if is_inside() { call_real!(ncclGroupEnd()) } else { no_panic(group::end) }
}

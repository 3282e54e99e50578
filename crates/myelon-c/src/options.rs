//! `myelonOptions_t`, and what a communicator takes where it is NULL.

use std::ffi::{c_char, c_int};
use std::sync::Arc;
use std::time::Duration;

use myelon::abi::MAX_LANES;
use myelon::bootstrap::TcpOptions;
use myelon::variant::{Choice, Manifest, Shape};
use myelon::{Fallback, Options};

use crate::border::{Place, exclusive, list, owned, text};
use crate::codes::{DataTypeCode, OpCode, data_type, myelonStatus_t, operator, unknown};
use crate::guard::{Fault, guard};
use crate::handles::{MyelonOptions, myelonOptions_t};

/// A `myelonFallback_t` that a caller passes.
pub type FallbackCode = c_int;

/// Settings as the environment has them (MYELON_TIMEOUT and others), to be changed by the functions below and then given to all
/// ranks alike. myelonOptionsDestroy gives them back; communicators that were made with them do not need them any more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsCreate(options: *mut myelonOptions_t) -> myelonStatus_t {
    guard("myelonOptionsCreate", || {
        // SAFETY: the caller's word.
        let place = unsafe { Place::at(options, "options") }?;
        place.put_handle(MyelonOptions::from_env()?);
        Ok(())
    })
}

/// Gives settings back. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsDestroy(options: myelonOptions_t) -> myelonStatus_t {
    guard("myelonOptionsDestroy", || {
        // SAFETY: the caller's word.
        drop(unsafe { owned(options) });
        Ok(())
    })
}

/// The longest wait inside a kernel, in seconds; 0 waits until aborted. 30 unless MYELON_TIMEOUT says otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetTimeout(options: myelonOptions_t, seconds: f64) -> myelonStatus_t {
    change("myelonOptionsSetTimeout", options, |MyelonOptions { options, .. }| {
        let timeout = Duration::try_from_secs_f64(seconds).ok().filter(|time| time.as_nanos() < u128::from(u64::MAX));
        let timeout = timeout
            .ok_or_else(|| Fault::invalid(format!("seconds is {seconds}, which is no time to wait; 0 means none")))?;
        // What is less than can be told is not none.
        options.timeout = if seconds > 0.0 { timeout.max(Duration::from_nanos(1)) } else { timeout };
        Ok(())
    })
}

/// The longest wait for other ranks that have joined, where ranks meet on the host, in seconds: in myelonPrepare, myelonCommSplit and
/// other calls that are collective and queue nothing, and at the first operation of a type. 30 unless set; more than a day counts as a
/// day. A rank that ends or aborts ends such a wait before. To join, ranks have 30 seconds whatever this says. A communicator that
/// myelonCommSplit makes takes this and its silence after those of the one that it is made from.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetMeetingTimeout(options: myelonOptions_t, seconds: f64) -> myelonStatus_t {
    change("myelonOptionsSetMeetingTimeout", options, |MyelonOptions { meeting, .. }| {
        meeting.deadline = bounded(seconds)?;
        Ok(())
    })
}

/// How long a rank may be silent, in seconds, before it counts as lost: a process that is stopped, or that its machine leaves no time.
/// 0.1 to a day, 5 unless set; one that ends is lost at once. It is told to myelonGetUniqueIdWith, or on rank 0 to myelonCommInitEnv,
/// and holds for the whole group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetSilence(options: myelonOptions_t, seconds: f64) -> myelonStatus_t {
    change("myelonOptionsSetSilence", options, |MyelonOptions { meeting, .. }| {
        meeting.silence = bounded(seconds)?;
        Ok(())
    })
}

fn bounded(seconds: f64) -> Result<Duration, Fault> {
    let least = TcpOptions::SHORTEST_SILENCE;
    let day = TcpOptions::LONGEST.as_secs_f64();
    let time =
        Duration::try_from_secs_f64(if seconds > day { day } else { seconds }).ok().filter(|&time| time >= least);
    time.ok_or_else(|| Fault::invalid(format!("seconds is {seconds}: use {} to {day}", least.as_secs_f64())))
}

/// Which n pairs of a data type and an operator are compiled and loaded when a communicator comes up, in place of the sum of
/// myelonF32. Others are at their first use, which takes seconds where they are not in the cache, and is an error in a capture.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetPrepare(
    options: myelonOptions_t,
    dtypes: *const DataTypeCode,
    ops: *const OpCode,
    n: usize,
) -> myelonStatus_t {
    change("myelonOptionsSetPrepare", options, |MyelonOptions { options, .. }| {
        // SAFETY: the caller's word.
        options.prepare = unsafe { pairs(dtypes, ops, n) }?;
        Ok(())
    })
}

/// A variant to use wherever it can serve, by its name; NULL, or "auto", for the lane table's choice.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetVariant(options: myelonOptions_t, name: *const c_char) -> myelonStatus_t {
    change("myelonOptionsSetVariant", options, |MyelonOptions { options, .. }| {
        // SAFETY: the caller's word.
        let name = unsafe { text(name) }.filter(|name| name != "auto");
        let choice = name.map(|name| {
            let variant = Arc::clone(Manifest::embedded().get(&name)?);
            Ok::<_, Fault>(Choice { variant, shape: Shape::default() })
        });
        options.choice = choice.transpose()?;
        Ok(())
    })
}

/// Most lanes of an operation, 1 to 128: each is a CTA and takes an SM from kernels beside it, so fewer are for programs that compute
/// meanwhile. Large messages take longer. As many as are fastest unless this or MYELON_MAX_LANES says otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetMaxLanes(options: myelonOptions_t, lanes: u32) -> myelonStatus_t {
    change("myelonOptionsSetMaxLanes", options, |MyelonOptions { options, .. }| {
        options.max_lanes = Some(possible(lanes)?);
        Ok(())
    })
}

/// Most lanes of messages of 4 MiB and more, of one rank's part where a collective has parts, 1 to 128: while other kernels run, these
/// take their SMs for longest. Smaller ones keep their lanes. As many as are fastest unless this or MYELON_LARGE_LANES says otherwise.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetLargeLanes(options: myelonOptions_t, lanes: u32) -> myelonStatus_t {
    change("myelonOptionsSetLargeLanes", options, |MyelonOptions { options, .. }| {
        options.large_lanes = Some(possible(lanes)?);
        Ok(())
    })
}

fn possible(lanes: u32) -> Result<u32, Fault> {
    if (1..=MAX_LANES).contains(&lanes) {
        Ok(lanes)
    } else {
        Err(Fault::invalid(format!("lanes is {lanes}, 1 to {MAX_LANES} are possible")))
    }
}

/// What to do where the ranks cannot reach each other's memory; myelonFallbackRefuse unless set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetFallback(options: myelonOptions_t, fallback: FallbackCode) -> myelonStatus_t {
    change("myelonOptionsSetFallback", options, |MyelonOptions { options, .. }| {
        options.fallback = match fallback {
            0 => Fallback::Refuse,
            1 => Fallback::Nccl,
            other => return Err(unknown("fallback", other, "myelonFallback_t", ["refuse", "nccl"].into_iter())),
        };
        Ok(())
    })
}

/// Whether several ranks may use one GPU, not 0 for yes: for tests of correctness alone.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonOptionsSetShareDevices(options: myelonOptions_t, share: c_int) -> myelonStatus_t {
    change("myelonOptionsSetShareDevices", options, |MyelonOptions { options, .. }| {
        options.share_devices = share != 0;
        Ok(())
    })
}

fn change(
    name: &str,
    options: myelonOptions_t,
    setting: impl FnOnce(&mut MyelonOptions) -> Result<(), Fault>,
) -> myelonStatus_t {
    guard(name, || {
        // SAFETY: the caller's word: a handle, used by one thread at a time.
        setting(unsafe { exclusive(options, "options") }?)
    })
}

impl MyelonOptions {
    fn from_env() -> Result<Self, Fault> {
        let meeting = TcpOptions { join: Some(TcpOptions::default().deadline), ..TcpOptions::default() };
        Ok(Self { options: Options::from_env()?, meeting })
    }
}

/// What a handle holds; what the environment says where it is NULL.
///
/// # Safety
/// A handle that is not NULL is one of [`myelonOptionsCreate`].
pub(crate) unsafe fn of_handle(options: myelonOptions_t) -> Result<MyelonOptions, Fault> {
    // SAFETY: the caller's promise.
    match unsafe { options.as_ref() } {
        Some(options) => Ok(options.clone()),
        None => MyelonOptions::from_env(),
    }
}

/// Data types with their operators, from two arrays.
///
/// # Safety
/// Both arrays have `n` elements.
pub(crate) unsafe fn pairs(
    dtypes: *const DataTypeCode,
    ops: *const OpCode,
    n: usize,
) -> Result<Vec<(myelon::DType, myelon::ReduceOp)>, Fault> {
    // SAFETY: the caller's promise.
    let (dtypes, ops) = unsafe { (list(dtypes, n, "dtypes")?, list(ops, n, "ops")?) };
    dtypes.iter().zip(ops).map(|(&dtype, &op)| Ok((data_type(dtype)?, operator(op)?))).collect()
}

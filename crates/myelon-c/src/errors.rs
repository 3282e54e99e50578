//! What the library says of itself and of calls that failed.

use std::ffi::{c_char, c_int};

use crate::border::Place;
use crate::codes::{StatusCode, myelonStatus_t};
use crate::guard::{guard, last};

/// The version as one number: 10000 a major, 100 a minor, 1 a patch release. `MYELON_VERSION` of the header that this library has.
const VERSION: c_int = number(env!("CARGO_PKG_VERSION_MAJOR")) * 10_000
    + number(env!("CARGO_PKG_VERSION_MINOR")) * 100
    + number(env!("CARGO_PKG_VERSION_PATCH"));

const fn number(text: &str) -> c_int {
    match c_int::from_str_radix(text, 10) {
        Ok(number) => number,
        Err(_) => panic!("a part of a version is a number"),
    }
}

/// What the last call on this thread that failed says of it: the rank, what was expected, what was seen, and the fix where there
/// is one. "" if none has failed. Valid until the next call on this thread that fails.
#[unsafe(no_mangle)]
pub extern "C" fn myelonGetLastError() -> *const c_char {
    last()
}

/// A status in a few words. Valid for good; never NULL, whatever the number.
#[unsafe(no_mangle)]
pub extern "C" fn myelonGetErrorString(status: StatusCode) -> *const c_char {
    let text = match myelonStatus_t::of(status) {
        Some(myelonStatus_t::myelonSuccess) => c"success",
        Some(myelonStatus_t::myelonInvalidArgument) => c"invalid argument",
        Some(myelonStatus_t::myelonUnsupported) => c"unsupported",
        Some(myelonStatus_t::myelonStalled) => c"stalled: a wait passed its deadline",
        Some(myelonStatus_t::myelonPeerLost) => c"a peer is lost",
        Some(myelonStatus_t::myelonPeerMismatch) => c"ranks disagree",
        Some(myelonStatus_t::myelonAborted) => c"aborted",
        Some(myelonStatus_t::myelonPeerFailed) => c"a peer failed",
        Some(myelonStatus_t::myelonDeviceError) => c"the driver, a GPU, NCCL or the compiler of kernels failed",
        Some(myelonStatus_t::myelonSystemError) => {
            c"the operating system failed, a library is missing, or the ranks did not find each other"
        }
        Some(myelonStatus_t::myelonInternalError) => c"a fault of the library",
        None => c"not a myelonStatus_t",
    };
    text.as_ptr()
}

/// The version of the library that is loaded, as MYELON_VERSION counts.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonGetVersion(version: *mut c_int) -> myelonStatus_t {
    guard("myelonGetVersion", || {
        // SAFETY: the caller's word.
        unsafe { Place::at(version, "version") }?.put(VERSION);
        Ok(())
    })
}

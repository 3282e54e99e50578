//! The real NCCL of this process: found once, its functions by name.

mod find;
mod functions;

use std::ffi::c_int;
use std::sync::OnceLock;

use crate::abi::{INVALID_USAGE, SYSTEM_ERROR};
use crate::{failure, log};

pub(crate) use functions::{Functions, functions};

/// The real NCCL's functions.
///
/// Errors: where there is none, or none but this library, in words that say so; the same at every call.
pub(crate) fn real() -> Result<&'static Functions, &'static str> {
    static REAL: OnceLock<Result<Functions, String>> = OnceLock::new();
    let found = REAL.get_or_init(|| {
        let found = find::find();
        if let Err(why) = &found {
            log::warn(why);
        }
        found.map(|found| Functions::of(found.opened))
    });
    found.as_ref().map_err(String::as_str)
}

/// What a call without a real NCCL behind it comes to.
pub(crate) fn absent(why: &str) -> c_int {
    failure::own(SYSTEM_ERROR, why)
}

/// What a call comes to that the real NCCL does not have.
pub(crate) fn lacking(name: &str) -> c_int {
    let words = format!("the NCCL in use has no {name}: a newer release does");
    log::warn(&words);
    failure::own(INVALID_USAGE, words)
}

/// Calls a function of the real NCCL; its code, or that of its absence.
macro_rules! call_real {
    ($name:ident($($argument:expr),* $(,)?)) => {
        match $crate::real::real() {
            Err(why) => $crate::real::absent(why),
            Ok(real) => match real.$name {
                None => $crate::real::lacking(stringify!($name)),
                Some(function) => {
                    // SAFETY: the caller of this library's function made NCCL's promises for these arguments, or this library does.
                    $crate::failure::theirs($crate::guard::inside(|| unsafe { function($($argument),*) }))
                }
            },
        }
    };
}
pub(crate) use call_real;

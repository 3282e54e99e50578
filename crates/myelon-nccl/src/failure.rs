//! What went wrong, in NCCL's codes and in words.

use std::cell::RefCell;
use std::ffi::{CStr, CString, c_char, c_int};
use std::sync::{Mutex, PoisonError};

use myelon_ccl::Error;

use crate::abi::{
    CUDA_ERROR, IN_PROGRESS, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_USAGE, REMOTE_ERROR, SUCCESS, SYSTEM_ERROR,
};

/// Words of the last failure of this process, where it was Myelon's: as NCCL keeps its own, for `ncclGetLastError` is asked
/// without a communicator.
static LAST: Mutex<Option<CString>> = Mutex::new(None);

/// Keeps the words of a failure that is Myelon's, and gives its code back.
pub(crate) fn own(code: c_int, words: impl Into<Vec<u8>>) -> c_int {
    let mut words = words.into();
    words.retain(|&byte| byte != 0);
    *LAST.lock().unwrap_or_else(PoisonError::into_inner) = CString::new(words).ok();
    code
}

/// As [`own`], of an error of a communicator.
pub(crate) fn of(error: &Error) -> c_int {
    own(code(error), format!("Myelon: {error}"))
}

/// What NCCL answered: after a failure of its own, its words are the last ones.
pub(crate) fn theirs(code: c_int) -> c_int {
    if code != SUCCESS && code != IN_PROGRESS {
        *LAST.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
    code
}

/// Words of the last failure, where it was Myelon's.
pub(crate) fn last() -> Option<CString> {
    LAST.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

/// As [`last`], for C: lives until the next call of this thread.
pub(crate) fn last_pointer() -> Option<*const c_char> {
    thread_local! {
        static SHOWN: RefCell<CString> = RefCell::default();
    }
    let words = last()?;
    SHOWN
        .try_with(|shown| {
            *shown.borrow_mut() = words;
            shown.borrow().as_ptr()
        })
        .ok()
}

/// The code that says most nearly the same.
pub(crate) fn code(error: &Error) -> c_int {
    match error {
        Error::InvalidArgument(_) => INVALID_ARGUMENT,
        Error::Unsupported(_) | Error::Config { .. } | Error::PeerMismatch { .. } => INVALID_USAGE,
        Error::PeerLost { .. } | Error::PeerFailed { .. } => REMOTE_ERROR,
        Error::Stalled { .. } | Error::Aborted { .. } | Error::Io { .. } | Error::Bootstrap { .. } => SYSTEM_ERROR,
        Error::Driver { .. } => CUDA_ERROR,
        _ => INTERNAL_ERROR,
    }
}

/// NCCL's codes in words, for where there is no NCCL to ask.
pub(crate) fn describe(code: c_int) -> &'static CStr {
    match code {
        SUCCESS => c"no error",
        CUDA_ERROR => c"unhandled cuda error",
        SYSTEM_ERROR => c"unhandled system error",
        INTERNAL_ERROR => c"internal error",
        INVALID_ARGUMENT => c"invalid argument",
        INVALID_USAGE => c"invalid usage",
        REMOTE_ERROR => c"remote process exited or there was a network error",
        IN_PROGRESS => c"operation in progress",
        _ => c"unknown result code",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use myelon_ccl::Rank;

    #[test]
    fn errors_have_the_code_that_says_most() {
        let lost = Error::PeerLost { rank: Rank(0), peer: Rank(1), detail: "it ended".into() };
        assert_eq!(code(&lost), REMOTE_ERROR);
        assert_eq!(code(&Error::invalid("odd")), INVALID_ARGUMENT);
        assert_eq!(code(&Error::Aborted { rank: Rank(0), detail: "asked".into() }), SYSTEM_ERROR);
    }

    #[test]
    fn every_code_has_words() {
        for code in 0..=IN_PROGRESS {
            assert_ne!(describe(code), describe(99));
        }
    }
}

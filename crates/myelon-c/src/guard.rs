//! What every entry point goes through: a result becomes a status and a text, and a panic ends here.

use std::any::Any;
use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use myelon::Error;

use crate::codes::myelonStatus_t;
use crate::info::myelonErrorInfo_t;

/// What is told of a call that failed.
#[derive(Debug)]
pub(crate) struct Fault {
    pub(crate) status: myelonStatus_t,
    pub(crate) text: String,
    pub(crate) info: myelonErrorInfo_t,
}

impl Fault {
    pub(crate) fn invalid(text: impl Into<String>) -> Self {
        Self { status: myelonStatus_t::myelonInvalidArgument, text: text.into(), info: myelonErrorInfo_t::NONE }
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        let status = match &error {
            Error::InvalidArgument(_) | Error::Config { .. } => myelonStatus_t::myelonInvalidArgument,
            Error::Unsupported(_) => myelonStatus_t::myelonUnsupported,
            Error::Stalled { .. } => myelonStatus_t::myelonStalled,
            Error::PeerLost { .. } => myelonStatus_t::myelonPeerLost,
            Error::PeerMismatch { .. } => myelonStatus_t::myelonPeerMismatch,
            Error::Aborted { .. } => myelonStatus_t::myelonAborted,
            Error::PeerFailed { .. } => myelonStatus_t::myelonPeerFailed,
            Error::Driver { .. } | Error::Nccl { .. } | Error::Compile { .. } | Error::NoPeerAccess { .. } => {
                myelonStatus_t::myelonDeviceError
            }
            Error::LibraryMissing { .. } | Error::Io { .. } | Error::Bootstrap { .. } => {
                myelonStatus_t::myelonSystemError
            }
            // A kind that the library has and this border has not heard of.
            _ => myelonStatus_t::myelonInternalError,
        };
        Self { status, text: error.to_string(), info: myelonErrorInfo_t::of(&error) }
    }
}

thread_local! {
    /// Text of this thread's last call that failed.
    static LAST: RefCell<CString> = RefCell::default();
    /// Its numbers.
    static LAST_INFO: Cell<myelonErrorInfo_t> = const { Cell::new(myelonErrorInfo_t::NONE) };
    /// Whether this thread is inside a guard, which tells of a panic by itself.
    static GUARDED: Cell<bool> = const { Cell::new(false) };
    /// Where the panic that this thread's guard is about to catch came from.
    static ORIGIN: Cell<Option<String>> = const { Cell::new(None) };
}

/// Runs the body of the entry point `name`.
pub(crate) fn guard(name: &str, body: impl FnOnce() -> Result<(), Fault>) -> myelonStatus_t {
    hush();
    // A body that panics may have left what it worked on half done. Locks inside tell by their poison; handles stay valid.
    let before = GUARDED.replace(true);
    let outcome = catch_unwind(AssertUnwindSafe(body));
    GUARDED.set(before);
    let outcome = outcome.unwrap_or_else(|panic| Err(of_panic(panic)));
    match outcome {
        Ok(()) => myelonStatus_t::myelonSuccess,
        Err(Fault { status, text, info }) => {
            remember(&format!("{name}: {text}"), info);
            status
        }
    }
}

/// The text of this thread's last call that failed; empty if there was none. Valid until the next call that fails.
pub(crate) fn last() -> *const c_char {
    // The last words of a thread may come when its variables are gone.
    LAST.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// The numbers of this thread's last call that failed.
pub(crate) fn last_info() -> myelonErrorInfo_t {
    LAST_INFO.try_with(Cell::get).unwrap_or(myelonErrorInfo_t::NONE)
}

fn remember(text: &str, info: myelonErrorInfo_t) {
    let bytes: Vec<u8> = text.bytes().filter(|&byte| byte != 0).collect();
    let text = CString::new(bytes).expect("zeros were left out");
    let _ = LAST.try_with(|last| last.replace(text));
    let _ = LAST_INFO.try_with(|last| last.set(info));
}

fn of_panic(panic: Box<dyn Any + Send>) -> Fault {
    let message = match panic.downcast::<String>() {
        Ok(text) => *text,
        Err(panic) => panic.downcast_ref::<&str>().map_or("a panic without words", |text| text).to_owned(),
    };
    let origin = ORIGIN.try_with(Cell::take).ok().flatten().map_or(String::new(), |origin| format!(" at {origin}"));
    let text = format!("a fault of the library{origin}: {message}; please report it");
    Fault { status: myelonStatus_t::myelonInternalError, text, info: myelonErrorInfo_t::NONE }
}

/// Keeps the panics that a guard catches from standard error: the caller has them from `myelonGetLastError`. Those of other
/// threads are printed as before.
fn hush() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let print = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if GUARDED.get() {
                let origin = info.location().map(ToString::to_string);
                let _ = ORIGIN.try_with(|place| place.set(origin));
            } else {
                print(info);
            }
        }));
    });
}

#[cfg(test)]
mod tests {
    use std::ffi::CStr;

    use super::*;

    fn told() -> String {
        // SAFETY: this thread's text, and no call in between.
        unsafe { CStr::from_ptr(last()) }.to_str().unwrap().to_owned()
    }

    #[test]
    fn a_panic_becomes_a_status_with_its_words_and_place() {
        let status = guard("myelonTest", || panic!("slot {} is gone", 3));
        assert_eq!(status, myelonStatus_t::myelonInternalError);
        assert!(told().starts_with("myelonTest: a fault of the library at "), "{}", told());
        assert!(told().contains("guard.rs") && told().contains("slot 3 is gone"), "{}", told());
        assert_eq!(guard("myelonTest", || std::panic::panic_any(3)), myelonStatus_t::myelonInternalError);
        assert!(told().contains("a panic without words"), "{}", told());
    }

    #[test]
    fn the_text_is_the_threads_own_and_stays_until_the_next_failure() {
        assert_eq!(told(), "");
        assert_eq!(guard("myelonA", || Err(Fault::invalid("a\0b"))), myelonStatus_t::myelonInvalidArgument);
        assert_eq!(guard("myelonB", || Ok(())), myelonStatus_t::myelonSuccess);
        assert_eq!(told(), "myelonA: ab");
        std::thread::spawn(|| assert_eq!(told(), "")).join().unwrap();
    }

    #[test]
    fn errors_are_sorted_by_who_has_to_act() {
        let status = |error: Error| Fault::from(error).status;
        assert_eq!(status(Error::invalid("x")), myelonStatus_t::myelonInvalidArgument);
        assert_eq!(status(Error::unsupported("x")), myelonStatus_t::myelonUnsupported);
        let io = Error::io("reading", std::io::Error::from_raw_os_error(2));
        assert_eq!(status(io), myelonStatus_t::myelonSystemError);
        let driver = Error::Driver { call: "cuInit", code: 100, detail: "no device".into() };
        assert_eq!(status(driver), myelonStatus_t::myelonDeviceError);
    }
}

//! What every call passes: whether it comes from NCCL itself, and that no panic leaves.

use std::cell::Cell;
use std::ffi::c_int;
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::abi::INTERNAL_ERROR;
use crate::failure;

thread_local! {
    /// How many calls into the real NCCL this thread is inside of.
    static INSIDE: Cell<u32> = const { Cell::new(0) };
}

/// Runs a call into the real NCCL.
///
/// WHY: where this library is preloaded, NCCL's calls to its own functions come here. They are NCCL's business.
pub(crate) fn inside<R>(call: impl FnOnce() -> R) -> R {
    struct Leave;
    impl Drop for Leave {
        fn drop(&mut self) {
            INSIDE.set(INSIDE.get() - 1);
        }
    }
    INSIDE.set(INSIDE.get() + 1);
    let _leave = Leave;
    call()
}

/// Whether the running call comes from NCCL itself.
pub(crate) fn is_inside() -> bool {
    INSIDE.get() != 0
}

/// Runs what an exported function does. A panic becomes `ncclInternalError` with the panic's words.
pub(crate) fn no_panic(call: impl FnOnce() -> c_int) -> c_int {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let words = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned());
        let words = words.unwrap_or_else(|| "no words".into());
        failure::own(INTERNAL_ERROR, format!("a bug in Myelon's stand-in for NCCL: {words}; please report it"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_becomes_a_code_with_its_words() {
        assert_eq!(no_panic(|| panic!("odd")), INTERNAL_ERROR);
        assert!(failure::last().unwrap().to_string_lossy().contains("odd"));
        assert_eq!(no_panic(|| 0), 0);
    }

    #[test]
    fn a_call_of_nccl_itself_is_known() {
        assert!(!is_inside());
        inside(|| {
            assert!(is_inside());
            inside(|| assert!(is_inside()));
            assert!(is_inside());
        });
        assert!(!is_inside());
    }
}

//! Registered memory.

use std::ffi::{c_int, c_void};
use std::sync::Arc;

use crate::border::{Place, owned, shared};
use crate::codes::myelonStatus_t;
use crate::communicator::known;
use crate::guard::{Fault, guard};
use crate::handles::{MyelonWindow, myelonComm_t, myelonWindow_t};
use crate::operations::pointer;

/// Registers memory of every rank's, so that results can be stored right into it by operations that name the window. Collective:
/// every rank registers a range of its own, of the same size, in the same order. Not on any stream, and may synchronise.
///
/// Where one rank's memory cannot be mapped by the others it is a window all the same, and operations run as they do without.
/// The memory lives until myelonDeregister has returned. After an operation that failed it lives until every rank's stream has passed
/// what was queued by then, for what was running may still store there; after one of the variant ring_copy_engine, until all ranks
/// have destroyed their communicators.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonRegister(
    comm: myelonComm_t,
    ptr: *mut c_void,
    bytes: usize,
    window: *mut myelonWindow_t,
) -> myelonStatus_t {
    guard("myelonRegister", || {
        // SAFETY: the caller's word.
        let (communicator, place) = unsafe { (known(comm)?, Place::at(window, "window")?) };
        // SAFETY: the same, in the words of the header.
        let window = unsafe { communicator.register(pointer(ptr), bytes as u64) }?;
        place.put_handle(MyelonWindow { window, communicator: Arc::downgrade(communicator) });
        Ok(())
    })
}

/// Gives a window back, when this rank's operations have ended, and returns when every rank has: then the memory can be freed.
/// Collective; before the communicator is destroyed. The handle is of no use afterwards, whatever is returned. NULL is fine, and
/// then nothing is waited for.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonDeregister(window: myelonWindow_t) -> myelonStatus_t {
    guard("myelonDeregister", || {
        // SAFETY: the caller's word.
        let Some(window) = (unsafe { owned(window) }) else { return Ok(()) };
        let MyelonWindow { window, communicator } = *window;
        // Its operations ended with the communicator, so the window can go; only the peers were not waited for.
        let communicator = communicator.upgrade().ok_or_else(|| {
            Fault::invalid("the communicator was destroyed before its window: deregister the window first")
        })?;
        Ok(communicator.deregister(window)?)
    })
}

/// Whether every rank maps every other's memory, 1 or 0; the same on all ranks.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn myelonWindowIsZeroCopy(window: myelonWindow_t, zero_copy: *mut c_int) -> myelonStatus_t {
    guard("myelonWindowIsZeroCopy", || {
        // SAFETY: the caller's word.
        let (window, place) = unsafe { (shared(window, "window")?, Place::at(zero_copy, "zero_copy")?) };
        place.put(c_int::from(window.window.is_zero_copy()));
        Ok(())
    })
}

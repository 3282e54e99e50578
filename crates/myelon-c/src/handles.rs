//! What the handles of the header stand for.

use std::ffi::c_void;
use std::sync::{Arc, Weak};

use myelon::bootstrap::{TcpOptions, UNIQUE_ID_BYTES};
use myelon::device::StreamHandle;
use myelon::{Communicator, Options, Window};

/// A communicator.
pub struct MyelonComm {
    pub(crate) communicator: Arc<Communicator>,
}

/// Memory that every rank registered.
pub struct MyelonWindow {
    pub(crate) window: Window,
    pub(crate) communicator: Weak<Communicator>,
}

/// Settings of a communicator.
#[derive(Clone)]
pub struct MyelonOptions {
    pub(crate) options: Options,
    pub(crate) meeting: TcpOptions,
}

/// A group of ranks that work together, seen from one of them: 1 to 8 ranks of one node. Several threads may use one at once;
/// their calls take turns. Every rank issues the same operations in the same order, on a thread of its own: a rank that waits for
/// another one on the same thread waits until its deadline.
pub type myelonComm_t = *mut MyelonComm;

/// Memory that every rank of a communicator registered: each its own, all of one size.
pub type myelonWindow_t = *mut MyelonWindow;

/// Settings of a communicator, for all ranks alike. Used by one thread at a time.
pub type myelonOptions_t = *mut MyelonOptions;

/// A cudaStream_t or CUstream of the communicator's GPU; NULL is the default stream. On the CPU device NULL is the only one.
pub type myelonStream_t = *mut c_void;

/// Leads the ranks of one group to each other. Who has these bytes can join: pass them over a channel that only the ranks read.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct myelonUniqueId_t {
    /// To be passed on whole.
    pub bytes: [u8; 128],
}

const _: () = assert!(UNIQUE_ID_BYTES == 128);

/// The stream that a caller names.
///
/// # Safety
/// It is one of the device, and lives while the handle is used.
pub(crate) unsafe fn stream_handle<'stream>(stream: myelonStream_t) -> StreamHandle<'stream> {
    // SAFETY: the caller's promise.
    unsafe { StreamHandle::from_raw(stream as u64) }
}

//! Windows of a communicator: memory of the user's that results go into without a copy.

use std::time::Duration;

use super::engine::Engine;
use super::life::DRAIN_PATIENCE;
use super::{Communicator, Operation};
use crate::bootstrap::agree;
use crate::device::DevicePtr;
use crate::error::{Error, Result};
use crate::memory::Window;

impl Communicator {
    /// Registers memory of every rank's, so that variants which can store results right into it do, for operations whose
    /// [`Operation::window`] names it. Collective: every rank registers a range of its own, of the same size, in the same order.
    ///
    /// Shape: any range of device memory. It becomes zero-copy ([`Window::is_zero_copy`]) where every rank can map every
    /// other's: an address aligned to 16 bytes on each; between processes one allocation of `cudaMalloc` or `cuMemCreate` (with a
    /// POSIX descriptor) on a GPU, memory of [`Device::allocate_shared`](crate::device::Device::allocate_shared) on the CPU.
    /// Elsewhere, and on NCCL, the window is one all the same, and operations on it run through the heap.
    ///
    /// Ordering: not on any stream; may synchronise, so never on the hot path. What [`Options::prepare`](super::Options::prepare)
    /// and [`Communicator::prepare_types`] list is prepared for windows as well, when the first is registered.
    ///
    /// Errors: [`Error::InvalidArgument`] for no memory; [`Error::PeerMismatch`] where sizes differ; those of the bootstrap.
    ///
    /// # Safety
    /// - The memory is valid until every rank has dropped its window; [`Communicator::deregister`] waits for the ranks. After an
    ///   operation that failed, until every rank has passed what it had queued by then: a kernel that was running may still store
    ///   results that this rank waits for no more. One that starts later stores none, but copies of `ring_copy_engine` come all the
    ///   same: after a failed operation of that, until the communicators of all ranks are dropped.
    /// - The window is dropped when no operation that names it is queued or running, replays of graphs included.
    pub unsafe fn register(&self, address: DevicePtr, bytes: u64) -> Result<Window> {
        match &*self.engine {
            Engine::Kernels(kernels) => {
                let window = Window::register(&self.device, &*self.bootstrap, address, bytes, self.id)?;
                if window.is_zero_copy() {
                    kernels.expect_windows(&*self.bootstrap, &self.device)?;
                }
                Ok(window)
            }
            Engine::Nccl(_) => Ok(Window::staged(address, bytes, self.id)),
        }
    }

    /// Drops a window when this communicator's operations have ended, and returns when every rank has dropped its own: then the
    /// memory can be freed. Collective. It does not know of replays of graphs: those have ended before.
    ///
    /// Errors: those of operations before, and of the bootstrap; the memory is then kept as long as [`Communicator::register`] says.
    pub fn deregister(&self, window: Window) -> Result<()> {
        let ended = loop {
            if self.order.is_idle() {
                break self.status();
            }
            if self.order.is_hidden() {
                break Err(Error::invalid(
                    "the stream of the last operation is being captured: end the capture before a window is dropped",
                ));
            }
            if let Err(error) = self.status() {
                break Err(error);
            }
            std::thread::sleep(Duration::from_micros(200));
        };
        if ended.is_err() && !self.drain(DRAIN_PATIENCE) {
            tracing::error!(rank = self.rank().0, "kernels did not end; leaking the mappings of a window");
            std::mem::forget(window);
        } else {
            drop(window);
        }
        agree(&*self.bootstrap, "dropping windows", ended)
    }

    /// Whether the window of an operation is one of this communicator's.
    pub(super) fn check_window(&self, operation: &Operation<'_>) -> Result<()> {
        match operation.window {
            Some(window) if window.communicator() != self.id => Err(Error::invalid(
                "the operation names a window of another communicator: register the memory on this one",
            )),
            _ => Ok(()),
        }
    }
}

//! A meeting of all ranks' streams.

use std::sync::Arc;

use super::Communicator;
use super::engine::Engine;
use crate::device::cache::compile_cached;
use crate::device::{Device, KernelHandle, StreamHandle};
use crate::error::Result;
use crate::types::WorldSize;
use crate::variant::{BARRIER_THREADS, barrier_kernel};

impl Communicator {
    /// Holds `stream` until the streams of all ranks have come to this barrier.
    ///
    /// Ordering: an operation as any other, queued on `stream`, with its place in the order of operations on every rank. What a
    /// rank's stream did before it is visible to what the stream of any rank does behind it, wherever that memory is mapped. The
    /// host does not wait.
    ///
    /// It needs no memory and nothing has to be prepared: its kernel is loaded when the communicator comes up. So it can be
    /// captured into a graph, also as the first operation; each replay is a barrier of its own.
    ///
    /// Errors: those of operations before this one, see [`Communicator`]; a rank that does not come within
    /// [`Options::timeout`](super::Options::timeout) is named by [`Communicator::synchronize`]. NCCL has no deadline.
    ///
    /// # Safety
    /// As [`Communicator::all_reduce`], for the stream and for captures.
    pub unsafe fn barrier(&self, stream: StreamHandle) -> Result<()> {
        self.status()?;
        self.order.issue(stream, None, || match &*self.engine {
            // SAFETY: the caller's promise is that function's.
            Engine::Kernels(kernels) => unsafe { kernels.launch_barrier(&*self.device, stream) },
            // SAFETY: as above.
            Engine::Nccl(nccl) => unsafe { nccl.barrier(stream) },
        })
    }
}

/// Compiles and loads the kernel in which streams meet.
pub(super) fn load(device: &Arc<dyn Device>, world_size: WorldSize) -> Result<KernelHandle> {
    let kernel = device.load(&compile_cached(device.compiler(), &barrier_kernel(world_size))?)?;
    // WHY: drivers load a kernel when it is first asked for, which must not be while a peer waits or a stream is captured.
    device.resident_limit(kernel, BARRIER_THREADS, 0)?;
    Ok(kernel)
}

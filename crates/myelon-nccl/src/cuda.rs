//! The calls to the driver that this library makes itself: the thread's current context, and the memory through which ranks exchange
//! a few bytes while a communicator is made. All else goes through [`myelon_ccl::device::Device`].

use std::sync::Arc;

use cudarc::driver::sys::{CUcontext, CUresult, cuCtxGetCurrent, cuCtxSetCurrent};
use cudarc::driver::{CudaContext, CudaSlice, CudaStream, DevicePtr, DevicePtrMut, DriverError};

use crate::abi::Stream;

/// Puts the thread's current context back when dropped: NCCL's functions leave it as it was.
///
/// INVARIANT: made only where the driver is loaded, for cudarc panics without it.
pub(crate) struct CurrentContext(CUcontext);

impl CurrentContext {
    pub(crate) fn keep() -> Self {
        let mut current = std::ptr::null_mut();
        // SAFETY: the result goes to a local.
        let code = unsafe { cuCtxGetCurrent(&mut current) };
        Self(if code == CUresult::CUDA_SUCCESS { current } else { std::ptr::null_mut() })
    }
}

impl Drop for CurrentContext {
    fn drop(&mut self) {
        let mut current = std::ptr::null_mut();
        // SAFETY: the result goes to a local; the context was current a moment ago, so it exists.
        unsafe {
            if cuCtxGetCurrent(&mut current) == CUresult::CUDA_SUCCESS && current != self.0 {
                cuCtxSetCurrent(self.0);
            }
        }
    }
}

/// Memory of a GPU that NCCL gathers between ranks, on a stream of its own.
pub(crate) struct Gathering {
    ordinal: usize,
    stream: Arc<CudaStream>,
    own: CudaSlice<u8>,
    all: CudaSlice<u8>,
}

impl Gathering {
    /// Memory for so many bytes of one rank, and for those of `ranks`. Uses its stream.
    pub(crate) fn new(ordinal: usize, bytes: usize, ranks: usize) -> Result<Self, String> {
        let make = || {
            let context = CudaContext::new(ordinal)?;
            // WHY: or the first stream of a context's object waits for everything on the GPU, which may wait for a rank that waits
            // here, and which loses captures.
            // SAFETY: one stream alone uses the memory.
            unsafe { context.disable_event_tracking() };
            let stream = context.new_stream()?;
            let own = stream.alloc_zeros(bytes)?;
            let all = stream.alloc_zeros(bytes * ranks)?;
            stream.synchronize()?;
            Ok(Self { ordinal, stream, own, all })
        };
        make().map_err(|error: DriverError| in_words(ordinal, error))
    }

    /// Puts the own bytes there.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> Result<(), String> {
        let put = self.stream.memcpy_htod(bytes, &mut self.own).and_then(|()| self.stream.synchronize());
        put.map_err(|error| in_words(self.ordinal, error))
    }

    /// Addresses of the own bytes and of everyone's, and the stream.
    pub(crate) fn operands(&mut self) -> (u64, u64, Stream) {
        let stream = Arc::clone(&self.stream);
        let own = self.own.device_ptr(&stream).0;
        let all = self.all.device_ptr_mut(&stream).0;
        (own, all, stream.cu_stream().cast())
    }

    /// Everyone's bytes, once the stream has passed.
    pub(crate) fn fetch(&self) -> Result<Vec<u8>, String> {
        let fetched = self.stream.clone_dtoh(&self.all).and_then(|all| self.stream.synchronize().map(|()| all));
        fetched.map_err(|error| in_words(self.ordinal, error))
    }
}

fn in_words(ordinal: usize, error: DriverError) -> String {
    format!("memory of GPU {ordinal} for the ranks' exchange: {error}")
}

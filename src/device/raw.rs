//! Addresses and handles as a device gives them out: plain numbers, to be passed by value.

use std::marker::PhantomData;

/// Address in a device's memory; a host address on the CPU device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DevicePtr(pub u64);

impl DevicePtr {
    /// The address `bytes` further on.
    pub fn offset(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }
}

macro_rules! raw_handle {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub struct $name(pub(crate) u64);
    };
}

/// A stream: `CUstream` on CUDA, a worker queue on the CPU. It lives no longer than the stream, as a reference does, so what waits for a
/// stream of its device or asks it something is safe. To a device of another kind it means nothing.
///
/// ```compile_fail,E0597
/// # fn on(device: std::sync::Arc<dyn myelon_ccl::device::Device>) -> myelon_ccl::Result<()> {
/// let handle = {
///     let stream = myelon_ccl::device::handles::Stream::new(&device)?;
///     stream.handle()
/// };
/// device.synchronize_stream(handle)
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct StreamHandle<'stream>(u64, PhantomData<&'stream ()>);

impl StreamHandle<'_> {
    /// CUDA's default stream.
    pub const DEFAULT: Self = Self(0, PhantomData);
    /// CUDA's default stream of the calling thread: on every thread another one.
    pub const PER_THREAD: Self = Self(2, PhantomData);

    /// The stream of a number that came from elsewhere: a `CUstream`'s address on CUDA.
    ///
    /// # Safety
    /// It is a stream's of the device that the handle is used with, for as long as the handle is used.
    pub const unsafe fn from_raw(raw: u64) -> Self {
        Self(raw, PhantomData)
    }

    /// The number, for other libraries.
    pub const fn raw(self) -> u64 {
        self.0
    }
}

raw_handle!(
    /// An event: `CUevent` on CUDA.
    EventHandle
);
raw_handle!(
    /// An instantiated graph: `CUgraphExec` on CUDA.
    GraphHandle
);
raw_handle!(
    /// A loaded kernel: `CUfunction` on CUDA, an entry point on the CPU.
    KernelHandle
);

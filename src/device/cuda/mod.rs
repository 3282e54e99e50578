//! The CUDA device: one NVIDIA GPU through the driver, its kernels through NVRTC.
//!
//! Nothing of CUDA is linked or needed at build time; [`locate`] finds what the machine has. The GPU's primary
//! context is used, so memory and streams of `cudarc`, of the CUDA runtime and of frameworks can be passed in as they are.
//!
//! Set `CUDA_DEVICE_MAX_CONNECTIONS=32` before the first CUDA call where several communicators or streams share a
//! GPU: with the default of 8 hardware queues, two streams that share one wait for each other, and a collective can
//! wait for a peer that is queued behind it. Myelon reads the environment and never changes it.

pub(crate) mod driver;
pub(crate) mod functions;
mod graph;
mod loaded;
pub mod locate;
mod memory;
mod module;
pub mod nvrtc;
mod nvrtc_library;
mod stream;
pub(crate) mod topology;
mod usage;
mod user_memory;

use std::os::fd::OwnedFd;
use std::sync::Arc;

use cudarc::driver::CudaContext;
use cudarc::driver::sys::CUdevice_attribute as Attribute;

use self::driver::Context;
use self::loaded::Loaded;
use super::{
    Compiler, Device, DeviceProperties, DevicePtr, EventHandle, Export, GraphHandle, HostBlock, KernelHandle,
    KernelImage, LaunchShape, SharedBlock, StreamHandle,
};
use crate::error::{Error, Result};

pub use self::driver::CudaVersion;
pub use self::nvrtc::Nvrtc;
pub use self::topology::{Link, Sharing, can_access_peer, device_count, devices, free_bytes, link, sharing};
pub use self::usage::{ResourceUsage, resource_usage};

/// One GPU of this process. Any thread may call it; each call makes the primary context current on its thread.
#[derive(Debug)]
pub struct CudaDevice {
    context: Context,
    loaded: Arc<Loaded>,
    properties: DeviceProperties,
    compiler: Nvrtc,
    /// Whether launches can be programmatically dependent: sm_90 and newer.
    has_dependent_launch: bool,
    /// Whether streams can wait for 64-bit words, and write them.
    has_value_operations: bool,
}

impl CudaDevice {
    /// The GPU with this ordinal, as `CUDA_VISIBLE_DEVICES` counts them.
    ///
    /// Errors: [`Error::LibraryMissing`] without the driver or NVRTC, [`Error::InvalidArgument`] where there is no such
    /// GPU, [`Error::Unsupported`] for an environment or a GPU that cannot work, [`Error::Driver`] for the rest.
    pub fn new(ordinal: u32) -> Result<Arc<Self>> {
        check_environment()?;
        let device = topology::device(ordinal)?;
        let properties = topology::properties(device, ordinal)?;
        let (major, _) = topology::compute_capability(device)?;
        if major < 7 {
            // WHY: 7.0 is the first architecture with the PTX memory model that every ordering here rests on.
            return Err(Error::unsupported(format!(
                "{} is {}: Myelon needs compute capability 7.0 or newer",
                properties.name, properties.arch
            )));
        }
        let compiler = Nvrtc::for_driver(&properties.arch, driver::driver()?.version)?;
        let has_value_operations =
            topology::attribute(device, Attribute::CU_DEVICE_ATTRIBUTE_CAN_USE_64_BIT_STREAM_MEM_OPS)? != 0;
        let context = Context::new(ordinal)?;
        let loaded = Loaded::on(ordinal, &context);
        let has_dependent_launch = major >= 9;
        Ok(Arc::new(Self { context, loaded, properties, compiler, has_dependent_launch, has_value_operations }))
    }

    /// The primary context, for code that uses `cudarc` on the same GPU.
    pub fn context(&self) -> &Arc<CudaContext> {
        self.context.inner()
    }
}

/// Refuses settings under which collectives cannot run.
///
/// Errors: [`Error::Unsupported`] with `CUDA_LAUNCH_BLOCKING=1`: each launch would wait for its kernel, and a process
/// with several ranks for a peer that it has not launched yet.
pub fn check_environment() -> Result<()> {
    check_launch_blocking(std::env::var("CUDA_LAUNCH_BLOCKING").ok().as_deref())
}

fn check_launch_blocking(value: Option<&str>) -> Result<()> {
    match value.map(str::trim) {
        None | Some("" | "0") => Ok(()),
        Some(value) => Err(Error::unsupported(format!(
            "CUDA_LAUNCH_BLOCKING={value} makes a launch wait for its kernel, so ranks wait for each other forever: unset it"
        ))),
    }
}

impl Device for CudaDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn compiler(&self) -> &dyn Compiler {
        &self.compiler
    }

    fn load(&self, image: &KernelImage) -> Result<KernelHandle> {
        self.loaded.kernel(image)
    }

    fn resident_limit(&self, kernel: KernelHandle, block: u32, shared_bytes: u32) -> Result<u32> {
        let resident = module::resident_per_multiprocessor(&self.context, kernel, block, shared_bytes)?;
        Ok(resident * self.properties.multiprocessors)
    }

    unsafe fn launch(&self, kernel: KernelHandle, shape: LaunchShape, args: &[u8], stream: StreamHandle) -> Result<()> {
        let shape = LaunchShape { dependent: shape.dependent && self.has_dependent_launch, ..shape };
        // SAFETY: the caller's promise is the same.
        unsafe { module::launch(&self.context, kernel, shape, args, stream) }
    }

    fn allocate(&self, bytes: u64) -> Result<DevicePtr> {
        memory::allocate(&self.context, bytes)
    }

    unsafe fn free(&self, address: DevicePtr) {
        // SAFETY: the caller's promise is the same.
        unsafe { memory::free(&self.context, address) }
    }

    fn allocate_shared(&self, bytes: u64) -> Result<SharedBlock> {
        memory::allocate_shared(&self.context, bytes)
    }

    fn export_shared(&self, block: &SharedBlock) -> Result<OwnedFd> {
        memory::export_shared(&self.context, block)
    }

    fn import_shared(&self, fd: OwnedFd, bytes: u64) -> Result<SharedBlock> {
        memory::import_shared(&self.context, fd, bytes)
    }

    fn grant_access(&self, block: &SharedBlock) -> Result<()> {
        memory::grant_access(&self.context, block)
    }

    fn export(&self, address: DevicePtr, bytes: u64) -> Result<Export> {
        user_memory::export(&self.context, address, bytes)
    }

    fn import(&self, export: Export, bytes: u64) -> Result<SharedBlock> {
        user_memory::import(&self.context, export, bytes)
    }

    fn reach(&self, address: DevicePtr, bytes: u64) -> Result<()> {
        user_memory::reach(&self.context, address, bytes)
    }

    fn allocate_host(&self, bytes: u64) -> Result<HostBlock> {
        memory::allocate_host(&self.context, bytes)
    }

    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: u64, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::copy(&self.context, destination, source, bytes, stream) }
    }

    unsafe fn copy_words(
        &self,
        destination: DevicePtr,
        source: DevicePtr,
        words: u64,
        stream: StreamHandle,
    ) -> Result<()> {
        // WHY: GPUs and their copy engines move aligned words whole.
        // SAFETY: the caller's promise is the same.
        unsafe { stream::copy(&self.context, destination, source, words * size_of::<u64>() as u64, stream) }
    }

    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: u64, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::fill(&self.context, destination, byte, bytes, stream) }
    }

    fn has_value_operations(&self) -> bool {
        self.has_value_operations
    }

    unsafe fn wait_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::wait_value(&self.context, address, value, stream) }
    }

    unsafe fn write_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::write_value(&self.context, address, value, stream) }
    }

    fn create_stream(&self) -> Result<StreamHandle<'static>> {
        stream::create(&self.context)
    }

    unsafe fn destroy_stream(&self, stream: StreamHandle) {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::destroy(&self.context, stream) }
    }

    fn stream_number(&self, stream: StreamHandle) -> Result<u64> {
        stream::number(&self.context, stream)
    }

    fn stream_is_idle(&self, stream: StreamHandle) -> Result<bool> {
        stream::is_idle(&self.context, stream)
    }

    fn synchronize_stream(&self, stream: StreamHandle) -> Result<()> {
        stream::synchronize(&self.context, stream)
    }

    fn create_event(&self) -> Result<EventHandle> {
        stream::create_event(&self.context)
    }

    unsafe fn destroy_event(&self, event: EventHandle) {
        // SAFETY: the caller's promise is the same.
        unsafe { stream::destroy_event(&self.context, event) }
    }

    fn record_event(&self, event: EventHandle, stream: StreamHandle) -> Result<()> {
        stream::record(&self.context, event, stream)
    }

    fn record_everything(&self, event: EventHandle) -> Result<bool> {
        stream::record_everything(&self.context, event)
    }

    fn wait_event(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        stream::wait(&self.context, stream, event)
    }

    fn event_is_reached(&self, event: EventHandle) -> Result<bool> {
        stream::is_reached(&self.context, event)
    }

    fn elapsed_ns(&self, start: EventHandle, end: EventHandle) -> Result<u64> {
        stream::elapsed_ns(&self.context, start, end)
    }

    fn capture_of(&self, stream: StreamHandle) -> Result<Option<u64>> {
        graph::capture_of(&self.context, stream)
    }

    fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        graph::begin(&self.context, stream)
    }

    fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        graph::end(&self.context, stream)
    }

    fn launch_graph(&self, graph: GraphHandle, stream: StreamHandle) -> Result<()> {
        graph::launch(&self.context, graph, stream)
    }

    unsafe fn destroy_graph(&self, graph: GraphHandle) {
        // SAFETY: the caller's promise is the same.
        unsafe { graph::destroy(&self.context, graph) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocking_launches_are_refused_with_the_fix() {
        for harmless in [None, Some(""), Some("0")] {
            assert!(check_launch_blocking(harmless).is_ok());
        }
        let message = check_launch_blocking(Some("1")).unwrap_err().to_string();
        assert!(message.contains("CUDA_LAUNCH_BLOCKING=1") && message.contains("unset it"), "{message}");
    }

    #[test]
    fn a_machine_without_a_driver_says_so_instead_of_panicking() {
        match CudaDevice::new(u32::MAX) {
            Err(Error::LibraryMissing { library: "libcuda", searched, .. }) => assert!(!searched.is_empty()),
            Err(error @ Error::InvalidArgument(_)) => assert!(error.to_string().contains("there is no GPU"), "{error}"),
            other => panic!("{other:?}"),
        }
    }
}

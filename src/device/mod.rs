//! What a communicator needs of a machine, and the two kinds that give it: `cuda` and `cpu`.
//!
//! [`Device`] is object-safe and speaks in raw handles; [`handles`] wraps them in owners. Everything above this
//! floor is written against the trait, so the same runtime drives GPUs and the CPU form of the same kernels.

pub mod cache;
pub mod captures;
pub mod cpu;
pub mod cuda;
pub mod handles;
mod properties;
mod raw;
pub mod source;

use std::any::Any;
use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::error::Result;

pub use properties::{DeviceKind, DeviceProperties};
pub use raw::{DevicePtr, EventHandle, GraphHandle, KernelHandle, StreamHandle};

/// Grid of a launch. One-dimensional: a CTA is a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LaunchShape {
    /// CTAs.
    pub grid: u32,
    /// Threads a CTA.
    pub block: u32,
    /// Dynamic shared memory a CTA, in bytes.
    pub shared_bytes: u32,
    /// Ask for programmatic dependent launch (CUDA, sm_90 and newer; ignored elsewhere).
    pub dependent: bool,
}

/// One kernel to compile: a generated entry file over the tree `cuda/` ([`source::files`]).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct KernelSource {
    /// What it is, for logs and errors: `one_shot_push<f32, sum, 4 ranks, 256 threads>`.
    pub name: String,
    /// The entry file: defines and one `#include` of a file below `cuda/`. Exports `myelon_kernel`.
    pub entry: String,
}

/// A compiled kernel on disk, ready to load.
#[derive(Clone, Debug)]
pub struct KernelImage {
    /// As in [`KernelSource::name`].
    pub name: String,
    /// CUBIN on CUDA, shared object on the CPU. What is in the file does not change.
    pub path: std::path::PathBuf,
}

/// Turns one [`KernelSource`] into machine code for one target.
pub trait Compiler: Send + Sync + fmt::Debug {
    /// Everything that changes the output for equal sources: compiler version, options, architecture. Part of the cache key.
    fn identity(&self) -> String;

    /// Ending of the compiled file: `cubin` or `so`.
    fn extension(&self) -> &'static str;

    /// Compiles `source`; writes the result to `output`, which nobody else sees yet.
    ///
    /// Errors: [`crate::Error::Compile`] with the compiler's log.
    fn compile(&self, source: &KernelSource, output: &Path) -> Result<()>;
}

/// Memory that peers can reach; given back when dropped, but never while another holder lives.
#[derive(Clone)]
pub struct SharedBlock {
    /// First byte as this process maps it, valid for every device of the process that was granted access.
    pub address: DevicePtr,
    /// Size asked for; the mapping may be larger.
    pub bytes: u64,
    /// Keeps the mapping alive; the device that made it knows the type.
    pub owner: Arc<dyn Any + Send + Sync>,
}

impl fmt::Debug for SharedBlock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedBlock")
            .field("address", &self.address)
            .field("bytes", &self.bytes)
            .finish_non_exhaustive()
    }
}

/// How another process maps memory that was not made to be shared.
#[derive(Debug)]
pub struct Export {
    /// What travels as bytes.
    pub card: ExportCard,
    /// The allocation, where it travels as a descriptor.
    pub fd: Option<OwnedFd>,
}

/// Of an [`Export`], what is plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExportCard {
    /// Size of the allocation.
    pub allocation_bytes: u64,
    /// Where the exported range begins in it.
    pub offset: u64,
    /// CUDA's legacy handle of the allocation, where it has no descriptor.
    pub ipc_handle: Option<Vec<u8>>,
}

/// Host memory that kernels of one device can read and write.
#[derive(Debug)]
pub struct HostBlock {
    /// First byte for the host; aligned to a page, zeroed at creation.
    pub host: *mut u8,
    /// The same byte for kernels.
    pub device: DevicePtr,
    /// Keeps the memory alive.
    pub owner: Arc<dyn Any + Send + Sync>,
}

// SAFETY: the block is plain memory without thread affinity; all access goes through atomics or volatile reads by its users.
unsafe impl Send for HostBlock {}
// SAFETY: as above.
unsafe impl Sync for HostBlock {}

/// One GPU, or the CPU standing in for one.
///
/// Handles passed in must come from this device and still exist; that is the common safety contract of the
/// `unsafe` methods. Methods that take a stream are asynchronous and ordered by it unless they say otherwise.
pub trait Device: Send + Sync + fmt::Debug {
    /// What the device is.
    fn properties(&self) -> &DeviceProperties;

    /// The compiler whose output [`Device::load`] takes.
    fn compiler(&self) -> &dyn Compiler;

    /// Loads a compiled kernel, for as long as the device lives. A GPU has one copy of what is loaded from one file, whoever asks.
    fn load(&self, image: &KernelImage) -> Result<KernelHandle>;

    /// CTAs of this shape that are resident together on the whole device.
    fn resident_limit(&self, kernel: KernelHandle, block: u32, shared_bytes: u32) -> Result<u32>;

    /// Launches `myelon_kernel` with one by-value argument struct.
    ///
    /// # Safety
    /// `args` are the bytes of the struct the kernel expects, and the addresses in it stay valid until the kernel ends.
    unsafe fn launch(&self, kernel: KernelHandle, shape: LaunchShape, args: &[u8], stream: StreamHandle) -> Result<()>;

    /// Plain device memory, 256-byte aligned, contents undefined. May synchronise: never on the hot path.
    fn allocate(&self, bytes: u64) -> Result<DevicePtr>;

    /// Gives back memory of [`Device::allocate`].
    ///
    /// # Safety
    /// Nothing that runs or is queued still uses it.
    unsafe fn free(&self, address: DevicePtr);

    /// Zeroed memory that peers of this and of other processes can map.
    fn allocate_shared(&self, bytes: u64) -> Result<SharedBlock>;

    /// A file descriptor that another process can pass to [`Device::import_shared`].
    fn export_shared(&self, block: &SharedBlock) -> Result<OwnedFd>;

    /// Maps a block that a peer process exported.
    fn import_shared(&self, fd: OwnedFd, bytes: u64) -> Result<SharedBlock>;

    /// Lets kernels of this device reach a block that another device of this process allocated.
    fn grant_access(&self, block: &SharedBlock) -> Result<()>;

    /// What other processes need to map a range of this device's memory, whoever allocated it.
    ///
    /// Errors: for memory that cannot be exported: on CUDA what is no one allocation, or neither `cudaMalloc`'s nor made with a
    /// POSIX descriptor; on the CPU what [`Device::allocate_shared`] did not make.
    fn export(&self, address: DevicePtr, bytes: u64) -> Result<Export>;

    /// Maps the range of `bytes` that a peer process exported, for kernels of this device.
    fn import(&self, export: Export, bytes: u64) -> Result<SharedBlock>;

    /// Lets kernels of this device reach a range that is another device's of this process, whoever allocated it.
    ///
    /// Errors: on CUDA as [`Device::export`], but for descriptors, and where the GPUs have no peer access.
    fn reach(&self, address: DevicePtr, bytes: u64) -> Result<()>;

    /// Zeroed host memory that kernels can reach.
    fn allocate_host(&self, bytes: u64) -> Result<HostBlock>;

    /// Copies between any two addresses this device can reach, host memory included.
    ///
    /// # Safety
    /// Both ranges are valid until the stream passes the copy; host memory is not touched meanwhile.
    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: u64, stream: StreamHandle) -> Result<()>;

    /// As [`Device::copy`], of `u64` words that kernels may store meanwhile: each comes whole, in no order.
    ///
    /// # Safety
    /// As [`Device::copy`]; both addresses are aligned, and whoever writes the source meanwhile does so atomically, a word at a time.
    unsafe fn copy_words(
        &self,
        destination: DevicePtr,
        source: DevicePtr,
        words: u64,
        stream: StreamHandle,
    ) -> Result<()>;

    /// Sets every byte of a range.
    ///
    /// # Safety
    /// The range is valid until the stream passes the fill.
    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: u64, stream: StreamHandle) -> Result<()>;

    /// Whether [`Device::wait_value`] and [`Device::write_value`] work here.
    fn has_value_operations(&self) -> bool;

    /// Makes later work of the stream wait until the word at `address` is at least `value`. What was stored before a release of
    /// that value is visible to it. Nothing but the word ends the wait.
    ///
    /// # Safety
    /// `address` is that of an aligned `u64` in memory of this device, valid until the stream passes the wait; whoever writes the word
    /// meanwhile does so atomically.
    unsafe fn wait_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()>;

    /// Stores `value` to the word at `address`, behind all earlier work of the stream: whoever acquires it sees what that wrote,
    /// on any device.
    ///
    /// # Safety
    /// `address` is that of an aligned `u64` that this device can reach, valid until the stream passes the write; whoever reads the
    /// word meanwhile does so atomically.
    unsafe fn write_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()>;

    /// A new stream, independent of the default stream.
    fn create_stream(&self) -> Result<StreamHandle<'static>>;

    /// Gives a stream back once its work is done.
    ///
    /// # Safety
    /// Made by [`Device::create_stream`], and not used afterwards.
    unsafe fn destroy_stream(&self, stream: StreamHandle);

    /// A number that no other stream of the process has or will have, as its handle may: that of a stream that is gone is given out again,
    /// and one handle stands for the default streams of all threads.
    ///
    /// Errors: where the stream is being captured, which invalidates the capture.
    fn stream_number(&self, stream: StreamHandle) -> Result<u64>;

    /// Whether everything queued on the stream has finished.
    fn stream_is_idle(&self, stream: StreamHandle) -> Result<bool>;

    /// Blocks the calling thread until everything queued on the stream has finished.
    fn synchronize_stream(&self, stream: StreamHandle) -> Result<()>;

    /// A new event that keeps time.
    fn create_event(&self) -> Result<EventHandle>;

    /// Gives an event back.
    ///
    /// # Safety
    /// Made by [`Device::create_event`], and not used afterwards.
    unsafe fn destroy_event(&self, event: EventHandle);

    /// Marks the current end of a stream.
    fn record_event(&self, event: EventHandle, stream: StreamHandle) -> Result<()>;

    /// Marks the current end of everything that this process has queued on the device, replays of graphs included. False where the
    /// driver cannot. A stream that is being captured makes it fail, and on a GPU loses its capture.
    fn record_everything(&self, event: EventHandle) -> Result<bool>;

    /// Makes later work of `stream` wait for the event's last record. A never recorded event holds nothing up.
    fn wait_event(&self, stream: StreamHandle, event: EventHandle) -> Result<()>;

    /// Whether the event's last record has been reached.
    fn event_is_reached(&self, event: EventHandle) -> Result<bool>;

    /// Nanoseconds between two reached events.
    fn elapsed_ns(&self, start: EventHandle, end: EventHandle) -> Result<u64>;

    /// The capture that the stream takes part in, by a number that no other capture of the process has; none outside captures.
    fn capture_of(&self, stream: StreamHandle) -> Result<Option<u64>>;

    /// Whether the stream is being captured into a graph.
    fn is_capturing(&self, stream: StreamHandle) -> Result<bool> {
        Ok(self.capture_of(stream)?.is_some())
    }

    /// Starts recording the stream's work instead of running it. Capture is thread-local. A stream that waits for an event which
    /// was recorded in the capture joins it, and its work is a branch of the graph.
    fn begin_capture(&self, stream: StreamHandle) -> Result<()>;

    /// Ends a capture, on the stream it began on; the graph can be launched any number of times.
    ///
    /// Errors: where that stream has not waited for all work of the streams that joined.
    fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle>;

    /// Queues everything the graph holds.
    fn launch_graph(&self, graph: GraphHandle, stream: StreamHandle) -> Result<()>;

    /// Gives a graph back.
    ///
    /// # Safety
    /// No launch of it is queued or running, and it is not used afterwards.
    unsafe fn destroy_graph(&self, graph: GraphHandle);
}

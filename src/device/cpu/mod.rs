//! The CPU as a device: the same kernel sources, a fiber per CUDA thread, a thread per stream.
//!
//! A machine without a GPU runs every variant for real on it, slowly; sanitizers and injected delays see the real
//! kernels. `MYELON_CPU_DELAYS` is the seed of those delays (a number; unset or 0 for none), `MYELON_CPU_SANITIZE` and
//! `MYELON_CPU_DEFINES` change how kernels are compiled ([`CpuCompiler::from_environment`]).
//!
//! Kernels run inside the process: one that writes where it may not ends the process, as nothing stops it.

mod capture;
mod compiler;
mod host;
mod kernel;
mod memory;
mod queue;
mod stream;
mod table;
pub(crate) mod tsan;

use std::env;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::available_parallelism;
use std::time::Instant;

use self::capture::Graph;
use self::kernel::{Arguments, Kernel, LaunchSite};
use self::memory::{Heap, Mapping, SharedMappings, check_range, check_word};
use self::queue::{Item, locked};
use self::stream::{Event, Stream};
use self::table::Table;
use crate::device::{
    Compiler, Device, DeviceKind, DeviceProperties, DevicePtr, EventHandle, Export, ExportCard, GraphHandle, HostBlock,
    KernelHandle, KernelImage, LaunchShape, SharedBlock, StreamHandle,
};
use crate::error::{Error, Result};

pub use compiler::{CpuCompiler, Sanitizer, version_line};
pub(crate) use host::processor_name;
pub use host::wrong_variables;

/// Most threads of a CTA, as on every GPU.
const MAX_BLOCK: u32 = 1024;
/// Most dynamic shared memory of a CTA: an H100's 227 KiB, so that what runs here runs there.
const MAX_SHARED_BYTES: u32 = 227 << 10;
/// Most CUDA threads at once. All CTAs are resident here, however many; this keeps grids in proportion.
const MAX_THREADS: u32 = 1 << 16;

/// One CPU device. Several in a process are several ranks' devices, and share the processor.
#[derive(Debug)]
pub struct CpuDevice {
    properties: DeviceProperties,
    compiler: CpuCompiler,
    site: Arc<LaunchSite>,
    heap: Heap,
    shared: SharedMappings,
    default_stream: Mutex<Option<Arc<Stream>>>,
    streams: Table<Stream>,
    streams_made: AtomicU32,
    events: Table<Event>,
    graphs: Table<Graph>,
    kernels: Table<Kernel>,
}

impl CpuDevice {
    /// The device of this number, configured by the environment.
    ///
    /// Two devices of one number are two devices. Errors: as [`CpuCompiler::from_environment`], and
    /// [`Error::Config`] for a `MYELON_CPU_DELAYS` that is no number.
    pub fn new(ordinal: u32) -> Result<Arc<Self>> {
        let delays = host::delays()?;
        Ok(Self::with_compiler(ordinal, CpuCompiler::from_environment()?, delays))
    }

    /// A device that compiles with `compiler` and injects delays of this seed, zero for none.
    pub fn with_compiler(ordinal: u32, compiler: CpuCompiler, delay_seed: u64) -> Arc<Self> {
        let properties = DeviceProperties {
            kind: DeviceKind::Cpu,
            name: processor_name().unwrap_or_else(|| env::consts::ARCH.to_owned()),
            ordinal,
            arch: "cpu".into(),
            multiprocessors: available_parallelism().map_or(1, |count| count.get() as u32),
            identity: format!("cpu{ordinal}@{}", std::process::id()),
            driver: compiler.version().to_owned(),
        };
        Arc::new(Self {
            properties,
            compiler,
            site: LaunchSite::new(ordinal, delay_seed),
            heap: Heap::default(),
            shared: SharedMappings::default(),
            default_stream: Mutex::default(),
            streams: Table::new("stream"),
            streams_made: AtomicU32::new(0),
            events: Table::new("event"),
            graphs: Table::new("graph"),
            kernels: Table::new("kernel"),
        })
    }

    fn start_stream(&self, is_default: bool) -> Result<Arc<Stream>> {
        let number = self.streams_made.fetch_add(1, Ordering::Relaxed);
        let name = format!("myelon-cpu-{}.{number}", self.properties.ordinal);
        Stream::start(name, Arc::clone(&self.site), is_default)
    }

    fn stream(&self, handle: StreamHandle) -> Result<Arc<Stream>> {
        if handle.raw() != 0 {
            return self.streams.get(handle.raw());
        }
        let mut default = locked(&self.default_stream);
        match &*default {
            Some(stream) => Ok(Arc::clone(stream)),
            None => Ok(Arc::clone(default.insert(self.start_stream(true)?))),
        }
    }

    fn reached(&self, event: EventHandle) -> Result<Instant> {
        let reached = self.events.get(event.0)?.reached()?;
        reached.ok_or_else(|| Error::invalid(format!("event {} has not been reached: synchronise first", event.0)))
    }
}

impl Device for CpuDevice {
    fn properties(&self) -> &DeviceProperties {
        &self.properties
    }

    fn compiler(&self) -> &dyn Compiler {
        &self.compiler
    }

    fn load(&self, image: &KernelImage) -> Result<KernelHandle> {
        Ok(KernelHandle(self.kernels.insert(Arc::new(Kernel::load(image)?))))
    }

    fn resident_limit(&self, kernel: KernelHandle, block: u32, _shared_bytes: u32) -> Result<u32> {
        self.kernels.get(kernel.0)?;
        Ok(MAX_THREADS / block.clamp(1, MAX_BLOCK))
    }

    unsafe fn launch(&self, kernel: KernelHandle, shape: LaunchShape, args: &[u8], stream: StreamHandle) -> Result<()> {
        let fits = shape.grid >= 1 && (1..=MAX_BLOCK).contains(&shape.block) && shape.shared_bytes <= MAX_SHARED_BYTES;
        if !fits {
            return Err(Error::invalid(format!(
                "a launch of {} x {} threads with {} bytes of shared memory: a grid has 1 CTA or more, \
                 a CTA 1 to {MAX_BLOCK} threads and up to {MAX_SHARED_BYTES} bytes",
                shape.grid, shape.block, shape.shared_bytes
            )));
        }
        let (stream, kernel) = (self.stream(stream)?, self.kernels.get(kernel.0)?);
        stream.submit(Item::Launch { kernel, shape, arguments: Arguments::copy_of(args) })
    }

    fn allocate(&self, bytes: u64) -> Result<DevicePtr> {
        self.heap.allocate(bytes).map(DevicePtr)
    }

    unsafe fn free(&self, address: DevicePtr) {
        // SAFETY: the caller's promise.
        if !unsafe { self.heap.free(address.0) } {
            tracing::warn!(address = address.0, "memory given back that this cpu device had not allocated");
        }
    }

    fn allocate_shared(&self, bytes: u64) -> Result<SharedBlock> {
        let mapping = Arc::new(Mapping::shared(bytes)?);
        self.shared.insert(&mapping);
        Ok(shared_block(mapping, bytes))
    }

    fn export_shared(&self, block: &SharedBlock) -> Result<OwnedFd> {
        let file = block.owner.downcast_ref::<Mapping>().and_then(Mapping::duplicate_file);
        let file = file.ok_or_else(|| Error::invalid("the block to export is not shared memory of a cpu device"))?;
        file.map_err(|error| Error::io("duplicating the descriptor of a shared block", error))
    }

    fn import_shared(&self, fd: OwnedFd, bytes: u64) -> Result<SharedBlock> {
        Ok(shared_block(Arc::new(Mapping::of_file(fd, bytes)?), bytes))
    }

    fn grant_access(&self, block: &SharedBlock) -> Result<()> {
        // All threads of the process reach it anyway. ORDER: against `shared_block`.
        if let Some(mapping) = block.owner.downcast_ref::<Mapping>() {
            tsan::acquire(mapping);
        }
        Ok(())
    }

    fn export(&self, address: DevicePtr, bytes: u64) -> Result<Export> {
        let Some((mapping, offset)) = self.shared.find(address.0, bytes) else {
            return Err(Error::unsupported(format!(
                "{bytes} bytes at {:#x} of a cpu device were not allocated to be shared",
                address.0
            )));
        };
        let file = mapping.duplicate_file().transpose();
        let fd = file.map_err(|error| Error::io("duplicating the descriptor of a shared block", error))?;
        let card = ExportCard { allocation_bytes: mapping.length() as u64, offset, ipc_handle: None };
        Ok(Export { card, fd })
    }

    fn import(&self, export: Export, bytes: u64) -> Result<SharedBlock> {
        let Export { card: ExportCard { allocation_bytes, offset, .. }, fd } = export;
        let fd = fd.ok_or_else(|| Error::invalid("memory of a cpu device is passed by a descriptor, and none came"))?;
        let block = self.import_shared(fd, allocation_bytes)?;
        Ok(SharedBlock { address: block.address.offset(offset), bytes, ..block })
    }

    fn reach(&self, _address: DevicePtr, _bytes: u64) -> Result<()> {
        // All threads of the process do.
        Ok(())
    }

    fn allocate_host(&self, bytes: u64) -> Result<HostBlock> {
        let mapping = Mapping::private(bytes)?;
        let host = mapping.address();
        Ok(HostBlock { host, device: DevicePtr(host as u64), owner: Arc::new(mapping) })
    }

    unsafe fn copy(&self, destination: DevicePtr, source: DevicePtr, bytes: u64, stream: StreamHandle) -> Result<()> {
        let item = Item::Copy { destination: destination.0, source: source.0, bytes: bytes as usize };
        check_range("destination", destination, bytes)?;
        check_range("source", source, bytes)?;
        self.stream(stream)?.submit(item)
    }

    unsafe fn copy_words(
        &self,
        destination: DevicePtr,
        source: DevicePtr,
        words: u64,
        stream: StreamHandle,
    ) -> Result<()> {
        check_word(destination)?;
        check_word(source)?;
        self.stream(stream)?.submit(Item::CopyWords { destination: destination.0, source: source.0, words })
    }

    unsafe fn fill(&self, destination: DevicePtr, byte: u8, bytes: u64, stream: StreamHandle) -> Result<()> {
        check_range("destination", destination, bytes)?;
        self.stream(stream)?.submit(Item::Fill { destination: destination.0, byte, bytes: bytes as usize })
    }

    fn has_value_operations(&self) -> bool {
        true
    }

    unsafe fn wait_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        check_word(address)?;
        self.stream(stream)?.submit(Item::WaitValue { address: address.0, value })
    }

    unsafe fn write_value(&self, address: DevicePtr, value: u64, stream: StreamHandle) -> Result<()> {
        check_word(address)?;
        self.stream(stream)?.submit(Item::WriteValue { address: address.0, value })
    }

    fn create_stream(&self) -> Result<StreamHandle<'static>> {
        // SAFETY: a number that is looked up at each use.
        Ok(unsafe { StreamHandle::from_raw(self.streams.insert(self.start_stream(false)?)) })
    }

    unsafe fn destroy_stream(&self, stream: StreamHandle) {
        self.streams.remove(stream.raw());
    }

    /// Handles are given out once.
    fn stream_number(&self, stream: StreamHandle) -> Result<u64> {
        self.stream(stream)?.refuse_while_capturing("asking for the number of a stream")?;
        Ok(stream.raw())
    }

    fn stream_is_idle(&self, stream: StreamHandle) -> Result<bool> {
        self.stream(stream)?.is_idle()
    }

    fn synchronize_stream(&self, stream: StreamHandle) -> Result<()> {
        self.stream(stream)?.synchronize()
    }

    fn create_event(&self) -> Result<EventHandle> {
        Ok(EventHandle(self.events.insert(Arc::default())))
    }

    unsafe fn destroy_event(&self, event: EventHandle) {
        self.events.remove(event.0);
    }

    fn record_event(&self, event: EventHandle, stream: StreamHandle) -> Result<()> {
        self.events.get(event.0)?.record(&*self.stream(stream)?)
    }

    fn record_everything(&self, event: EventHandle) -> Result<bool> {
        let mut streams = self.streams.all();
        streams.extend(locked(&self.default_stream).clone());
        self.events.get(event.0)?.record_all(&streams)?;
        Ok(true)
    }

    fn wait_event(&self, stream: StreamHandle, event: EventHandle) -> Result<()> {
        self.events.get(event.0)?.hold(&self.stream(stream)?)
    }

    fn event_is_reached(&self, event: EventHandle) -> Result<bool> {
        self.events.get(event.0)?.is_reached()
    }

    fn elapsed_ns(&self, start: EventHandle, end: EventHandle) -> Result<u64> {
        let (from, to) = (self.reached(start)?, self.reached(end)?);
        let elapsed = to.checked_duration_since(from);
        let elapsed =
            elapsed.ok_or_else(|| Error::invalid(format!("event {} came before event {}", end.0, start.0)))?;
        Ok(elapsed.as_nanos() as u64)
    }

    fn capture_of(&self, stream: StreamHandle) -> Result<Option<u64>> {
        Ok(self.stream(stream)?.capture_number())
    }

    fn begin_capture(&self, stream: StreamHandle) -> Result<()> {
        self.stream(stream)?.begin_capture()
    }

    fn end_capture(&self, stream: StreamHandle) -> Result<GraphHandle> {
        Ok(GraphHandle(self.graphs.insert(Arc::new(self.stream(stream)?.end_capture()?))))
    }

    fn launch_graph(&self, graph: GraphHandle, stream: StreamHandle) -> Result<()> {
        self.stream(stream)?.launch(self.graphs.get(graph.0)?)
    }

    unsafe fn destroy_graph(&self, graph: GraphHandle) {
        self.graphs.remove(graph.0);
    }
}

fn shared_block(mapping: Arc<Mapping>, bytes: u64) -> SharedBlock {
    let address = DevicePtr(mapping.address() as u64);
    // ORDER: making a mapping counts as a write to ThreadSanitizer; against `grant_access` in another rank's thread.
    tsan::release(&*mapping);
    SharedBlock { address, bytes, owner: mapping }
}

#[cfg(test)]
mod capture_tests;
#[cfg(test)]
mod sanitize_tests;
#[cfg(test)]
mod tests;

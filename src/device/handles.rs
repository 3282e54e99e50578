//! Owners of a device's raw handles: given back on drop, never used after.

use std::sync::Arc;

use super::{Device, DevicePtr, EventHandle, GraphHandle, SharedBlock, StreamHandle};
use crate::error::Result;

/// A stream that is given back when dropped.
#[derive(Debug)]
pub struct Stream {
    device: Arc<dyn Device>,
    handle: StreamHandle<'static>,
}

impl Stream {
    /// A new stream of `device`.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self { handle: device.create_stream()?, device: Arc::clone(device) })
    }

    /// The raw handle; on CUDA a `CUstream`.
    pub fn handle(&self) -> StreamHandle<'_> {
        self.handle
    }

    /// Blocks until everything queued has finished. Says nothing about the collectives on it:
    /// that is the communicator's `synchronize`.
    pub fn synchronize(&self) -> Result<()> {
        self.device.synchronize_stream(self.handle)
    }

    /// Records what `work` queues on this stream into a graph.
    pub fn capture(&self, work: impl FnOnce() -> Result<()>) -> Result<Graph> {
        self.device.begin_capture(self.handle)?;
        let outcome = work();
        // End the capture even when `work` failed: a stream left capturing is of no use to anyone.
        let graph =
            self.device.end_capture(self.handle).map(|handle| Graph { device: Arc::clone(&self.device), handle });
        outcome.and(graph)
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        // SAFETY: made by `create_stream` of this device in `new`, and this was the only owner.
        unsafe { self.device.destroy_stream(self.handle) }
    }
}

/// An event that is given back when dropped.
#[derive(Debug)]
pub struct Event {
    device: Arc<dyn Device>,
    handle: EventHandle,
}

impl Event {
    /// A new event of `device`.
    pub fn new(device: &Arc<dyn Device>) -> Result<Self> {
        Ok(Self { handle: device.create_event()?, device: Arc::clone(device) })
    }

    /// Marks the current end of a stream.
    pub fn record(&self, stream: StreamHandle) -> Result<()> {
        self.device.record_event(self.handle, stream)
    }

    /// Marks the current end of all work of this process on the device; false where the driver cannot.
    pub fn record_everything(&self) -> Result<bool> {
        self.device.record_everything(self.handle)
    }

    /// Makes later work of `stream` wait for the last record.
    pub fn hold(&self, stream: StreamHandle) -> Result<()> {
        self.device.wait_event(stream, self.handle)
    }

    /// Whether the last record has been reached.
    pub fn is_reached(&self) -> Result<bool> {
        self.device.event_is_reached(self.handle)
    }

    /// Nanoseconds from `start` to this event; both must have been reached.
    pub fn elapsed_ns_since(&self, start: &Event) -> Result<u64> {
        self.device.elapsed_ns(start.handle, self.handle)
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made by `create_event` of this device in `new`, and this was the only owner.
        unsafe { self.device.destroy_event(self.handle) }
    }
}

/// A captured graph that is given back when dropped.
#[derive(Debug)]
pub struct Graph {
    device: Arc<dyn Device>,
    handle: GraphHandle,
}

impl Graph {
    /// Queues everything the graph holds.
    pub fn launch(&self, stream: &Stream) -> Result<()> {
        self.device.launch_graph(self.handle, stream.handle)
    }
}

impl Drop for Graph {
    fn drop(&mut self) {
        // SAFETY: made by `end_capture` of this device; the users of `launch` synchronise before dropping.
        unsafe { self.device.destroy_graph(self.handle) }
    }
}

/// Device memory that is given back when dropped.
///
/// The owner synchronises the streams that use it before dropping it.
#[derive(Debug)]
pub struct Buffer {
    device: Arc<dyn Device>,
    address: DevicePtr,
    bytes: u64,
    /// What keeps shared memory; none for plain memory.
    shared: Option<SharedBlock>,
}

impl Buffer {
    /// `bytes` bytes on `device`, contents undefined.
    pub fn new(device: &Arc<dyn Device>, bytes: u64) -> Result<Self> {
        Ok(Self { address: device.allocate(bytes.max(1))?, device: Arc::clone(device), bytes, shared: None })
    }

    /// As [`Buffer::new`], zeroed, of memory that can be registered as a zero-copy window between processes on any device.
    pub fn shared(device: &Arc<dyn Device>, bytes: u64) -> Result<Self> {
        let block = device.allocate_shared(bytes.max(1))?;
        Ok(Self { address: block.address, device: Arc::clone(device), bytes, shared: Some(block) })
    }

    /// First byte.
    pub fn address(&self) -> DevicePtr {
        self.address
    }

    /// Size in bytes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Copies `data` to the start of the buffer and waits for it.
    ///
    /// # Panics
    /// If `data` is longer than the buffer.
    pub fn upload(&self, data: &[u8], stream: &Stream) -> Result<()> {
        assert!(data.len() as u64 <= self.bytes, "upload of {} bytes into {}", data.len(), self.bytes);
        // SAFETY: both ranges outlive the synchronisation on the next line.
        unsafe { self.device.copy(self.address, DevicePtr(data.as_ptr() as u64), data.len() as u64, stream.handle)? };
        stream.synchronize()
    }

    /// Copies the start of the buffer into `data` and waits for it.
    ///
    /// # Panics
    /// If `data` is longer than the buffer.
    pub fn download(&self, data: &mut [u8], stream: &Stream) -> Result<()> {
        assert!(data.len() as u64 <= self.bytes, "download of {} bytes from {}", data.len(), self.bytes);
        // SAFETY: both ranges outlive the synchronisation on the next line.
        unsafe {
            self.device.copy(DevicePtr(data.as_mut_ptr() as u64), self.address, data.len() as u64, stream.handle)?
        };
        stream.synchronize()
    }

    /// Sets every byte, ordered by the stream.
    pub fn fill(&self, byte: u8, stream: &Stream) -> Result<()> {
        // SAFETY: the range is this buffer, which its owner keeps until the stream has passed.
        unsafe { self.device.fill(self.address, byte, self.bytes, stream.handle) }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        if self.shared.is_none() {
            // SAFETY: allocated by this device in `new`; the type's contract is that no stream still uses it.
            unsafe { self.device.free(self.address) }
        }
    }
}

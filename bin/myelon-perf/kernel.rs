//! A kernel of ours that stands for somebody else's on the device of an all-reduce.

use std::sync::Arc;

use myelon_ccl::Result;
use myelon_ccl::abi::{NEIGHBOUR_LOADS, NeighbourArgs, PACK_BYTES, bytes_of};
use myelon_ccl::device::cache::compile_cached;
use myelon_ccl::device::handles::{Buffer, Event, Stream};
use myelon_ccl::device::{Device, DeviceKind, KernelHandle, LaunchShape};
use myelon_ccl::measure::neighbour::Work;
use myelon_ccl::variant::neighbour_kernel;

/// A neighbour: a CTA on every SM.
pub(crate) struct Kernel {
    device: Arc<dyn Device>,
    handle: KernelHandle,
    shape: LaunchShape,
    args: NeighbourArgs,
    start: Event,
    end: Event,
    stream: Stream,
    /// What `args` points to.
    _memory: [Buffer; 2],
}

impl Kernel {
    /// Compiles it, and finds out how much work takes long enough.
    pub(crate) fn new(device: &Arc<dyn Device>, work: Work) -> Result<Self> {
        let properties = device.properties();
        // WHY: on a GPU, a CTA that is larger than one of the all-reduce. CTAs go where there is most room, so the first go to SMs
        // without the all-reduce, the others to SMs with it, and each has one: an uneven share would slow the neighbour by itself.
        // 1024 threads of 20 registers, given out in eights, just fit beside 512 of 80, which is what `ring` has on sm_90a.
        let (threads, bytes) = match properties.kind {
            DeviceKind::Cuda => (1024, 512 << 20),
            DeviceKind::Cpu => (64, 1 << 20),
        };
        let shape = LaunchShape { grid: properties.multiprocessors, block: threads, shared_bytes: 0, dependent: false };
        let handle = device.load(&compile_cached(device.compiler(), &neighbour_kernel(work, threads))?)?;
        let threads = u64::from(shape.grid * shape.block);
        let memory = [Buffer::new(device, bytes)?, Buffer::new(device, 8 * threads)?];
        let packs = bytes / PACK_BYTES / (threads * NEIGHBOUR_LOADS) * (threads * NEIGHBOUR_LOADS);
        let args = NeighbourArgs { data: memory[0].address().0, packs, words: memory[1].address().0, rounds: 1 };
        let (start, end, stream) = (Event::new(device)?, Event::new(device)?, Stream::new(device)?);
        memory[0].fill(1, &stream)?;
        let mut kernel = Self { device: Arc::clone(device), handle, shape, args, start, end, stream, _memory: memory };
        kernel.take_long()?;
        Ok(kernel)
    }

    /// Sets the work so that the neighbour takes most of its time beside a cold wait, but not long.
    fn take_long(&mut self) -> Result<()> {
        let aim_us = match self.device.properties().kind {
            DeviceKind::Cuda => 8000.0,
            DeviceKind::Cpu => 200.0,
        };
        loop {
            let took_us = self.alone()?;
            if took_us >= aim_us / 2.0 {
                self.args.rounds = (self.args.rounds as f64 * aim_us / took_us).max(1.0) as u64;
                return Ok(());
            }
            self.args.rounds *= 2;
        }
    }

    /// Its time when nothing else runs, microseconds.
    pub(crate) fn alone(&self) -> Result<f64> {
        self.launch()?;
        self.stream.synchronize()?;
        self.elapsed_us()
    }

    /// Queues it, between the events that time it.
    pub(crate) fn launch(&self) -> Result<()> {
        self.start.record(self.stream.handle())?;
        self.queue()?;
        self.end.record(self.stream.handle())
    }

    /// Queues it alone.
    pub(crate) fn queue(&self) -> Result<()> {
        // SAFETY: the kernel takes `NeighbourArgs`; its memory lives until `drop` has synchronised the stream.
        unsafe { self.device.launch(self.handle, self.shape, bytes_of(&self.args), self.stream.handle()) }
    }

    /// Where it is queued.
    pub(crate) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Whether what was launched last has ended.
    pub(crate) fn is_over(&self) -> Result<bool> {
        self.end.is_reached()
    }

    /// Threads of each of its CTAs.
    pub(crate) fn threads(&self) -> u32 {
        self.shape.block
    }

    /// What the last launch took, microseconds; it is over.
    pub(crate) fn elapsed_us(&self) -> Result<f64> {
        Ok(self.end.elapsed_ns_since(&self.start)? as f64 / 1e3)
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        // Fails only with the device itself.
        let _ = self.stream.synchronize();
    }
}

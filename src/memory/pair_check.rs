//! Does memory really reach? Every ordered pair of ranks stores and loads random data before anything relies on it.
//!
//! The driver's word for peer access is a capability, not a data path: an IOMMU or access-control service in between can
//! lose writes in silence. So the stores and loads here are those of the kernels.

use std::sync::Arc;

use super::SymmetricHeap;
use crate::abi::{MAX_WORLD, PACK_BYTES, PairArgs, bytes_of};
use crate::bootstrap::{Bootstrap, agree};
use crate::device::cache::compile_cached;
use crate::device::handles::Stream;
use crate::device::{Device, HostBlock, KernelHandle, KernelSource, LaunchShape};
use crate::error::{Error, Result};

/// Most bytes a pair tries.
const MOST_BYTES: u64 = 64 << 10;
const THREADS: u32 = 64;

/// Tries every pair; on failure every rank gets an error, and the one that saw it names the pair. Collective.
pub(super) fn run(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, heap: &SymmetricHeap) -> Result<()> {
    let ready = agree(bootstrap, "readying the pair check", Check::new(device, bootstrap, heap))?;
    let stored = ready.launch(device, ready.store, &ready.streams[0]);
    agree(bootstrap, "storing to every peer", stored)?;
    let checked = ready.launch(device, ready.load, &ready.streams[1]).and_then(|()| ready.verdict(bootstrap));
    // Nobody uses the area for anything else before everyone has read it.
    agree(bootstrap, "loading from every peer", checked)
}

struct Check {
    store: KernelHandle,
    load: KernelHandle,
    /// One for each kernel, so that a communicator uses an even number of streams while it comes up: the memory and its poison have one
    /// each. The driver deals streams to queues in turn as they are first used, and where the stream of a program's collectives gets one
    /// of certain queues, each second at most, the kernels of the default stream start later (docs/PERFORMANCE.md, "A training step").
    /// The default stream is not dealt, but would wait here for work of the program that may itself wait for another rank.
    streams: [Stream; 2],
    wrong: HostBlock,
    args: PairArgs,
}

impl Check {
    fn new(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, heap: &SymmetricHeap) -> Result<Self> {
        let kernel = |step: &str| {
            let entry = format!(
                "#include \"verify/pair_check.cuh\"\nnamespace myelon {{\n\
                 MYELON_KERNEL({THREADS}, PairArgs, args) {{ pair_{step}(args); }}\n}}\n"
            );
            let source = KernelSource { name: format!("pair_{step}"), entry };
            device.load(&compile_cached(device.compiler(), &source)?)
        };
        let layout = heap.layout();
        let world = u64::from(bootstrap.world_size().get());
        // The ring's slots need no particular content between operations.
        let room = u64::from(layout.lane_count) * u64::from(layout.ring_slots) * layout.slot_bytes;
        let wrong = device.allocate_host((2 * MAX_WORLD * 8) as u64)?;
        let args = PairArgs {
            heap: heap.bases(),
            scratch: layout.ring,
            bytes: (room / world).min(MOST_BYTES) / PACK_BYTES * PACK_BYTES,
            wrong: wrong.device.0,
            seed: 0x6d79_656c_6f6e,
            rank: bootstrap.rank().0,
            world_size: bootstrap.world_size().get(),
        };
        let streams = [Stream::new(device)?, Stream::new(device)?];
        Ok(Self { store: kernel("store")?, load: kernel("load")?, streams, wrong, args })
    }

    fn launch(&self, device: &Arc<dyn Device>, kernel: KernelHandle, stream: &Stream) -> Result<()> {
        let shape = LaunchShape { grid: 1, block: THREADS, shared_bytes: 0, dependent: false };
        // SAFETY: both kernels take `PairArgs`; the heaps are mapped, and the stream is waited for before anything is dropped.
        unsafe { device.launch(kernel, shape, bytes_of(&self.args), stream.handle())? };
        stream.synchronize()
    }

    fn verdict(&self, bootstrap: &dyn Bootstrap) -> Result<()> {
        let rank = bootstrap.rank();
        for peer in bootstrap.world_size().ranks() {
            let count = |index: usize| {
                // SAFETY: the block holds `2 * MAX_WORLD` words, which the kernel wrote before the stream was waited for.
                unsafe { self.wrong.host.cast::<u64>().add(index).read_volatile() }
            };
            let (came, loaded) = (count(peer.index()), count(MAX_WORLD + peer.index()));
            if came != 0 || loaded != 0 {
                return Err(Error::NoPeerAccess {
                    rank,
                    peer,
                    detail: format!(
                        "of {} packs, {came} that rank {peer} stored here came wrong and {loaded} loaded from there are wrong; \
                         check the links (nvidia-smi topo -m), and on PCIe that ACS and the IOMMU are off",
                        self.args.bytes / PACK_BYTES
                    ),
                });
            }
        }
        Ok(())
    }
}

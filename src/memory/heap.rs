//! Making a heap, and mapping every peer's: directly within a process, through file descriptors across processes.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use super::layout::peers;
use super::pair_check;
use crate::abi::{HeapLayout, MAX_WORLD, SENTINEL_BUFFERS, SENTINEL_BYTE};
use crate::bootstrap::{Bootstrap, agree, process_token};
use crate::device::handles::Stream;
use crate::device::{Device, DevicePtr, SharedBlock};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// This rank's heap and its view of every peer's, all mapped for this rank's device.
///
/// A block lives as long as anybody maps it, so a rank that is gone leaves no dangling peer behind.
#[derive(Debug)]
pub struct SymmetricHeap {
    blocks: Vec<SharedBlock>,
    layout: HeapLayout,
    bytes: u64,
    /// Whether all ranks are in this process.
    is_within_process: bool,
    _published: Published,
}

/// How a rank's block is found by its peers.
#[derive(Serialize, Deserialize)]
struct Card {
    process: u64,
    block: u64,
}

impl SymmetricHeap {
    /// Allocates this rank's heap, readies it, and maps every peer's. Collective.
    ///
    /// Every rank passes the same layout.
    ///
    /// Errors: [`Error::NoPeerAccess`] naming the peer that cannot be mapped, or whose memory does not hold what is stored
    /// there; [`Error::PeerFailed`] where that happened to another rank; those of the bootstrap.
    pub fn create(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, layout: HeapLayout, bytes: u64) -> Result<Self> {
        let allocated = device.allocate_shared(bytes).and_then(|block| {
            poison(device, &block, &layout, bootstrap.world_size())?;
            Ok(block)
        });
        let own = agree(bootstrap, "allocating heaps", allocated)?;

        // INVARIANT: the block is ready before anybody learns where it is.
        let published = Published::new(&own);
        let card = serde_json::to_vec(&Card { process: process_token(), block: published.id }).expect("plain numbers");
        let cards = bootstrap.all_gather("exchanging heap addresses", &card)?;
        let cards: Vec<Card> = cards
            .iter()
            .map(|card| serde_json::from_slice(card).map_err(|error| Error::invalid(format!("heap card: {error}"))))
            .collect::<Result<_>>()?;
        let across_processes = cards.iter().any(|card| card.process != process_token());
        let fds = if across_processes {
            let fd = agree(bootstrap, "exporting heaps", device.export_shared(&own))?;
            bootstrap.exchange_fds("exchanging heap descriptors", Some(fd.as_fd()))?
        } else {
            Vec::new()
        };
        let mapped = map_peers(device, bootstrap, &own, &cards, fds);
        // A peer of this process finds our block only while we hold it: everyone maps before anyone goes on.
        let blocks = agree(bootstrap, "mapping heaps", mapped)?;
        let heap = Self { blocks, layout, bytes, is_within_process: !across_processes, _published: published };
        pair_check::run(device, bootstrap, &heap)?;
        Ok(heap)
    }

    /// Base address of every rank's heap as this rank maps it; zero past the world size.
    pub fn bases(&self) -> [u64; MAX_WORLD] {
        let mut bases = [0; MAX_WORLD];
        for (base, block) in bases.iter_mut().zip(&self.blocks) {
            *base = block.address.0;
        }
        bases
    }

    /// Where the parts lie.
    pub fn layout(&self) -> &HeapLayout {
        &self.layout
    }

    /// Whether all ranks are in this process.
    pub fn is_within_process(&self) -> bool {
        self.is_within_process
    }

    /// Bytes of device memory that this rank contributes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// Every rank's block as this rank maps it.
fn map_peers(
    device: &Arc<dyn Device>,
    bootstrap: &dyn Bootstrap,
    own: &SharedBlock,
    cards: &[Card],
    mut fds: Vec<Option<OwnedFd>>,
) -> Result<Vec<SharedBlock>> {
    let rank = bootstrap.rank();
    let map = |(peer, card): (Rank, &Card)| {
        let unreachable = |detail: String| Error::NoPeerAccess { rank, peer, detail };
        if peer == rank {
            Ok(own.clone())
        } else if card.process == process_token() {
            let block = look_up(card.block).ok_or_else(|| unreachable("it is gone already".into()))?;
            device.grant_access(&block).map_err(|error| unreachable(error.to_string()))?;
            Ok(block)
        } else {
            let fd = fds.get_mut(peer.index()).and_then(Option::take);
            let fd = fd.ok_or_else(|| unreachable("it sent no file descriptor".into()))?;
            device.import_shared(fd, own.bytes).map_err(|error| unreachable(error.to_string()))
        }
    };
    bootstrap.world_size().ranks().zip(cards).map(map).collect()
}

fn poison(device: &Arc<dyn Device>, block: &SharedBlock, layout: &HeapLayout, world_size: WorldSize) -> Result<()> {
    if peers(world_size) == 0 {
        return Ok(());
    }
    let stream = Stream::new(device)?;
    let bytes = SENTINEL_BUFFERS * peers(world_size) * layout.sentinel_bytes;
    // SAFETY: the range lies inside the block, which nobody else knows yet and which outlives the synchronisation.
    unsafe { device.fill(block.address.offset(layout.sentinel), SENTINEL_BYTE, bytes, stream.handle())? };
    stream.synchronize()
}

/// A block that peers of this process can map without a file descriptor, as long as this lives.
#[derive(Debug)]
struct Published {
    id: u64,
}

struct Entry {
    address: DevicePtr,
    bytes: u64,
    owner: Weak<dyn Any + Send + Sync>,
}

static PUBLISHED: LazyLock<Mutex<HashMap<u64, Entry>>> = LazyLock::new(Mutex::default);

fn published() -> MutexGuard<'static, HashMap<u64, Entry>> {
    PUBLISHED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Published {
    fn new(block: &SharedBlock) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let entry = Entry { address: block.address, bytes: block.bytes, owner: Arc::downgrade(&block.owner) };
        published().insert(id, entry);
        Self { id }
    }
}

impl Drop for Published {
    fn drop(&mut self) {
        published().remove(&self.id);
    }
}

fn look_up(id: u64) -> Option<SharedBlock> {
    let published = published();
    let entry = published.get(&id)?;
    Some(SharedBlock { address: entry.address, bytes: entry.bytes, owner: entry.owner.upgrade()? })
}

//! Making a heap, and mapping every peer's: directly within a process, through file descriptors across processes.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError, Weak};

use serde::{Deserialize, Serialize};

use crate::abi::{HeapLayout, MAX_WORLD, SENTINEL_BUFFERS, SENTINEL_BYTE};
use crate::bootstrap::Bootstrap;
use crate::device::handles::Stream;
use crate::device::{Device, DevicePtr, SharedBlock};
use crate::error::{Error, Result};
use crate::types::WorldSize;

/// This rank's heap and its view of every peer's, all mapped for this rank's device.
///
/// A block lives as long as anybody maps it, so a rank that is gone leaves no dangling peer behind.
#[derive(Debug)]
pub struct SymmetricHeap {
    blocks: Vec<SharedBlock>,
    layout: HeapLayout,
    bytes: u64,
    published: u64,
}

/// How a rank's block is found by its peers.
#[derive(Serialize, Deserialize)]
struct Card {
    process: u64,
    block: u64,
    bytes: u64,
}

impl SymmetricHeap {
    /// Allocates this rank's heap, readies it, and maps every peer's. Collective.
    ///
    /// Errors: [`Error::PeerMismatch`] when sizes differ, [`Error::NoPeerAccess`] naming the peer that cannot be mapped.
    pub fn create(device: &Arc<dyn Device>, bootstrap: &dyn Bootstrap, layout: HeapLayout, bytes: u64) -> Result<Self> {
        let rank = bootstrap.rank();
        let own = device.allocate_shared(bytes)?;
        poison(device, &own, &layout, bootstrap.world_size())?;

        // INVARIANT: the block is ready before anybody learns where it is.
        let published = publish(&own);
        let card =
            serde_json::to_vec(&Card { process: process_token(), block: published, bytes }).expect("plain numbers");
        let cards = bootstrap.all_gather("exchanging heap addresses", &card)?;
        let cards: Vec<Card> = cards
            .iter()
            .map(|card| serde_json::from_slice(card).map_err(|error| Error::invalid(format!("heap card: {error}"))))
            .collect::<Result<_>>()?;
        let across_processes = cards.iter().any(|card| card.process != process_token());
        let mut fds = if across_processes {
            let fd = device.export_shared(&own)?;
            bootstrap.exchange_fds("exchanging heap descriptors", Some(fd.as_fd()))?
        } else {
            Vec::new()
        };

        let mut blocks = Vec::with_capacity(cards.len());
        for (peer, card) in bootstrap.world_size().ranks().zip(&cards) {
            if card.bytes != bytes {
                return Err(Error::PeerMismatch {
                    rank,
                    peer,
                    what: "the size of the heap".into(),
                    ours: format!("{bytes} bytes"),
                    theirs: format!("{} bytes", card.bytes),
                });
            }
            let unreachable = |detail: String| Error::NoPeerAccess { rank, peer, detail };
            let block = if peer == rank {
                own.clone()
            } else if card.process == process_token() {
                let block = look_up(card.block).ok_or_else(|| unreachable("it is gone already".into()))?;
                device.grant_access(&block).map_err(|error| unreachable(error.to_string()))?;
                block
            } else {
                let fd = fds.get_mut(peer.index()).and_then(Option::take);
                let fd = fd.ok_or_else(|| unreachable("it sent no file descriptor".into()))?;
                device.import_shared(fd, bytes).map_err(|error| unreachable(error.to_string()))?
            };
            blocks.push(block);
        }
        // A peer of this process finds our block only while we hold it: everyone maps before anyone goes on.
        bootstrap.all_gather("mapping heaps", &[])?;
        Ok(Self { blocks, layout, bytes, published })
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

    /// Bytes of device memory that this rank contributes.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for SymmetricHeap {
    fn drop(&mut self) {
        lock(&PUBLISHED).remove(&self.published);
    }
}

fn poison(device: &Arc<dyn Device>, block: &SharedBlock, layout: &HeapLayout, world_size: WorldSize) -> Result<()> {
    let stream = Stream::new(device)?;
    let bytes = SENTINEL_BUFFERS * u64::from(world_size.get()) * layout.sentinel_bytes;
    // SAFETY: the range lies inside the block, which nobody else knows yet and which outlives the synchronisation.
    unsafe { device.fill(block.address.offset(layout.sentinel), SENTINEL_BYTE, bytes, stream.handle())? };
    stream.synchronize()
}

/// A block of this process that peers of this process can map without a file descriptor.
struct Published {
    address: DevicePtr,
    bytes: u64,
    owner: Weak<dyn Any + Send + Sync>,
}

static PUBLISHED: LazyLock<Mutex<HashMap<u64, Published>>> = LazyLock::new(Mutex::default);

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn publish(block: &SharedBlock) -> u64 {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let entry = Published { address: block.address, bytes: block.bytes, owner: Arc::downgrade(&block.owner) };
    lock(&PUBLISHED).insert(id, entry);
    id
}

fn look_up(id: u64) -> Option<SharedBlock> {
    let published = lock(&PUBLISHED);
    let entry = published.get(&id)?;
    Some(SharedBlock { address: entry.address, bytes: entry.bytes, owner: entry.owner.upgrade()? })
}

/// A number that differs between processes, whatever their process namespaces.
fn process_token() -> u64 {
    static TOKEN: LazyLock<u64> = LazyLock::new(|| {
        getrandom::u64().unwrap_or_else(|_| u64::from(std::process::id()) << 32 | &raw const NEVER_READ as u64 >> 12)
    });
    static NEVER_READ: u8 = 0;
    *TOKEN
}

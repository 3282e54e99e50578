//! [`Window`]: memory of the user's that every rank maps, so that kernels can store results where they belong.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::abi::{MAX_WORLD, PACK_BYTES, mix};
use crate::bootstrap::{Bootstrap, agree, process_token};
use crate::device::{Device, DevicePtr, Export, ExportCard, SharedBlock};
use crate::error::{Error, Result};
use crate::types::Rank;

/// A range of memory that every rank of a communicator registered: each its own, all of one size.
///
/// It is zero-copy where every rank maps every other's. Where one rank's memory cannot be mapped, it is so on no rank, and
/// operations that name it run as they do without it.
///
/// Drop: unmaps the peers' memory. It comes when no operation that names the window is queued or running on this rank, replays of
/// graphs included; the memory itself is kept until every rank has dropped its window, and longer after an operation that failed: what
/// peers were running may still store there ([`Communicator::register`](crate::Communicator::register)).
#[derive(Debug)]
pub struct Window {
    address: DevicePtr,
    bytes: u64,
    communicator: u64,
    /// A hash of every rank's range: equal on all ranks, and another one for windows that were not registered together.
    identity: u64,
    mapped: Option<Mapped>,
}

/// Every rank's memory as this rank maps it.
#[derive(Debug)]
struct Mapped {
    addresses: [DevicePtr; MAX_WORLD],
    /// Keep what other processes exported.
    _blocks: Vec<SharedBlock>,
}

/// What a rank tells of its memory.
#[derive(Serialize, Deserialize)]
struct Card {
    process: u64,
    address: u64,
    bytes: u64,
    /// Or why other processes cannot map it.
    export: Result<ExportCard, String>,
}

impl Window {
    /// Maps every rank's `bytes` at its `address`. Collective; every rank passes the same size. `communicator` is a number by which
    /// to know whose it is.
    ///
    /// Errors: [`Error::InvalidArgument`] for nothing; [`Error::PeerMismatch`] where sizes differ; those of the bootstrap. Memory
    /// that cannot be mapped is none: the window is not zero-copy then, on any rank.
    pub(crate) fn register(
        device: &Arc<dyn Device>,
        bootstrap: &dyn Bootstrap,
        address: DevicePtr,
        bytes: u64,
        communicator: u64,
    ) -> Result<Self> {
        let is_range = address.0 != 0 && bytes > 0 && address.0.checked_add(bytes).is_some();
        let wrong = || Error::invalid(format!("{bytes} bytes at {:#x} are no memory to register", address.0));
        agree(bootstrap, "checking a window", if is_range { Ok(()) } else { Err(wrong()) })?;

        let (export, fd) = match device.export(address, bytes) {
            Ok(Export { card, fd }) => (Ok(card), fd),
            Err(error) => (Err(error.to_string()), None),
        };
        let own = Card { process: process_token(), address: address.0, bytes, export };
        let cards = exchange::<Card>(bootstrap, "exchanging windows", &own)?;
        let (rank, ranks) = (bootstrap.rank(), || bootstrap.world_size().ranks());
        if let Some((peer, card)) = ranks().zip(&cards).find(|(_, card)| card.bytes != bytes) {
            let (what, ours, theirs) = ("the size of a window".into(), bytes.to_string(), card.bytes.to_string());
            return Err(Error::PeerMismatch { rank, peer, what, ours, theirs });
        }
        let identity = cards.iter().fold(bytes, |hash, card| mix(mix(hash, card.process), card.address));
        let mut window = Self { address, bytes, communicator, identity, mapped: None };
        let across_processes = cards.iter().any(|card| card.process != own.process);
        // All ranks have the same cards, so they come to the same end.
        let refused = ranks().zip(&cards).find_map(|(peer, card)| Some((peer, refusal(card, across_processes)?)));
        if let Some((peer, why)) = refused {
            window.stays_staged(rank, peer, &why);
            return Ok(window);
        }
        let has_fds = across_processes && cards.iter().any(has_descriptor);
        let fds = if has_fds {
            let own = fd.as_ref().map(AsFd::as_fd);
            bootstrap.exchange_fds("exchanging window descriptors", own)
        } else {
            Ok(Vec::new())
        };
        let mapped = fds.and_then(|fds| map_peers(device, rank, &cards, fds));
        // Also the point behind which every rank has mapped every other's.
        let failure = mapped.as_ref().err().map(Error::to_string);
        let failures = exchange::<Option<String>>(bootstrap, "mapping windows", &failure)?;
        match ranks().zip(failures).find_map(|(peer, failure)| Some((peer, failure?))) {
            Some((peer, why)) => window.stays_staged(rank, peer, &why),
            None => window.mapped = mapped.ok(),
        }
        Ok(window)
    }

    /// One that nobody else maps.
    pub(crate) fn staged(address: DevicePtr, bytes: u64, communicator: u64) -> Self {
        Self { address, bytes, communicator, identity: 0, mapped: None }
    }

    fn stays_staged(&self, rank: Rank, peer: Rank, why: &str) {
        tracing::info!(
            rank = rank.0,
            bytes = self.bytes,
            "a window is not zero-copy, for memory of rank {peer}, or its view of others': {why}"
        );
    }

    /// First byte of this rank's memory.
    pub fn address(&self) -> DevicePtr {
        self.address
    }

    /// Size in bytes; equal on all ranks.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether every rank maps every other's memory; the same on all ranks.
    pub fn is_zero_copy(&self) -> bool {
        self.mapped.is_some()
    }

    /// The byte at `offset` of a rank's memory as this rank maps it; `None` past the end and where the window is not zero-copy.
    pub fn at(&self, rank: Rank, offset: u64) -> Option<DevicePtr> {
        let mapped = self.mapped.as_ref().filter(|_| offset < self.bytes)?;
        let address = mapped.addresses.get(rank.index())?;
        (address.0 != 0).then(|| address.offset(offset))
    }

    /// Where an address of this rank's memory lies in it.
    pub(crate) fn offset_of(&self, address: DevicePtr) -> u64 {
        address.0.wrapping_sub(self.address.0)
    }

    /// Whether all of a range lies in this rank's memory.
    pub(crate) fn holds(&self, address: DevicePtr, bytes: u64) -> bool {
        self.offset_of(address).checked_add(bytes).is_some_and(|end| end <= self.bytes)
    }

    /// A number by which ranks know that they mean one window.
    pub(crate) fn identity(&self) -> u64 {
        self.identity
    }

    /// Whose it is.
    pub(crate) fn communicator(&self) -> u64 {
        self.communicator
    }
}

/// Why a rank's memory cannot be mapped.
fn refusal(card: &Card, across_processes: bool) -> Option<String> {
    if !card.address.is_multiple_of(PACK_BYTES) {
        // At one offset, outputs are then aligned alike.
        return Some(format!("its address {:#x} is not aligned to {PACK_BYTES} bytes", card.address));
    }
    card.export.as_ref().err().filter(|_| across_processes).cloned()
}

fn has_descriptor(card: &Card) -> bool {
    card.export.as_ref().is_ok_and(|export| export.ipc_handle.is_none())
}

/// Every rank's memory as this rank maps it.
fn map_peers(device: &Arc<dyn Device>, rank: Rank, cards: &[Card], mut fds: Vec<Option<OwnedFd>>) -> Result<Mapped> {
    let mut mapped = Mapped { addresses: [DevicePtr(0); MAX_WORLD], _blocks: Vec::new() };
    for (peer, card) in cards.iter().enumerate() {
        let own = DevicePtr(card.address);
        mapped.addresses[peer] = if peer == rank.index() {
            own
        } else if card.process == process_token() {
            device.reach(own, card.bytes)?;
            own
        } else {
            let card_of_export = card.export.clone().map_err(Error::unsupported)?;
            let fd = fds.get_mut(peer).and_then(Option::take);
            let block = device.import(Export { card: card_of_export, fd }, card.bytes)?;
            let address = block.address;
            mapped._blocks.push(block);
            address
        };
    }
    Ok(mapped)
}

/// What every rank says, in their order. Collective.
fn exchange<T: Serialize + for<'de> Deserialize<'de>>(
    bootstrap: &dyn Bootstrap,
    phase: &'static str,
    own: &T,
) -> Result<Vec<T>> {
    let texts = bootstrap.all_gather(phase, &serde_json::to_vec(own).expect("plain data"))?;
    let parse = |text: &Vec<u8>| {
        serde_json::from_slice(text).map_err(|error| Error::Bootstrap {
            rank: bootstrap.rank(),
            phase,
            detail: format!("not what a rank says here: {error}"),
        })
    };
    texts.iter().map(parse).collect()
}

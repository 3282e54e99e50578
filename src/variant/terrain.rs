//! Where plans are made.

use super::properties::Transfer;
use super::request::Choice;
use super::shape::Lanes;
use crate::abi::{HeapLayout, MAX_LANES};
use crate::device::DeviceKind;
use crate::types::WorldSize;

/// Size from which [`Terrain::large_lanes`] bounds a message, of one rank's part where a collective has parts: it holds its lanes' SMs
/// for some 20 us and longer.
///
/// INVARIANT: a power of two, so that [`Dispatcher::sizes`](crate::table::Dispatcher::sizes) lists it.
pub const LARGE_BYTES: u64 = 4 << 20;

/// What a plan depends on besides the request: equal on all ranks of a communicator.
#[derive(Clone, Copy, Debug)]
pub struct Terrain<'a> {
    /// Kind of the devices.
    pub device: DeviceKind,
    /// Ranks.
    pub world_size: WorldSize,
    /// Layout of the heaps.
    pub layout: &'a HeapLayout,
    /// Whether sentinel mailboxes may be used.
    pub sentinel: bool,
    /// Architecture of the devices.
    pub arch: &'a str,
    /// Most lanes of messages of [`LARGE_BYTES`] and more, unless they ask for their own.
    pub large_lanes: u32,
    /// Whether streams wait for words in memory, as copies need it.
    pub value_operations: bool,
}

impl<'a> Terrain<'a> {
    /// Where sentinels may be used, streams wait for words, and large messages have as many lanes as others.
    pub fn of(device: DeviceKind, world_size: WorldSize, layout: &'a HeapLayout, arch: &'a str) -> Self {
        Self { device, world_size, layout, sentinel: true, arch, large_lanes: MAX_LANES, value_operations: true }
    }

    /// Lanes that a message of so many bytes may have which does not ask for more.
    pub(super) fn lanes_for(&self, bytes: u64) -> u32 {
        let lanes = self.layout.lane_count;
        if bytes >= LARGE_BYTES { lanes.min(self.large_lanes) } else { lanes }
    }

    /// Whether a choice that was measured elsewhere is worth taking here for so many bytes. Copies beside a ring are in all of their lanes only.
    ///
    /// 4x H200, 2026-11-27, 256 MiB in 128 and 64 lanes: `ring_with_copies` 1100 and 1251 us, `ring` 1117 and 1160
    /// (results/4x-h200/overlap-4.json).
    pub fn suits(&self, choice: &Choice, bytes: u64) -> bool {
        let keeps_lanes = match choice.shape.lanes {
            Some(Lanes::UpTo(lanes)) => lanes <= self.lanes_for(bytes),
            Some(Lanes::BySize) | None => true,
        };
        match choice.variant.transfer {
            Transfer::Kernel => true,
            Transfer::CopyEngine => self.value_operations,
            Transfer::Both => self.value_operations && keeps_lanes,
        }
    }
}

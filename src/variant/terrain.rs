//! Where plans are made.

use super::manifest::VariantSpec;
use super::properties::Capacity;
use crate::abi::{HeapLayout, MAX_LANES};
use crate::device::DeviceKind;
use crate::types::WorldSize;

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
    /// Most lanes of what goes round a ring, unless it asks for its own.
    pub ring_lanes: u32,
}

impl<'a> Terrain<'a> {
    /// Where sentinels may be used, and rings have as many lanes as anything.
    pub fn of(device: DeviceKind, world_size: WorldSize, layout: &'a HeapLayout, arch: &'a str) -> Self {
        Self { device, world_size, layout, sentinel: true, arch, ring_lanes: MAX_LANES }
    }

    /// Lanes that a variant may have which does not ask for more.
    pub(super) fn lanes_for(&self, spec: &VariantSpec) -> u32 {
        let lanes = self.layout.lane_count;
        if spec.capacity == Capacity::Unbounded { lanes.min(self.ring_lanes) } else { lanes }
    }
}

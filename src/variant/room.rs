//! What a heap has room for.

use std::sync::Arc;

use super::manifest::VariantSpec;
use super::properties::{Capacity, Transfer};
use super::request::Choice;
use super::shape::{Lanes, Shape};
use super::share::whole_lines;
use crate::abi::HeapLayout;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::Output;

/// The slots of all lanes together.
pub(super) fn slot_region(layout: &HeapLayout) -> u64 {
    u64::from(layout.lane_count) * u64::from(layout.ring_slots) * layout.slot_bytes
}

/// The largest chunk: a lane's slot, or, for copies, half of all slots together, so that one is filled while one is reduced. What
/// lands in outputs needs no slots.
pub(super) fn most_chunk(spec: &VariantSpec, output: Option<Output>, layout: &HeapLayout) -> u64 {
    match (spec.transfer, output) {
        (Transfer::Kernel, _) => layout.slot_bytes,
        (Transfer::CopyEngine, Some(Output::Landing)) => u64::MAX,
        (Transfer::CopyEngine, _) => slot_region(layout) / 2,
    }
}

/// What a copy brings where no slot bounds it, unless the caller says: a shard goes in four, so that all but the first travel while
/// another is reduced, and their starts are few. 2x H200, 2026-11-26, 16 lanes of 1024 threads: 256 MiB in copies of 16, 32, 64 MiB 330,
/// 348, 270 GB/s; 1 GiB in copies of 32, 64, 128, 256 MiB 362, 374, 381, 303.
pub(super) fn landing_chunk(bytes: u64, world: u64) -> u64 {
    (bytes / (4 * world)).clamp(4 << 20, 256 << 20)
}

/// What bounds one launch besides its variant.
pub(super) struct LaunchRoom {
    /// Shards that a message is cut into, one a rank; one where a message is one rank's part, or goes to all as it is.
    pub(super) shards: u64,
    /// Of one mailbox of the kind that it uses.
    pub(super) mailbox_bytes: u64,
    pub(super) most_lanes: u32,
    pub(super) chunk_bytes: u64,
    /// Whether each step of a ring is a launch of its own.
    pub(super) launch_per_step: bool,
}

/// What one launch holds.
pub(super) struct Held {
    pub(super) bytes: u64,
    /// Of them, what a lane holds.
    pub(super) lane_bytes: u64,
    /// Packs that make a lane worth its launch.
    pub(super) lane_packs: u64,
}

impl LaunchRoom {
    pub(super) fn of(&self, capacity: Capacity, layout: &HeapLayout) -> Held {
        let Self { shards, mailbox_bytes, chunk_bytes, .. } = *self;
        let lanes = u64::from(self.most_lanes);
        let (bytes, lane_bytes, lane_packs) = match capacity {
            Capacity::Mailbox => (mailbox_bytes, u64::MAX, 1),
            Capacity::MailboxShards => (shards * whole_lines(mailbox_bytes / 2), u64::MAX, shards),
            Capacity::Staging => (lanes * layout.staging_bytes, layout.staging_bytes, 1),
            // A step that is a launch of its own leaves a chunk of each shard in a lane's slots.
            Capacity::Unbounded if self.launch_per_step => (lanes * shards * chunk_bytes, shards * chunk_bytes, shards),
            Capacity::Unbounded => (u64::MAX, u64::MAX, shards),
            Capacity::Steps => (u64::MAX, u64::MAX, 1),
            // One rank copies nothing.
            Capacity::Copies => {
                let rounds = layout.copy_count.checked_div(2 * shards - 2);
                (rounds.map_or(u64::MAX, |rounds| rounds * shards * chunk_bytes), u64::MAX, shards)
            }
        };
        Held { bytes, lane_bytes, lane_packs }
    }
}

/// A choice runs as it is or is refused, for what is measured must be what was asked for. A tuning is bounded instead.
pub(super) fn check_room(spec: &VariantSpec, asked: &Shape, layout: &HeapLayout) -> Result<()> {
    let lanes = asked.lanes.and_then(|lanes| match lanes {
        Lanes::UpTo(lanes) => Some(u64::from(lanes)),
        Lanes::BySize => None,
    });
    for (parameter, value, room, limit) in [
        ("lanes", lanes, u64::from(layout.lane_count), "lanes"),
        ("chunk", asked.chunk.map(|chunk| chunk.0), most_chunk(spec, asked.output, layout), "slot_bytes"),
        ("slots", asked.slots.map(u64::from), u64::from(layout.ring_slots), "ring_slots"),
    ] {
        if let Some(value) = value.filter(|&value| value > room) {
            return Err(Error::invalid(format!(
                "{parameter}={value}: this communicator's heap has room for {room}; ask for less, or raise HeapLimits::{limit}"
            )));
        }
    }
    Ok(())
}

impl Choice {
    /// As much of it as a heap has room for.
    pub fn within(&self, layout: &HeapLayout) -> Self {
        let lanes = self.shape.lanes.map(|lanes| match lanes {
            Lanes::UpTo(lanes) => Lanes::UpTo(lanes.min(layout.lane_count)),
            Lanes::BySize => Lanes::BySize,
        });
        let chunk =
            self.shape.chunk.map(|chunk| Bytes(chunk.0.min(most_chunk(&self.variant, self.shape.output, layout))));
        let slots = self.shape.slots.map(|slots| slots.min(layout.ring_slots));
        Self { shape: Shape { lanes, chunk, slots, ..self.shape }, variant: Arc::clone(&self.variant) }
    }
}

//! What a heap has room for.

use std::sync::Arc;

use super::manifest::VariantSpec;
use super::properties::Transfer;
use super::request::Choice;
use super::shape::{Lanes, Shape};
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

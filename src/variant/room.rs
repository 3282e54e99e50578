//! What a heap has room for.

use std::sync::Arc;

use super::copies::Copied;
use super::manifest::VariantSpec;
use super::parameters::MOST_THREADS;
use super::properties::{Capacity, Transfer};
use super::request::Choice;
use super::shape::{Lanes, Shape};
use super::share::whole_lines;
use super::terrain::Terrain;
use crate::abi::{HeapLayout, LINE_BYTES};
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::Output;

/// How many times as many threads, and as large slots, a lane has where a heap has `room` for fewer lanes than those `asked` for:
/// together they have half as many threads and bytes in slots as all of them had. A power of two, so that kernels are few. Chunks then fill
/// slots.
///
/// 4x H200, 2026-11-27, `ring` over four ranks, 256 MiB: 32 lanes of 512 threads and chunks of 256 KiB 1317 us, of 1024 and 512 KiB 1237; 16
/// lanes 1885, of 1024 and 1 MiB 1318; 64 lanes 1160, and no shape of them was more than 1 % faster.
pub(crate) fn lane_growth(asked: u32, room: u32) -> u32 {
    asked.div_ceil(2 * room.max(1)).next_power_of_two()
}

/// The slots of all lanes together, with what is behind them for copies.
pub(super) fn slot_region(layout: &HeapLayout) -> u64 {
    layout.copies - layout.ring
}

/// The largest chunk: a lane's slot, or, for copies, half of all slots together, so that one is filled while one is reduced. What
/// lands in outputs needs no slots.
pub(super) fn most_chunk(spec: &VariantSpec, output: Option<Output>, layout: &HeapLayout) -> u64 {
    match (spec.transfer, output) {
        (Transfer::Kernel | Transfer::Both, _) => layout.slot_bytes,
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
    /// What copies carry of it.
    pub(super) copied: Copied,
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
        let Self {
            shards, mailbox_bytes, chunk_bytes, copied: Copied { sixteenths, chunk_bytes: copy_bytes, .. }, ..
        } = *self;
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
                let rounds = layout.copy_count.checked_div(2 * shards - 2).filter(|_| sixteenths > 0);
                // A line more may be copied, so that both parts begin with one.
                let bytes = rounds.map_or(u64::MAX, |rounds| {
                    let copied = rounds * shards * u64::from(copy_bytes) - if sixteenths < 16 { LINE_BYTES } else { 0 };
                    whole_lines(copied * 16 / u64::from(sixteenths))
                });
                (bytes, u64::MAX, shards)
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

impl Shape {
    /// This shape of `asked` lanes where there may be fewer. Copies have nothing to do with lanes, and a pipeline's stages fill shared memory
    /// in the threads that they have.
    pub(super) fn in_lanes(self, asked: u32, terrain: &Terrain<'_>, spec: &VariantSpec, bytes: u64) -> Self {
        if spec.transfer == Transfer::CopyEngine || spec.parameters.has_stages() {
            return self;
        }
        let growth = lane_growth(asked, asked.min(terrain.lanes_for(bytes)));
        let most_chunk = most_chunk(spec, self.output, terrain.layout).min(spec.parameters.largest_chunk());
        let threads = self.threads.map(|threads| threads.max((threads * growth).min(MOST_THREADS)));
        let chunk = self.chunk.map(|chunk| if growth > 1 { chunk.max(Bytes(most_chunk)) } else { chunk });
        Self { threads, chunk, ..self }
    }
}

impl Choice {
    /// As much of it as there is room for, for a message of so many bytes. Where that is fewer lanes, each of them does more.
    pub fn within(&self, terrain: &Terrain<'_>, bytes: u64) -> Self {
        let layout = terrain.layout;
        let most_chunk = most_chunk(&self.variant, self.shape.output, layout);
        let chunk = self.shape.chunk.map(|chunk| chunk.min(Bytes(most_chunk)));
        let slots = self.shape.slots.map(|slots| slots.min(layout.ring_slots));
        let mut shape = Shape { chunk, slots, ..self.shape };
        if let Some(Lanes::UpTo(asked)) = shape.lanes {
            let lanes = Some(Lanes::UpTo(asked.min(terrain.lanes_for(bytes))));
            shape = Shape { lanes, ..shape.in_lanes(asked, terrain, &self.variant, bytes) };
        }
        Self { shape, variant: Arc::clone(&self.variant) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::DeviceKind;
    use crate::memory::HeapLimits;
    use crate::types::{DType, ReduceOp, WorldSize};
    use crate::variant::{LARGE_BYTES, Manifest, Plan, Request, Terrain};

    #[test]
    fn a_lane_does_more_where_there_are_few() {
        let two = WorldSize::new(2).unwrap();
        let of_lanes = |lanes| HeapLimits::of(DeviceKind::Cuda, two).with_lanes(Some(lanes)).layout(two).unwrap().0;
        let planned = |variant: &str, lanes, shape: Option<Shape>| {
            let layout = of_lanes(lanes);
            let terrain = Terrain::of(DeviceKind::Cuda, two, &layout, "sm_90a");
            let choice = Choice::of(Manifest::embedded().get(variant).unwrap());
            let choice = shape.map_or(choice.clone(), |shape| Choice { shape, ..choice }.within(&terrain, 256 << 20));
            let request = Request { count: 64 << 20, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
            let plan = Plan::new(&terrain, &request, &choice).unwrap();
            (plan.lanes, plan.kernel.threads, plan.chunk_bytes >> 10)
        };
        let row = Shape {
            lanes: Some(Lanes::UpTo(128)),
            threads: Some(512),
            chunk: Some(Bytes(128 << 10)),
            ..Shape::default()
        };
        for shape in [None, Some(row)] {
            let ring = |lanes| planned("ring", lanes, shape);
            let own = ring(128).2;
            assert_eq!([128, 64, 48, 32, 16].map(|lanes| ring(lanes).1), [512, 512, 1024, 1024, 1024]);
            assert_eq!([64, 48, 32, 16].map(|lanes| ring(lanes).2), [own, 512, 512, 1024]);
        }
        let asked = Shape {
            lanes: Some(Lanes::UpTo(32)),
            threads: Some(512),
            chunk: Some(Bytes(256 << 10)),
            ..Shape::default()
        };
        assert_eq!(planned("ring", 32, Some(asked)), (32, 512, 256), "what has no more lanes than there are stays");
        let pushes = Shape { lanes: Some(Lanes::UpTo(128)), threads: Some(256), ..Shape::default() };
        assert_eq!(planned("two_shot_push", 32, Some(pushes)).1, 512);
        let copies = Shape { chunk: Some(Bytes(8 << 20)), ..row };
        assert_eq!(planned("ring_copy_engine", 32, Some(copies)), (32, 512, 8 << 10));
    }

    #[test]
    fn large_messages_are_bounded_where_nothing_asks_for_their_lanes() {
        let two = WorldSize::new(2).unwrap();
        let layout = HeapLimits::of(DeviceKind::Cuda, two).layout(two).unwrap().0;
        let terrain = Terrain { large_lanes: 32, ..Terrain::of(DeviceKind::Cuda, two, &layout, "sm_90a") };
        let planned = |choice: &Choice, bytes| {
            let request = Request { count: bytes / 4, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
            let plan = Plan::new(&terrain, &request, choice).unwrap();
            (plan.lanes, plan.kernel.threads)
        };
        let of = |variant: &str, lanes| {
            let shape = Shape { lanes, threads: lanes.map(|_| 512), ..Shape::default() };
            Choice { shape, ..Choice::of(Manifest::embedded().get(variant).unwrap()) }
        };
        for variant in ["ring", "two_shot_push", "signal_two_shot"] {
            let row = of(variant, Some(Lanes::UpTo(128)));
            for bytes in [LARGE_BYTES, 256 << 20] {
                assert_eq!(planned(&of(variant, None), bytes).0, 32, "{variant}");
                assert_eq!(planned(&row.within(&terrain, bytes), bytes), (32, 1024), "{variant}");
                assert_eq!(planned(&of(variant, Some(Lanes::BySize)), bytes), (32, 512), "{variant}");
                assert_eq!(planned(&row, bytes), (128, 512), "what is asked for by name runs as it is");
            }
            let bytes = LARGE_BYTES - 4;
            assert!(planned(&of(variant, None), bytes).0 > 32, "{variant}");
            assert_eq!(planned(&row.within(&terrain, bytes), bytes), (128, 512), "{variant}");
        }
    }
}

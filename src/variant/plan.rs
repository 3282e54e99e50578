//! Request to plan: which kernel, in which shape, in how many pieces. Pure.

use std::sync::Arc;

use super::kernel::KernelKey;
use super::manifest::{Capacity, Mailbox, Tuning, VariantSpec};
use crate::abi::{HeapLayout, PACK_BYTES};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::types::{DType, ReduceOp, WorldSize};

/// What is to be reduced. Equal on all ranks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// Elements.
    pub count: u64,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
}

impl Request {
    /// Size of the message in bytes.
    pub fn bytes(&self) -> u64 {
        self.count * self.dtype.size_bytes() as u64
    }
}

/// A variant and the parts of its shape that override the manifest's. Equal on all ranks.
#[derive(Clone, Debug)]
pub struct Choice {
    /// The variant.
    pub variant: Arc<VariantSpec>,
    /// Lanes instead of the manifest's.
    pub lanes: Option<u32>,
    /// Threads a CTA instead of the manifest's.
    pub threads: Option<u32>,
    /// Bytes a lane moves per step instead of the manifest's.
    pub chunk_bytes: Option<u64>,
}

impl Choice {
    /// The variant in its default shape.
    pub fn of(variant: &Arc<VariantSpec>) -> Self {
        Self { variant: Arc::clone(variant), lanes: None, threads: None, chunk_bytes: None }
    }
}

impl std::fmt::Display for Choice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.variant.name)?;
        let parts = [
            ("lanes", self.lanes.map(u64::from)),
            ("threads", self.threads.map(u64::from)),
            ("chunk", self.chunk_bytes),
        ];
        for (name, value) in parts {
            if let Some(value) = value {
                write!(f, " {name}={value}")?;
            }
        }
        Ok(())
    }
}

/// How a request will run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel.
    pub kernel: KernelKey,
    /// CTAs.
    pub lanes: u32,
    /// Dynamic shared memory a CTA.
    pub shared_bytes: u32,
    /// Bytes a lane moves per step.
    pub chunk_bytes: u32,
    /// Most elements one launch takes; larger messages run in pieces.
    pub piece_elements: u64,
}

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
}

impl Plan {
    /// The plan of a request under a choice.
    ///
    /// Errors: [`Error::Unsupported`] when the variant lacks the type or operator, or needs another architecture;
    /// [`Error::InvalidArgument`] for a shape that the heap has no room for.
    pub fn new(terrain: &Terrain<'_>, request: &Request, choice: &Choice) -> Result<Self> {
        let spec = &choice.variant;
        spec.supports(request.dtype, request.op)?;
        spec.runs_on(terrain.arch)?;
        let layout = terrain.layout;
        let tuning = spec.tuning(terrain.device, request.bytes())?;
        let threads = choice.threads.unwrap_or(tuning.threads);
        if !threads.is_multiple_of(32) || !(32..=1024).contains(&threads) {
            return Err(Error::invalid(format!("{threads} threads a lane: a multiple of 32 up to 1024 is needed")));
        }
        if let Some(lanes) = choice.lanes
            && (lanes == 0 || lanes > layout.lane_count)
        {
            return Err(Error::invalid(format!(
                "{lanes} lanes: this communicator's heap holds 1 to {}",
                layout.lane_count
            )));
        }
        let most_lanes = choice.lanes.unwrap_or(tuning.lanes).min(layout.lane_count);
        let sentinel = spec.mailbox == Mailbox::Sentinel && terrain.sentinel && request.dtype.is_float();
        let stages = tuning.stages.unwrap_or(0);
        let producer_warps = tuning.producer_warps.unwrap_or(0);
        if producer_warps > 0 && threads < 64 {
            return Err(Error::invalid(format!(
                "{threads} threads a lane: {} needs 64 or more, for a producer and a consumer warp",
                spec.name
            )));
        }
        let kernel = KernelKey {
            variant: Arc::clone(spec),
            dtype: request.dtype,
            op: request.op,
            world_size: terrain.world_size,
            threads,
            stages,
            stage_packs: tuning.stage_packs.unwrap_or(terrain.world_size.get()),
            // A stage belongs to one producer warp, and one warp at least consumes.
            producer_warps: producer_warps.min(stages).min(threads / 32 - 1),
            sentinel,
        };
        let element_bytes = request.dtype.size_bytes() as u64;
        let world = u64::from(terrain.world_size.get());
        // What one launch holds, what a lane holds of it, and the packs that make a lane worth its launch.
        let mailbox_bytes = if sentinel { layout.sentinel_bytes } else { layout.ll_bytes };
        let (capacity_bytes, cell_bytes, lane_packs) = match spec.capacity {
            Capacity::Mailbox => (mailbox_bytes, u64::MAX, 1),
            Capacity::MailboxShards => (world * (mailbox_bytes / 2), u64::MAX, world),
            Capacity::Staging => (u64::from(most_lanes) * layout.staging_bytes, layout.staging_bytes, 1),
            Capacity::Unbounded => (u64::MAX, u64::MAX, world),
        };
        let piece_elements = capacity_bytes / element_bytes;
        let piece_bytes = request.count.min(piece_elements) * element_bytes;
        // A thread, or a team, works on at least one pack: more lanes than that would only add launch cost.
        let pack_threads = if spec.team { world.next_power_of_two() } else { 1 };
        let worthwhile = (piece_bytes.div_ceil(PACK_BYTES) * pack_threads).div_ceil(u64::from(threads) * lane_packs);
        let lanes = worthwhile.max(piece_bytes.div_ceil(cell_bytes)).clamp(1, u64::from(most_lanes)) as u32;
        let chunk_bytes = chunk(choice, tuning, layout.slot_bytes);
        let shared_bytes = kernel.shared_bytes();
        Ok(Self { kernel, lanes, shared_bytes, chunk_bytes, piece_elements })
    }

    /// The shard that an element of a message belongs to, for variants whose order is rotated: it is the rank whose input
    /// comes first. Mirror of `cuda/base/share.cuh` and `cuda/algo/ring.cuh`.
    pub fn shard_of(&self, count: u64, element: u64) -> u32 {
        let world = u64::from(self.kernel.world_size.get());
        let per_pack = PACK_BYTES / self.kernel.dtype.size_bytes() as u64;
        let (packs, pack) = (count.div_ceil(per_pack), element / per_pack);
        // Part and offset within it of `index`, when `packs` packs are cut into `parts`; and the packs of that part.
        let locate = |packs: u64, parts: u64, index: u64| {
            let each = packs.div_ceil(parts);
            let part = index / each;
            (part, index - part * each, each.min(packs - part * each))
        };
        let (_, in_lane, lane_packs) = locate(packs, u64::from(self.lanes), pack);
        let rounds = lane_packs.div_ceil(u64::from(self.chunk_bytes) / PACK_BYTES * world);
        let (_, in_round, round_packs) = locate(lane_packs, rounds, in_lane);
        locate(round_packs, world, in_round).0 as u32
    }

    /// The launches that `count` elements take: offset and count of each, in elements.
    pub fn pieces(&self, count: u64) -> impl Iterator<Item = (u64, u64)> + use<> {
        let piece = self.piece_elements;
        let mut offset = 0;
        std::iter::from_fn(move || {
            let here = (count - offset).min(piece);
            let at = offset;
            offset += here;
            (here > 0).then_some((at, here))
        })
    }
}

/// Bytes of a ring step: whole packs, at most a slot.
fn chunk(choice: &Choice, tuning: &Tuning, slot_bytes: u64) -> u32 {
    let wanted = choice.chunk_bytes.or(tuning.chunk).unwrap_or(slot_bytes).min(slot_bytes);
    (wanted / PACK_BYTES * PACK_BYTES).max(PACK_BYTES) as u32
}

//! How a planned message is cut: into pieces, launches and shards.

use std::ops::Range;

use super::plan::Plan;
use super::share::part_packs;
use crate::abi::PACK_BYTES;
use crate::types::Launching;

impl Plan {
    /// The shard that an element of a message belongs to, for variants whose order is rotated: it is the rank whose input
    /// comes first. Mirror of `cuda/base/share.cuh` and `cuda/algo/ring.cuh`.
    pub fn shard_of(&self, count: u64, element: u64) -> u32 {
        let world = u64::from(self.kernel.world_size.get());
        let per_pack = PACK_BYTES / self.kernel.dtype.size_bytes() as u64;
        let offset = element / self.piece_elements * self.piece_elements;
        let piece = (count - offset).min(self.piece_elements);
        let (packs, pack) = (piece.div_ceil(per_pack), (element - offset) / per_pack);
        // Part and offset within it of `index`, when `packs` packs are cut into `parts`; and the packs of that part.
        let locate = |packs: u64, parts: u64, index: u64| {
            let each = part_packs(packs, parts);
            let part = index / each;
            (part, index - part * each, each.min(packs - part * each))
        };
        // Copies are cut from all that they carry, and all their lanes work on each.
        let before = packs - self.copied_packs(piece);
        let (pack, packs, lanes, chunk_bytes) = if pack < before {
            (pack, before, self.lanes - self.copied.lanes, self.chunk_bytes)
        } else {
            (pack - before, packs - before, 1, self.copied.chunk_bytes)
        };
        let (_, in_lane, lane_packs) = locate(packs, u64::from(lanes), pack);
        let rounds = lane_packs.div_ceil(u64::from(chunk_bytes) / PACK_BYTES * world);
        let (_, in_round, round_packs) = locate(lane_packs, rounds, in_lane);
        locate(round_packs, world, in_round).0 as u32
    }

    /// The steps of the ring that each launch of a piece does, in order; one launch does all, or each one. Meaningless numbers
    /// for other variants.
    pub fn launches(&self) -> impl Iterator<Item = Range<u16>> + use<> {
        // Mirror of `RingSchedule` in cuda/proto/ring_step.cuh.
        let steps = 2 * self.kernel.world_size.get() as u16 - 1;
        let each = match self.launching {
            Launching::Persistent => steps,
            Launching::PerStep => 1,
        };
        (0..steps).step_by(usize::from(each)).map(move |first| first..first + each)
    }

    /// The pieces that `count` elements take: offset and count of each, in elements.
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

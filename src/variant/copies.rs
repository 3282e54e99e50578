//! The copies of a plan whose bytes travel by copy engines: one list, the same here and in the kernel.

use super::plan::Plan;
use super::room::slot_region;
use super::share::{cut, whole_lines};
use crate::abi::{HeapLayout, LINE_BYTES, PACK_BYTES};
use crate::types::{Output, Rank};

const LINE_PACKS: u64 = LINE_BYTES / PACK_BYTES;

/// Where a copy takes its bytes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// This rank's operand.
    Input,
    /// Its output, where the kernel left what it made of the copy one step before.
    Output,
}

/// One copy to the next rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copy {
    /// Its place in the list; it has the words of that index.
    pub index: u64,
    /// Where its bytes come from.
    pub source: Source,
    /// First byte in the operand.
    pub offset: u64,
    /// Bytes; 0 where a short message has nothing for the step.
    pub bytes: u64,
    /// First byte of its slot in the next rank's slots; none where it lands in the next rank's output, at `offset`.
    pub slot: Option<u64>,
}

/// What copies carry of a message, and where to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Sixteenths of the packs, at the end of the operands.
    pub sixteenths: u32,
    /// Lanes that reduce it, the last of the grid; their slots and those of all lanes behind them are the copies'.
    pub lanes: u32,
    /// Bytes of a copy at most.
    pub chunk_bytes: u32,
    /// Slots of so many bytes.
    pub slots: u32,
    /// First byte of these slots in those of all lanes. Mirror of `CopyRing::slot` in cuda/proto/copy_ring.cuh.
    pub first_slot: u64,
}

impl Copied {
    /// Of variants whose kernels move all bytes.
    pub const NOTHING: Self = Self { sixteenths: 0, lanes: 0, chunk_bytes: LINE_BYTES as u32, slots: 0, first_slot: 0 };

    /// Of variants whose kernels move none.
    pub(super) fn all(lanes: u32, chunk_bytes: u64, layout: &HeapLayout) -> Self {
        let slots = (slot_region(layout) / chunk_bytes) as u32;
        Self { sixteenths: 16, lanes, chunk_bytes: chunk_bytes as u32, slots, first_slot: 0 }
    }

    /// Beside a ring, which has the first of so many lanes, and their slots. Nothing where there is one lane.
    ///
    /// 4x H200, 2026-11-27, 1 GiB over four ranks, 128 lanes of 512 threads, p50 in microseconds: `ring` alone 4413. 6, 7, 8 of 16 in copies,
    /// which have 3 of 16 lanes: 4341, 4409, 4664; 4 of 16 lanes: 4337, 4327, 4509; 5 of 16 lanes: 4346, 4317, 4438. Four slots of 16 MiB
    /// for two, 3 of 16 lanes: 4349, 4325, 4303, for 32 MiB more. With 1024 threads, whose registers spill, 7 of 16: 4307 to 4313.
    pub(super) fn beside(sixteenths: u32, lanes: u32, layout: &HeapLayout) -> Self {
        let own = (lanes * 5 / 16).max(1);
        if sixteenths == 0 || own == lanes {
            return Self::NOTHING;
        }
        let first_slot = u64::from(lanes - own) * u64::from(layout.ring_slots) * layout.slot_bytes;
        // Two slots: one is filled while one is reduced.
        let chunk_bytes = whole_lines((slot_region(layout) - first_slot) / 2) as u32;
        Self { sixteenths, lanes: own, chunk_bytes, slots: 2, first_slot }
    }
}

impl Plan {
    /// Packs at the end of a launch's `count` elements that copies carry.
    pub fn copied_packs(&self, count: u64) -> u64 {
        let packs = self.packs(count);
        match self.copied.sixteenths {
            0 => 0,
            copied => packs - packs * u64::from(16 - copied) / 16 / LINE_PACKS * LINE_PACKS,
        }
    }

    /// How many copies each rank sends in a launch for `count` elements, a piece at most; none for variants whose kernels move the bytes
    /// themselves.
    pub fn copy_count(&self, count: u64) -> u64 {
        (2 * self.world() - 2) * self.rounds(count)
    }

    /// These copies, as `rank` sends them, in their order.
    ///
    /// Mirror of `CopyRing` in cuda/proto/copy_ring.cuh and of `RingSchedule` in cuda/proto/ring_step.cuh.
    pub fn copies(&self, count: u64, rank: Rank) -> impl Iterator<Item = Copy> + use<> {
        let (world, rounds, rank) = (self.world(), self.rounds(count), u64::from(rank.0));
        let Copied { slots, chunk_bytes, first_slot, .. } = self.copied;
        let (slots, chunk_bytes) = (u64::from(slots), u64::from(chunk_bytes));
        let bytes = count * self.kernel.dtype.size_bytes() as u64;
        let copied = self.copied_packs(count);
        let before = self.packs(count) - copied;
        // What is sent from step n - 1 on is a result.
        let in_slots = match self.kernel.output {
            Output::Staged => self.copy_count(count),
            Output::Direct => (world - 1) * rounds,
            Output::Landing => 0,
        };
        // WHY: a step of every round before the next step of any: what a copy sends on came as many copies before, so the next copy can
        // go while this one travels.
        (0..self.copy_count(count)).map(move |index| {
            let (step, round) = (index / rounds, index % rounds);
            let part = cut(before, copied, rounds, round);
            let (first, packs) = cut(part.0, part.1, world, (rank + 2 * world - step) % world);
            let (offset, end) = (first * PACK_BYTES, ((first + packs) * PACK_BYTES).min(bytes));
            Copy {
                index,
                source: if step == 0 { Source::Input } else { Source::Output },
                offset,
                bytes: end.saturating_sub(offset),
                slot: (index < in_slots).then(|| first_slot + index % slots * chunk_bytes),
            }
        })
    }

    fn world(&self) -> u64 {
        self.kernel.world_size.get().into()
    }

    /// Rounds of a chunk for every rank.
    fn rounds(&self, count: u64) -> u64 {
        let round = u64::from(self.copied.chunk_bytes) / PACK_BYTES * self.world();
        if round == 0 { 0 } else { self.copied_packs(count).div_ceil(round) }
    }

    fn packs(&self, count: u64) -> u64 {
        (count * self.kernel.dtype.size_bytes() as u64).div_ceil(PACK_BYTES)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::device::DeviceKind;
    use crate::measure::Bytes;
    use crate::memory::HeapLimits;
    use crate::types::{DType, ReduceOp, WorldSize};
    use crate::variant::{Choice, Manifest, Request, Shape, Terrain};

    fn plan(name: &str, ranks: u32, request: &Request, shape: Shape) -> Plan {
        let world_size = WorldSize::new(ranks).unwrap();
        let limits = HeapLimits { copies: 64, ..HeapLimits::of(DeviceKind::Cpu, world_size) };
        let (layout, _) = limits.layout(world_size).unwrap();
        let terrain = Terrain::of(DeviceKind::Cpu, world_size, &layout, "cpu");
        let variant = Manifest::embedded().get(name).unwrap();
        Plan::new(&terrain, request, &Choice { variant: Arc::clone(variant), shape }).unwrap()
    }

    /// All bytes in copies of at most `chunk`.
    fn in_chunks(chunk: u64, output: Output) -> Shape {
        Shape { chunk: Some(Bytes(chunk)), output: Some(output), ..Shape::default() }
    }

    proptest! {
        /// Each step of all ranks together moves every byte that copies carry once, and a shard begins at the rank that the model says.
        #[test]
        fn every_step_moves_every_byte_once(
            ranks in 2u32..=8,
            count in 1u64..40_000,
            dtype in proptest::sample::select(DType::ALL.iter().copied().filter(|dtype| !dtype.is_fp8()).collect::<Vec<_>>()),
            chunk in (1u64..20).prop_map(|lines| lines * LINE_BYTES),
            output in proptest::sample::select(Output::ALL),
            copied in proptest::option::of(proptest::sample::select(&[4, 6, 7, 8])),
        ) {
            let output = if copied.is_some() { Output::Staged } else { output };
            let request = Request { count, dtype, op: ReduceOp::Sum, registered: output != Output::Staged };
            let plan = match copied {
                Some(_) => plan("ring_with_copies", ranks, &request, Shape { copied, ..Shape::default() }),
                None => plan("ring_copy_engine", ranks, &request, in_chunks(chunk, output)),
            };
            let Copied { sixteenths, chunk_bytes, slots, first_slot, .. } = plan.copied;
            prop_assert!(sixteenths == copied.unwrap_or(16) || plan.lanes == 1 && sixteenths == 0);
            let size = dtype.size_bytes() as u64;
            for (first, elements) in plan.pieces(count) {
                let all: Vec<Vec<Copy>> = (0..ranks).map(|rank| plan.copies(elements, Rank(rank)).collect()).collect();
                let steps = u64::from(2 * ranks - 2);
                let rounds = all[0].len() as u64 / steps;
                if sixteenths == 0 {
                    prop_assert_eq!(rounds, 0);
                    continue;
                }
                let before = (plan.packs(elements) - plan.copied_packs(elements)) * PACK_BYTES;
                let wanted = plan.packs(elements) * PACK_BYTES * u64::from(16 - sixteenths) / 16;
                // The kernel's part is whole lines.
                prop_assert!(before <= wanted && wanted < before + LINE_BYTES && before.is_multiple_of(LINE_BYTES));
                prop_assert!(all.iter().all(|copies| copies.len() as u64 == rounds * steps && copies.len() <= 64));
                for step in 0..steps {
                    let of_step = |copy: &&Copy| copy.index / rounds == step;
                    let mut moved: Vec<_> = (0u32..)
                        .zip(&all)
                        .flat_map(|(rank, copies)| copies.iter().filter(of_step).map(move |copy| (copy.offset, copy.bytes, rank)))
                        .filter(|(_, bytes, _)| *bytes > 0)
                        .collect();
                    moved.sort_unstable();
                    let end = moved.iter().try_fold(before, |end, &(offset, bytes, _)| (offset == end).then_some(offset + bytes));
                    prop_assert_eq!(end, Some(elements * size), "step {}", step);
                    for (offset, bytes, rank) in moved {
                        for element in [offset / size, (offset + bytes - 1) / size] {
                            let shard = (u64::from(rank) + steps + 2 - step) % u64::from(ranks);
                            prop_assert_eq!(u64::from(plan.shard_of(count, first + element)), shard);
                        }
                    }
                }
                for copy in all.iter().flatten() {
                    prop_assert!(copy.bytes <= u64::from(chunk_bytes));
                    let is_result = copy.index / rounds + 1 >= u64::from(ranks);
                    let has_slot = output == Output::Staged || output == Output::Direct && !is_result;
                    prop_assert_eq!(copy.slot, has_slot.then(|| first_slot + copy.index % u64::from(slots) * u64::from(chunk_bytes)));
                    prop_assert_eq!(copy.source == Source::Input, copy.index < rounds);
                }
            }
        }
    }

    #[test]
    fn nobody_to_copy_to_means_no_copies() {
        let request = Request { count: 1 << 20, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let alone = plan("ring_copy_engine", 1, &request, in_chunks(4096, Output::Staged));
        assert_eq!((alone.pieces(request.count).count(), alone.copies(request.count, Rank(0)).count()), (1, 0));
        let several = plan("ring_copy_engine", 2, &request, in_chunks(4096, Output::Staged));
        // 32 rounds of two chunks a launch; slots of 32 chunks in lanes, and of 4 behind them.
        assert_eq!((several.pieces(request.count).count(), several.copied.slots), (4 << 20 >> 18, 36));
    }
}

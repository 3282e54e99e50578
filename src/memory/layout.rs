//! Where the parts of a heap lie. Pure: equal limits and world size give equal layouts on all ranks.

use serde::{Deserialize, Serialize};

use crate::abi::{
    CopyState, HeapLayout, HeapState, LINE_BYTES, LL_BUFFERS, LaneState, MAX_LANES, MAX_RING_SLOTS, MAX_WORLD,
    SENTINEL_BUFFERS, STAGING_BUFFERS,
};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Output, WorldSize};
use crate::variant::{Shape, lane_growth};

/// What a heap has room for. Equal on all ranks; bounds the footprint of a communicator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeapLimits {
    /// Lanes of any launch.
    pub lanes: u32,
    /// Bytes of all sentinel mailboxes of one buffer: each peer has its part of them.
    pub sentinel_bytes: u64,
    /// Payload bytes of all LL mailboxes of one buffer.
    pub ll_bytes: u64,
    /// Bytes of one lane's staging half.
    pub staging_bytes: u64,
    /// Bytes of one ring slot.
    pub slot_bytes: u64,
    /// Slots of a lane's ring; a power of two.
    pub ring_slots: u32,
    /// Bytes behind the slots of all lanes, for copies that go beside a ring.
    pub copy_bytes: u64,
    /// Copies of one launch, for variants whose bytes travel by copies; larger messages run in several launches.
    pub copies: u32,
}

impl HeapLimits {
    /// Defaults of a communicator of so many ranks: 127 MiB a rank for 5 to 8 GPUs, 197 MiB for 3 and 4, 201 MiB for 2, and little on
    /// the CPU device, where memory is touched by real cores.
    pub fn of(kind: DeviceKind, world_size: WorldSize) -> Self {
        match kind {
            DeviceKind::Cuda => Self {
                lanes: 128,
                // WHY: from 1 MiB on `two_shot_push` is the fastest variant to 16 MiB, over two ranks to 32, where a message is one
                // piece: each costs a launch and its hops, 3 us. Over 5 to 8 ranks 16 MiB are two.
                sentinel_bytes: match world_size.get() {
                    ..=2 => 32 << 20,
                    3..=4 => 24 << 20,
                    _ => 23 << 20,
                },
                ll_bytes: 2 << 20,
                // WHY: of the regions, staging is what `auto` needs least over many ranks: floats pass through it only where no mailbox
                // has been tried.
                staging_bytes: if world_size.get() > 4 { 64 << 10 } else { 128 << 10 },
                slot_bytes: if world_size.get() > 4 { 128 << 10 } else { 256 << 10 },
                ring_slots: 2,
                // WHY: with the slots of the lanes behind a ring of 88, two copies of 20 MiB over three and four ranks. Over two, copies beside a
                // ring are worth less, and what is promised is taken.
                copy_bytes: match world_size.get() {
                    ..=2 => 0,
                    3..=4 => 20 << 20,
                    _ => 2 << 20,
                },
                copies: 1024,
            },
            DeviceKind::Cpu => Self {
                lanes: 8,
                sentinel_bytes: 512 << 10,
                ll_bytes: 256 << 10,
                staging_bytes: 16 << 10,
                slot_bytes: 4 << 10,
                ring_slots: 4,
                copy_bytes: 16 << 10,
                copies: 256,
            },
        }
    }

    /// The defaults, raised where one of `shapes` asks for more. Where ranks share a device, the default number of lanes is lowered
    /// first, so that all of them find room there.
    pub fn for_shapes<'a>(
        kind: DeviceKind,
        world_size: WorldSize,
        shared: bool,
        shapes: impl IntoIterator<Item = &'a Shape>,
    ) -> Self {
        let own = Self::of(kind, world_size);
        let own = if shared { own.of_shared_device() } else { own };
        shapes.into_iter().fold(own, |limits, shape| limits.with_room_for(shape))
    }

    /// These limits with so few lanes that [`MAX_WORLD`] ranks find room on one device for their CTAs of any default shape.
    fn of_shared_device(self) -> Self {
        Self { lanes: self.lanes.min(8), ..self }
    }

    /// These limits, raised where a shape asks for more.
    fn with_room_for(self, shape: &Shape) -> Self {
        let lanes = self.lanes.max(shape.lanes.map_or(0, |lanes| lanes.most(u64::MAX)));
        let ring_slots = self.ring_slots.max(shape.slots.unwrap_or(0));
        // What lands in outputs needs no slots.
        let chunk = shape.chunk.filter(|_| shape.output != Some(Output::Landing)).map_or(0, |chunk| chunk.0);
        // A chunk beyond those of lanes is a copy's: the slots of all lanes together have room for some of them.
        let slot_bytes = if chunk <= MOST_LANE_CHUNK {
            chunk
        } else {
            (COPY_SLOTS * chunk).div_ceil(u64::from(lanes) * u64::from(ring_slots))
        };
        let slot_bytes = self.slot_bytes.max(slot_bytes.next_multiple_of(CELL_ALIGNMENT));
        Self { lanes, slot_bytes, ring_slots, ..self }
    }

    /// These limits with so many bytes of sentinel mailboxes, if any are given.
    pub fn with_mailboxes(self, given: Option<Bytes>) -> Self {
        Self { sentinel_bytes: given.map_or(self.sentinel_bytes, |bytes| bytes.0), ..self }
    }

    /// These limits with at most so many lanes, if a number is given. The slots of few lanes are larger, as their chunks are, and
    /// together they are no larger than before.
    pub fn with_lanes(self, most: Option<u32>) -> Self {
        let lanes = most.map_or(self.lanes, |most| self.lanes.min(most));
        let larger = self.slot_bytes * u64::from(lane_growth(self.lanes, lanes));
        Self { lanes, slot_bytes: self.slot_bytes.max(larger.min(MOST_LANE_CHUNK)), ..self }
    }

    /// These limits where each rank has so many multiprocessors, of all ranks the fewest. A kernel has one CTA at least on each, and
    /// shapes are of GPUs that may have more of them: with as many lanes, what nobody forced is resident everywhere.
    pub fn resident_on(self, kind: DeviceKind, multiprocessors: u32) -> Self {
        self.with_lanes((kind == DeviceKind::Cuda).then_some(multiprocessors))
    }

    fn check(&self) -> Result<()> {
        let Self { lanes, sentinel_bytes, ll_bytes, staging_bytes, slot_bytes, ring_slots, copy_bytes, copies } = *self;
        let cells = [sentinel_bytes / MAX_WORLD as u64, ll_bytes / MAX_WORLD as u64, staging_bytes, slot_bytes];
        if lanes == 0 || lanes > MAX_LANES {
            return Err(Error::invalid(format!("heap limits: {lanes} lanes, 1 to {MAX_LANES} are possible")));
        }
        if !ring_slots.is_power_of_two() || !(2..=MAX_RING_SLOTS as u32).contains(&ring_slots) {
            return Err(Error::invalid(format!(
                "heap limits: {ring_slots} ring slots, a power of two from 2 to {MAX_RING_SLOTS} is needed"
            )));
        }
        if !(FEWEST_COPIES..=MOST_COPIES).contains(&copies) {
            return Err(Error::invalid(format!(
                "heap limits: {copies} copies, {FEWEST_COPIES} to {MOST_COPIES} are possible"
            )));
        }
        if !copy_bytes.is_multiple_of(CELL_ALIGNMENT) || copy_bytes > 1 << 30 {
            return Err(Error::invalid(format!(
                "heap limits: {copy_bytes} bytes for copies, a multiple of {CELL_ALIGNMENT} up to 1 GiB is needed"
            )));
        }
        if let Some(odd) = cells.iter().find(|&&cell| cell % CELL_ALIGNMENT != 0 || cell == 0 || cell > 1 << 30) {
            return Err(Error::invalid(format!(
                "heap limits: a cell of {odd} bytes, a multiple of {CELL_ALIGNMENT} up to 1 GiB is needed"
            )));
        }
        Ok(())
    }

    /// The layout and its size in bytes.
    pub fn layout(&self, world_size: WorldSize) -> Result<(HeapLayout, u64)> {
        self.check()?;
        let lanes = u64::from(self.lanes);
        let peers = peers(world_size);
        let mailbox = |bytes: u64| bytes / peers.max(1) / CELL_ALIGNMENT * CELL_ALIGNMENT;
        let (sentinel_bytes, ll_bytes) = (mailbox(self.sentinel_bytes), mailbox(self.ll_bytes));
        let mut end = 0;
        let mut place = |bytes: u64, alignment: u64| {
            let start = u64::next_multiple_of(end, alignment);
            end = start + bytes;
            start
        };
        let layout = HeapLayout {
            state: place(size_of::<HeapState>() as u64, CELL_ALIGNMENT),
            signatures: place((MAX_WORLD * 2 * 8) as u64, CELL_ALIGNMENT),
            lanes: place(lanes * size_of::<LaneState>() as u64, CELL_ALIGNMENT),
            // A page away from the flags: a stray store past a cell must not look like a signal.
            sentinel: place(SENTINEL_BUFFERS * peers * sentinel_bytes, REGION_ALIGNMENT),
            sentinel_bytes,
            ll: place(LL_BUFFERS * peers * 2 * ll_bytes, REGION_ALIGNMENT),
            ll_bytes,
            staging: place(lanes * STAGING_BUFFERS * self.staging_bytes, REGION_ALIGNMENT),
            staging_bytes: self.staging_bytes,
            ring: place(lanes * u64::from(self.ring_slots) * self.slot_bytes + self.copy_bytes, REGION_ALIGNMENT),
            slot_bytes: self.slot_bytes,
            copies: place(u64::from(self.copies) * size_of::<CopyState>() as u64, REGION_ALIGNMENT),
            copy_count: self.copies.into(),
            lane_count: self.lanes,
            ring_slots: self.ring_slots,
        };
        Ok((layout, end.next_multiple_of(REGION_ALIGNMENT)))
    }
}

/// How many ranks have a mailbox in each rank's heap.
pub(super) fn peers(world_size: WorldSize) -> u64 {
    u64::from(world_size.get() - 1)
}

/// A cache line of the GPU's L2, so that no two writers share one.
const CELL_ALIGNMENT: u64 = LINE_BYTES;
const REGION_ALIGNMENT: u64 = 4096;
/// The largest chunk that a lane's slot is asked to hold; a test holds the manifest to it.
const MOST_LANE_CHUNK: u64 = 1 << 20;
/// Slots for copies that a heap has when a chunk of theirs is asked for: some travel while others are reduced.
const COPY_SLOTS: u64 = 4;
/// What one round of a ring of [`MAX_WORLD`] ranks takes.
const FEWEST_COPIES: u32 = 2 * MAX_WORLD as u32 - 2;
const MOST_COPIES: u32 = 1 << 16;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::table::{Dispatcher, LaneTable};
    use crate::variant::{Lanes, Manifest, Transfer};

    fn world(ranks: u32) -> WorldSize {
        WorldSize::new(ranks).unwrap()
    }

    fn limits() -> impl Strategy<Value = HeapLimits> {
        (1..=MAX_LANES, 1u64..64, 1u64..64, 1u64..64, 1u64..64, 1u32..=4).prop_map(|(lanes, a, b, c, d, slots)| {
            HeapLimits {
                lanes,
                sentinel_bytes: a * 1024,
                ll_bytes: b * 1024,
                staging_bytes: c * 128,
                slot_bytes: d * 128,
                ring_slots: 1 << slots,
                copy_bytes: (a - 1) * 128,
                copies: FEWEST_COPIES + a as u32,
            }
        })
    }

    proptest! {
        #[test]
        fn regions_follow_each_other_without_overlap(limits in limits(), world in 1u32..=8) {
            let (layout, bytes) = limits.layout(WorldSize::new(world).unwrap()).unwrap();
            let peers = u64::from(world - 1);
            let lanes = u64::from(limits.lanes);
            let ends = [
                (layout.state, layout.state + 384),
                (layout.signatures, layout.signatures + 128),
                (layout.lanes, layout.lanes + lanes * 512),
                (layout.sentinel, layout.sentinel + 3 * peers * layout.sentinel_bytes),
                (layout.ll, layout.ll + 4 * peers * layout.ll_bytes),
                (layout.staging, layout.staging + 2 * lanes * layout.staging_bytes),
                (layout.ring, layout.ring + lanes * u64::from(layout.ring_slots) * layout.slot_bytes),
                (layout.copies, layout.copies + 256 * layout.copy_count),
                (bytes, bytes),
            ];
            for pair in ends.windows(2) {
                prop_assert!(pair[0].1 <= pair[1].0, "{pair:?}");
            }
        }
    }

    /// What the README promises, for all that the rule and each lane table of this build ask for.
    #[test]
    fn defaults_stay_within_the_promised_footprint() {
        let kind = DeviceKind::Cuda;
        let tables = LaneTable::all_embedded().iter().filter(|table| table.device == kind).cloned().map(Some);
        for table in std::iter::once(None).chain(tables) {
            for ranks in (1..=8).map(world) {
                let name = table.as_ref().map_or("the rule", |table| table.name());
                let dispatcher = Dispatcher::new(None, table.clone(), kind, "sm_90a", ranks, true);
                let limits = HeapLimits::for_shapes(kind, ranks, false, dispatcher.shapes());
                let (_, bytes) = limits.layout(ranks).unwrap();
                let most = if ranks.get() > 4 { 128 } else { 208 };
                assert!(bytes <= most << 20, "{name}, {ranks} ranks: {bytes} bytes of {most} MiB");
            }
        }
    }

    #[test]
    fn limits_are_raised_to_what_a_shape_asks_for_and_never_lowered() {
        let limits = HeapLimits::of(DeviceKind::Cuda, world(2));
        assert_eq!(limits.with_room_for(&Shape::default()), limits);
        let (chunk, slots) = (Some(Bytes(1 << 20)), Some(16));
        let large = limits.with_room_for(&Shape { lanes: Some(Lanes::BySize), chunk, slots, ..Shape::default() });
        assert_eq!((large.lanes, large.slot_bytes, large.ring_slots), (MAX_LANES, 1 << 20, 16));
        large.layout(WorldSize::new(8).unwrap()).unwrap();
        let small = Shape { lanes: Some(Lanes::UpTo(1)), chunk: Some(Bytes(16)), slots: Some(2), ..Shape::default() };
        assert_eq!(large.with_room_for(&small), large);
    }

    #[test]
    fn mailboxes_that_are_given_take_the_place_of_the_default() {
        let limits = HeapLimits::of(DeviceKind::Cuda, world(4));
        let bytes = |given| limits.with_mailboxes(given).layout(world(4)).unwrap().1;
        assert_eq!(bytes(None) - bytes(Some(Bytes(6 << 20))), 3 * (18 << 20));
        assert!(limits.with_mailboxes(Some(Bytes(100))).layout(world(4)).is_err());
        assert_eq!(
            [Some(32), Some(500), None].map(|most| limits.with_lanes(most).lanes),
            [32, limits.lanes, limits.lanes]
        );
        let few = |lanes| limits.with_lanes(Some(lanes)).slot_bytes >> 10;
        assert_eq!([128, 114, 64, 48, 32, 24, 16, 1].map(few), [256, 256, 256, 512, 512, 1024, 1024, 1024]);
        assert!((1..=MAX_LANES).all(|lanes| few(lanes) * u64::from(lanes) <= few(MAX_LANES) * u64::from(MAX_LANES)));
        assert_eq!(limits.resident_on(DeviceKind::Cuda, 24).lanes, 24);
        let host = HeapLimits::of(DeviceKind::Cpu, world(2));
        assert_eq!(host.resident_on(DeviceKind::Cpu, 1), host, "all CTAs are resident on a CPU");
    }

    #[test]
    fn a_chunk_of_copies_finds_room_in_all_slots_together() {
        let limits = HeapLimits::of(DeviceKind::Cuda, world(2));
        let with_chunk = |chunk| limits.with_room_for(&Shape { chunk: Some(Bytes(chunk)), ..Shape::default() });
        assert_eq!(with_chunk(16 << 20), limits);
        assert_eq!(with_chunk(64 << 20).slot_bytes, 1 << 20);
        let output = Some(Output::Landing);
        assert_eq!(limits.with_room_for(&Shape { chunk: Some(Bytes(64 << 20)), output, ..Shape::default() }), limits);
        for spec in Manifest::embedded().all().filter(|spec| spec.transfer == Transfer::Kernel) {
            let beyond = Shape { chunk: Some(Bytes(MOST_LANE_CHUNK + 16)), ..Shape::default() };
            assert!(spec.takes(&beyond).is_err(), "{} has larger chunks", spec.name);
        }
    }

    #[test]
    fn a_shared_device_lowers_the_default_but_not_what_a_shape_asks_for() {
        let lanes = |shared, shapes: &[Shape]| HeapLimits::for_shapes(DeviceKind::Cuda, world(2), shared, shapes).lanes;
        let sixteen = Shape { lanes: Some(Lanes::UpTo(16)), ..Shape::default() };
        assert_eq!(
            HeapLimits::for_shapes(DeviceKind::Cuda, world(2), false, []),
            HeapLimits::of(DeviceKind::Cuda, world(2))
        );
        assert_eq!(
            (lanes(false, &[sixteen]), lanes(true, &[]), lanes(true, &[sixteen, Shape::default()])),
            (128, 8, 16)
        );
    }

    #[test]
    fn odd_limits_are_refused() {
        let good = HeapLimits::of(DeviceKind::Cpu, world(2));
        assert!(HeapLimits { ring_slots: 3, ..good }.layout(world(2)).is_err());
        assert!(HeapLimits { copies: 13, ..good }.layout(world(2)).is_err());
        assert!(HeapLimits { lanes: 0, ..good }.layout(world(2)).is_err());
        assert!(HeapLimits { slot_bytes: 100, ..good }.layout(world(2)).is_err());
    }
}

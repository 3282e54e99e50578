//! Request to plan: which kernel, in which shape, in how many pieces. Pure.

use std::sync::Arc;

use super::arch::dtype_runs_on;
use super::copies::Copied;
use super::kernel::KernelKey;
use super::properties::{Mailbox, Transfer};
use super::request::{Choice, Request};
use super::room::{Held, LaunchRoom, check_room, landing_chunk, most_chunk};
use super::shape::{Lanes, Shape};
use super::share::whole_lines;
use super::terrain::Terrain;
use crate::abi::PACK_BYTES;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Collective, Launching, Metadata, Output, Places, SyncPolicy, Wait};

/// How a request will run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The kernel.
    pub kernel: KernelKey,
    /// CTAs.
    pub lanes: u32,
    /// Dynamic shared memory a CTA.
    pub shared_bytes: u32,
    /// Bytes a lane moves per step; 0 where the variant has no steps.
    pub chunk_bytes: u32,
    /// Slots that are used, of a lane's ring, or of `chunk_bytes` for copies; 0 where the variant has none.
    pub slots: u32,
    /// What copies carry.
    pub copied: Copied,
    /// Most elements of a piece; larger messages run in several, one after another.
    pub piece_elements: u64,
    /// How the steps of a ring are launched; persistent where the variant has none.
    pub launching: Launching,
}

impl Plan {
    /// The plan of a request under a choice.
    ///
    /// Errors: [`Error::Unsupported`] when the variant lacks the type or operator, or one of them needs another architecture;
    /// [`Error::InvalidArgument`] for parameters that it does not take, that the heap has no room for, or that need a registered
    /// output.
    ///
    /// # Panics
    /// If the manifest has a tuning without lanes or threads, which its parser refuses.
    pub fn new(terrain: &Terrain<'_>, request: &Request, choice: &Choice) -> Result<Self> {
        let spec = &choice.variant;
        if request.bytes() >= 1 << 47 {
            return Err(Error::invalid(format!("{} elements of {} exceed any memory", request.count, request.dtype)));
        }
        spec.supports(request.dtype, request.op, terrain.world_size)?;
        spec.runs_on(terrain.arch)?;
        let (dtype, op) = spec.collective.compiled_for(request.dtype, request.op);
        dtype_runs_on(dtype, terrain.arch)?;
        spec.takes(&choice.shape)?;
        let layout = terrain.layout;
        check_room(spec, &choice.shape, layout)?;
        let tuning = spec.tuning(terrain.device, terrain.world_size, request.bytes())?.shape;
        let tuning = match (choice.shape.lanes, tuning.lanes) {
            (None, Some(asked)) => tuning.in_lanes(asked.most(request.bytes()), terrain, spec, request.bytes()),
            _ => tuning,
        };
        let shape = choice.shape.or(&tuning);
        let (Some(lanes), Some(threads)) = (shape.lanes, shape.threads) else {
            panic!("the manifest's parser lets no tuning without lanes or threads through")
        };
        let room = match choice.shape.lanes {
            Some(Lanes::UpTo(_)) => layout.lane_count,
            Some(Lanes::BySize) | None => terrain.lanes_for(request.bytes()),
        };
        let most_lanes = lanes.most(request.bytes()).min(room);
        let sentinel = spec.mailbox == Mailbox::Sentinel && terrain.sentinel && request.dtype.is_float();
        let stages = shape.stages.unwrap_or(0);
        let producer_warps = shape.producer_warps.unwrap_or(0);
        let copies = spec.transfer.has_copies();
        if (producer_warps > 0 || copies) && threads < 64 {
            let warps = if copies {
                "a warp that lets copies go and one that reduces"
            } else {
                "a producer and a consumer warp"
            };
            return Err(Error::invalid(format!(
                "{threads} threads a lane: {} needs 64 or more, for {warps}",
                spec.name
            )));
        }
        let kernel = KernelKey {
            variant: Arc::clone(spec),
            dtype,
            op,
            world_size: terrain.world_size,
            threads,
            stages,
            stage_packs: shape.stage_packs.unwrap_or(terrain.world_size.get()),
            // A stage belongs to one producer warp, and one warp at least consumes.
            producer_warps: producer_warps.min(stages).min(threads / 32 - 1),
            sentinel,
            wait: shape.wait.unwrap_or(Wait::Adaptive),
            sync: shape.sync.unwrap_or(SyncPolicy::Light),
            places: shape.places.unwrap_or(Places::Coalesced),
            metadata: shape.metadata.unwrap_or(Metadata::Derived),
            output: request.output(&shape, &spec.parameters)?,
            buckets: false,
        };
        let element_bytes = request.dtype.size_bytes() as u64;
        let world = u64::from(terrain.world_size.get());
        let most_chunk = most_chunk(spec, Some(kernel.output), layout);
        let chunk = match (choice.shape.chunk, kernel.output) {
            (None, Output::Landing) => landing_chunk(request.bytes(), world),
            _ => shape.chunk.map_or(most_chunk, |chunk| chunk.0).min(most_chunk),
        };
        let chunk_bytes = if spec.parameters.has_chunk() { whole_lines(chunk) } else { 0 };
        let launching = shape.launch.unwrap_or(Launching::Persistent);
        let mailbox_bytes = if sentinel { layout.sentinel_bytes } else { layout.ll_bytes };
        let launch_per_step = launching == Launching::PerStep;
        let shards = if spec.collective == Collective::AllReduce { world } else { 1 };
        let sixteenths = match spec.transfer {
            Transfer::Kernel => 0,
            Transfer::CopyEngine => 16,
            Transfer::Both => shape.copied.unwrap_or(7),
        };
        let copied = |lanes| match kernel.output {
            Output::Landing => Copied { slots: 0, ..Copied::all(lanes, chunk_bytes, layout) },
            _ if spec.transfer == Transfer::CopyEngine => Copied::all(lanes, chunk_bytes, layout),
            _ => Copied::beside(if world > 1 { sixteenths } else { 0 }, lanes, layout),
        };
        let room =
            LaunchRoom { shards, mailbox_bytes, most_lanes, chunk_bytes, launch_per_step, copied: copied(most_lanes) };
        let Held { bytes: capacity_bytes, lane_bytes, lane_packs } = room.of(spec.capacity, layout);
        let piece_elements = capacity_bytes / element_bytes;
        let piece_bytes = request.count.min(piece_elements) * element_bytes;
        // A thread, or a team, works on at least one pack: more lanes than that would only add launch cost.
        let pack_threads = if spec.team { world.next_power_of_two() } else { 1 };
        let worthwhile = (piece_bytes.div_ceil(PACK_BYTES) * pack_threads).div_ceil(u64::from(threads) * lane_packs);
        let lanes = worthwhile.max(piece_bytes.div_ceil(lane_bytes)).clamp(1, u64::from(most_lanes)) as u32;
        let slots = shape.slots.unwrap_or(layout.ring_slots).min(layout.ring_slots);
        // Fewer lanes leave copies more: what fits is not less.
        let copied = copied(lanes);
        let slots = match spec.transfer {
            Transfer::CopyEngine => copied.slots,
            _ if spec.parameters.has_slots() => slots,
            _ => 0,
        };
        let shared_bytes = kernel.shared_bytes();
        let chunk_bytes = chunk_bytes as u32;
        Ok(Self { kernel, lanes, shared_bytes, chunk_bytes, slots, copied, piece_elements, launching })
    }

    /// The same plan where the message is a list of buckets, each of which begins with a pack of its own.
    ///
    /// Errors: [`Error::Unsupported`] where the variant has no such form.
    pub fn of_buckets(mut self) -> Result<Self> {
        let spec = &self.kernel.variant;
        if !spec.buckets {
            return Err(Error::unsupported(format!(
                "variant {} has no form for buckets: choose one whose row in the manifest says buckets = true",
                spec.name
            )));
        }
        self.kernel.buckets = true;
        Ok(self)
    }

    /// The parameters it runs with: all that the variant has.
    pub fn shape(&self) -> Shape {
        let kernel = &self.kernel;
        kernel.variant.parameters.of(Shape {
            lanes: Some(Lanes::UpTo(self.lanes)),
            threads: Some(kernel.threads),
            chunk: Some(Bytes(self.chunk_bytes.into())),
            stages: Some(kernel.stages),
            stage_packs: Some(kernel.stage_packs),
            producer_warps: Some(kernel.producer_warps),
            slots: Some(self.slots),
            copied: Some(self.copied.sixteenths),
            wait: Some(kernel.wait),
            sync: Some(kernel.sync),
            places: Some(kernel.places),
            metadata: Some(kernel.metadata),
            launch: Some(self.launching),
            output: Some(kernel.output),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::abi::HeapLayout;
    use crate::device::DeviceKind;
    use crate::memory::HeapLimits;
    use crate::types::{DType, ReduceOp, WorldSize};
    use crate::variant::Manifest;

    /// A plan for `bytes` of f32 over two GPUs whose heap has 16 lanes and rings of two slots of 4 KiB.
    fn plan(variant: &str, bytes: u64, shape: Shape) -> Result<Plan> {
        plan_on("sm_90a", variant, DType::F32, bytes, shape)
    }

    fn plan_on(arch: &str, variant: &str, dtype: DType, bytes: u64, shape: Shape) -> Result<Plan> {
        let layout = HeapLayout {
            state: 0,
            signatures: 0,
            lanes: 0,
            sentinel: 0,
            sentinel_bytes: 4096,
            ll: 0,
            ll_bytes: 4096,
            staging: 0,
            staging_bytes: 65536,
            ring: 0,
            slot_bytes: 4096,
            copies: 16 * 2 * 4096,
            copy_count: 16,
            lane_count: 16,
            ring_slots: 2,
        };
        let world_size = WorldSize::new(2)?;
        let terrain = Terrain::of(DeviceKind::Cuda, world_size, &layout, arch);
        let request = Request { count: bytes / dtype.size_bytes() as u64, dtype, op: ReduceOp::Sum, registered: false };
        Plan::new(&terrain, &request, &Choice { variant: Arc::clone(Manifest::embedded().get(variant)?), shape })
    }

    #[test]
    fn a_tuning_is_bounded_by_the_heap() {
        let plan = plan("ring", 64 << 20, Shape::default()).unwrap();
        assert_eq!((plan.lanes, plan.chunk_bytes, plan.slots, plan.kernel.wait), (16, 4096, 2, Wait::Adaptive));
        let by_size = Shape { lanes: Some(Lanes::BySize), ..Shape::default() };
        assert_eq!(self::plan("ring", 64 << 20, by_size).unwrap().lanes, 16);
    }

    #[test]
    fn a_choice_without_room_in_the_heap_is_refused() {
        let none = Shape::default();
        for (shape, expected) in [
            (Shape { lanes: Some(Lanes::UpTo(17)), ..none }, "lanes=17: this communicator's heap has room for 16"),
            (Shape { slots: Some(4), ..none }, "raise HeapLimits::ring_slots"),
            (Shape { chunk: Some(Bytes(8192)), ..none }, "raise HeapLimits::slot_bytes"),
            (Shape { stages: Some(2), ..none }, "variant ring: stages=2"),
            // The thread that would wait for credit is the 33rd.
            (Shape { threads: Some(32), ..none }, "threads=32 is not possible, a multiple of 32 from 64 to 1024 is"),
        ] {
            let message = plan("ring", 1 << 20, shape).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        assert_eq!(plan("one_shot_push", 1 << 20, Shape { threads: Some(32), ..none }).unwrap().kernel.threads, 32);
        let message = plan("ring", 1 << 48, none).unwrap_err().to_string();
        assert!(message.contains("exceed any memory"), "{message}");
    }

    #[test]
    fn a_ring_launched_by_steps_goes_round_once_a_piece() {
        let shape = Shape { launch: Some(Launching::PerStep), ..Shape::default() };
        let plan = plan("ring", 1 << 20, shape).unwrap();
        // 16 lanes, a chunk of 4 KiB for each of two shards.
        assert_eq!((plan.lanes, plan.piece_elements, plan.pieces(1 << 18).count()), (16, 16 * 2 * 1024, 8));
        assert_eq!(plan.launches().collect::<Vec<_>>(), [0..1, 1..2, 2..3]);
        let (whole, short) = (16 * 2 * 1024, 64);
        assert_eq!([0, 1023, 1024].map(|element| plan.shard_of(whole + short, element)), [0, 0, 1]);
        // The last piece has a pack a lane, and nothing for the second shard.
        assert_eq!([0, 3, 4].map(|element| plan.shard_of(whole + short, whole + element)), [0, 0, 0]);
        let persistent = self::plan("ring", 1 << 20, Shape::default()).unwrap();
        assert_eq!((persistent.pieces(1 << 18).count(), persistent.launches().next()), (1, Some(0..3)));
        assert!(self::plan("ring_specialized", 1 << 20, shape).unwrap_err().to_string().contains("launch=per_step"));
    }

    #[test]
    fn what_moves_any_bits_has_no_sentinels_and_one_mailbox_a_piece() {
        for (variant, sentinel) in [("push_all_gather", false), ("push_reduce_scatter", true), ("ring", false)] {
            assert_eq!(plan(variant, 1 << 20, Shape::default()).unwrap().kernel.sentinel, sentinel, "{variant}");
        }
        let plan = plan("push_all_gather", 3 << 12, Shape::default()).unwrap();
        assert_eq!((plan.piece_elements, plan.pieces(3 << 10).count()), (1 << 10, 3));
    }

    #[test]
    fn a_type_that_the_architecture_lacks_is_refused() {
        let plan = |arch, dtype| plan_on(arch, "one_shot_push", dtype, 1024, Shape::default());
        let error = plan("sm_80", DType::E5m2).unwrap_err();
        assert!(
            matches!(&error, Error::Unsupported(why) if why == "e5m2 needs sm_89 or newer, this is sm_80"),
            "{error}"
        );
        plan("sm_80", DType::Bf16).unwrap();
        plan("sm_90a", DType::E5m2).unwrap();
    }

    /// Shared memory that a CTA may have: 163 KiB on sm_80, 227 KiB from sm_90 on.
    #[test]
    fn every_point_of_the_manifest_fits_into_shared_memory() {
        for spec in Manifest::embedded().all() {
            let (arch, most) = if spec.runs_on("sm_80").is_ok() { ("sm_80", 163 << 10) } else { ("sm_90a", 227 << 10) };
            for (world_size, bytes) in (1..=8).flat_map(|ranks| [1 << 10, 1 << 30].map(|bytes| (ranks, bytes))) {
                let world_size = WorldSize::new(world_size).unwrap();
                let (layout, _) = HeapLimits::of(DeviceKind::Cuda, world_size).layout(world_size).unwrap();
                let terrain = Terrain::of(DeviceKind::Cuda, world_size, &layout, arch);
                for point in spec.parameters.points() {
                    let registered = point.is_direct();
                    let request = Request { count: bytes / 4, dtype: DType::F32, op: ReduceOp::Sum, registered };
                    let choice = Choice { variant: Arc::clone(spec), shape: Shape { slots: None, ..point } };
                    let plan = Plan::new(&terrain, &request, &choice).unwrap();
                    assert!(plan.shared_bytes <= most, "{choice}: {} of {most}", plan.shared_bytes);
                }
            }
        }
    }

    #[test]
    fn what_is_cut_to_a_heap_has_room_there() {
        let asked = Shape {
            lanes: Some(Lanes::UpTo(64)),
            chunk: Some(Bytes(1 << 20)),
            slots: Some(16),
            wait: Some(Wait::Spin),
            ..Shape::default()
        };
        assert!(plan("ring", 1 << 20, asked).is_err());
        let two = WorldSize::new(2).unwrap();
        let own = HeapLimits::of(DeviceKind::Cuda, two);
        let (layout, _) = HeapLimits { lanes: 16, slot_bytes: 4096, ring_slots: 2, ..own }.layout(two).unwrap();
        let terrain = Terrain::of(DeviceKind::Cuda, two, &layout, "sm_90a");
        let within = |shape| {
            Choice { shape, ..Choice::of(Manifest::embedded().get("ring").unwrap()) }.within(&terrain, 4 << 20).shape
        };
        let plan = plan("ring", 1 << 20, within(asked)).unwrap();
        assert_eq!((plan.lanes, plan.chunk_bytes, plan.slots, plan.kernel.wait), (16, 4096, 2, Wait::Spin));
        let fitting = Shape { lanes: Some(Lanes::BySize), chunk: Some(Bytes(64)), ..Shape::default() };
        assert_eq!(within(fitting), fitting);
    }

    #[test]
    fn a_choice_comes_before_the_tuning() {
        let shape = Shape { stages: Some(4), wait: Some(Wait::Spin), threads: Some(64), ..Shape::default() };
        let plan = plan("low_latency", 1 << 20, shape).unwrap();
        assert_eq!((plan.kernel.stages, plan.kernel.wait, plan.kernel.threads), (4, Wait::Spin, 64));
        assert_eq!((plan.chunk_bytes, plan.slots, plan.shared_bytes), (0, 0, 4 * 2 * 64 * 16));
        let source = plan.kernel.source().entry;
        let policies = "#define MYELON_WAIT spin\n#define MYELON_SYNC light\n";
        assert!(source.starts_with(policies) && source.contains("kStages = 4"), "{source}");
    }
}

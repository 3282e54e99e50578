//! What is searched: candidates, sizes and classes of types. Pure, and the same on all ranks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use myelon_ccl::abi::HeapLayout;
use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::{Buffers, DTypeClass, LaneTable};
use myelon_ccl::variant::{Choice, Manifest, Plan, Request, Shape, Terrain, VariantSpec};
use myelon_ccl::{DType, Error, ReduceOp, Result, SyncPolicy, WorldSize};

use crate::grid::{Values, combined, neighbours, own_shapes};

/// What every section is measured with: operators take the same time beside the link.
pub(crate) const OP: ReduceOp = ReduceOp::Sum;

/// Something that is timed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entrant {
    /// A variant in a shape that leaves nothing open.
    Myelon(Choice),
    /// Another library: measured to be compared with, never chosen.
    Rival(Baseline),
}

impl fmt::Display for Entrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Myelon(choice) => choice.fmt(f),
            Self::Rival(baseline) => f.write_str(baseline.name()),
        }
    }
}

impl Entrant {
    /// The variant and what a person looks at first.
    pub(crate) fn short(&self) -> String {
        let Self::Myelon(Choice { variant, shape }) = self else { return self.to_string() };
        let Shape { lanes, threads, chunk, stages, slots, .. } = *shape;
        let sync = shape.sync.filter(|&sync| sync != SyncPolicy::Light);
        format!("{}{}", variant.name, Shape { lanes, threads, chunk, stages, slots, sync, ..Shape::default() })
    }
}

/// Element types that one section of the table is for, and the one that it is measured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) dtypes: DTypeClass,
    pub(crate) dtype: DType,
}

/// What the candidates run on.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    pub(crate) device: DeviceKind,
    pub(crate) arch: String,
    pub(crate) ranks: WorldSize,
    /// Several ranks use one device.
    pub(crate) shared: bool,
    /// Most bytes of a heap; the default heap's if absent.
    pub(crate) footprint: Option<u64>,
}

/// How thoroughly it is searched.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Repeats of a candidate in the first pass.
    pub(crate) first: u32,
    /// Repeats of the best two of a size; those behind them have less.
    pub(crate) last: u32,
    /// Candidates of a size that go on from the first pass.
    pub(crate) keep: usize,
    /// Every candidate at every size, with all repeats.
    pub(crate) exhaustive: bool,
}

/// One class at one size.
pub(crate) type Case = (usize, u64);

/// All that there is to measure.
#[derive(Debug)]
pub(crate) struct Space {
    /// The manifest's own shapes first, other libraries behind all shapes.
    pub(crate) entrants: Vec<Entrant>,
    /// How many of them are the manifest's own shapes.
    pub(crate) seeds: usize,
    /// Those that differ from an entrant by a step of one or two parameters.
    pub(crate) neighbours: Vec<Vec<usize>>,
    pub(crate) classes: Vec<Class>,
    /// Growing; at least one.
    pub(crate) sizes: Vec<u64>,
    pub(crate) effort: Effort,
    /// Entrants that are measured with all repeats, whatever comes of it: what a table takes.
    pub(crate) judged: BTreeMap<Case, usize>,
    /// A heap with room for all of them.
    pub(crate) limits: HeapLimits,
    /// What was left out, a sentence each.
    pub(crate) left_out: Vec<String>,
    /// The first entrant with the same plan; none for one that cannot run.
    stand_ins: BTreeMap<Case, Vec<Option<usize>>>,
    ground: Ground,
    layout: HeapLayout,
}

impl Space {
    /// Of the variants that are enabled and trusted, those among `names`, or all if it is empty; each in the manifest's shapes and in
    /// every combination of `values` that it takes and the footprint allows.
    ///
    /// Errors: [`Error::InvalidArgument`] for an unknown name; [`Error::Unsupported`] where nothing is left.
    pub(crate) fn new(
        ground: Ground,
        names: &[String],
        values: &Values,
        classes: Vec<Class>,
        sizes: Vec<u64>,
        rivals: &[Baseline],
        effort: Effort,
    ) -> Result<Self> {
        let mut left_out = Vec::new();
        let manifest = Manifest::embedded();
        names.iter().try_for_each(|name| manifest.get(name).map(drop))?;
        let wanted = |spec: &&Arc<VariantSpec>| names.is_empty() || names.contains(&spec.name);
        let (mut seeds, mut grid) = (Vec::new(), Vec::new());
        for spec in manifest.enabled().filter(wanted) {
            if !spec.is_trusted_on(&ground.arch) {
                left_out.push(format!("{}: not tried on {}", spec.name, ground.arch));
                continue;
            }
            let own = own_shapes(spec, ground.device, ground.ranks);
            grid.extend(combined(spec, &own, values).into_iter().map(|shape| Choice { shape, ..Choice::of(spec) }));
            seeds.extend(own.into_iter().map(|shape| Choice { shape, ..Choice::of(spec) }));
        }
        grid.retain(|choice| !seeds.contains(choice));
        let mut kept: Vec<Choice> = Vec::new();
        let (mut own, count) = (0, seeds.len());
        for (place, choice) in seeds.into_iter().chain(grid).enumerate() {
            match fits(&ground, &kept, &choice)? {
                Ok(()) => {
                    own += usize::from(place < count);
                    kept.push(choice);
                }
                Err(why) => left_out.push(format!("{choice}: {why}")),
            }
        }
        let limits = limits(&ground, kept.iter());
        let (layout, _) = limits.layout(ground.ranks)?;
        let mut space = Self {
            neighbours: neighbours(&kept, rivals.len()),
            entrants: kept.into_iter().map(Entrant::Myelon).chain(rivals.iter().copied().map(Entrant::Rival)).collect(),
            seeds: own,
            classes,
            sizes,
            effort,
            judged: BTreeMap::new(),
            limits,
            left_out,
            stand_ins: BTreeMap::new(),
            ground,
            layout,
        };
        space.find_stand_ins();
        if space.stand_ins.values().any(|of_case| of_case.iter().all(Option::is_none)) {
            return Err(Error::unsupported("no candidate is left that can run: name other variants or data types"));
        }
        Ok(space)
    }

    /// Every class at every size.
    pub(crate) fn cases(&self) -> impl Iterator<Item = Case> {
        self.sizes.iter().flat_map(|&bytes| (0..self.classes.len()).map(move |class| (class, bytes)))
    }

    pub(crate) fn request(&self, (class, bytes): Case) -> Request {
        let dtype = self.classes[class].dtype;
        Request { count: Bytes(bytes).elements(dtype), dtype, op: OP, registered: false }
    }

    /// The entrant that runs as this one would: itself, or one with the same plan; none where it cannot run.
    pub(crate) fn stand_in(&self, case: Case, entrant: usize) -> Option<usize> {
        self.stand_ins.get(&case).map_or(Some(entrant), |of_case| of_case[entrant])
    }

    pub(crate) fn variant(&self, entrant: usize) -> Option<&str> {
        match &self.entrants[entrant] {
            Entrant::Myelon(choice) => Some(&choice.variant.name),
            Entrant::Rival(_) => None,
        }
    }

    /// Measures what a table takes too: an entrant of its own where there is none like it.
    ///
    /// Errors: [`Error::InvalidArgument`] for one that has nothing for these ranks, or needs a larger heap.
    pub(crate) fn judge(&mut self, table: &LaneTable) -> Result<()> {
        for case in self.cases().collect::<Vec<_>>() {
            let Class { dtypes, dtype } = self.classes[case.0];
            let row = table.choose(self.ground.ranks, dtypes, Buffers::Plain, case.1).ok_or_else(|| {
                Error::invalid(format!("{} has nothing for {} ranks and {dtype}", table.name(), self.ground.ranks))
            })?;
            let entrant = Entrant::Myelon(row.choice.clone());
            let known = self.entrants.iter().position(|known| *known == entrant);
            let place = known.unwrap_or(self.entrants.len());
            if known.is_none() {
                if limits(&self.ground, [&row.choice]).layout(self.ground.ranks)?.1
                    > self.limits.layout(self.ground.ranks)?.1
                {
                    return Err(Error::invalid(format!("{} needs a larger heap: raise --footprint", row.choice)));
                }
                self.entrants.push(entrant);
                self.neighbours.push(Vec::new());
            }
            self.judged.insert(case, place);
        }
        self.find_stand_ins();
        Ok(())
    }

    fn find_stand_ins(&mut self) {
        let of_case = |case| {
            let mut firsts = HashMap::new();
            let stand_in = |(place, entrant): (usize, &Entrant)| match entrant {
                Entrant::Rival(_) => Some(place),
                Entrant::Myelon(choice) => {
                    let Plan { kernel, lanes, chunk_bytes, slots, piece_elements, launching, .. } =
                        self.plan(case, choice).ok()?;
                    Some(*firsts.entry((kernel, lanes, chunk_bytes, slots, piece_elements, launching)).or_insert(place))
                }
            };
            (case, self.entrants.iter().enumerate().map(stand_in).collect())
        };
        self.stand_ins = self.cases().map(of_case).collect();
    }

    fn plan(&self, case: Case, choice: &Choice) -> Result<Plan> {
        let Ground { device, ref arch, ranks, .. } = self.ground;
        let terrain = Terrain { device, world_size: ranks, layout: &self.layout, sentinel: true, arch };
        Plan::new(&terrain, &self.request(case), choice)
    }
}

fn limits<'a>(ground: &Ground, choices: impl IntoIterator<Item = &'a Choice>) -> HeapLimits {
    HeapLimits::for_shapes(ground.device, ground.ranks, ground.shared, choices.into_iter().map(|choice| &choice.shape))
}

/// Whether a heap with room for `kept` and `choice` stays within the footprint; the reason if not.
fn fits(ground: &Ground, kept: &[Choice], choice: &Choice) -> Result<Result<(), String>> {
    let bytes = |limits: HeapLimits| limits.layout(ground.ranks).map(|(_, bytes)| bytes);
    let allowed = match ground.footprint {
        Some(bytes) => bytes,
        None => bytes(limits(ground, []))?,
    };
    let needed = bytes(limits(ground, kept.iter().chain([choice])))?;
    let why = || format!("over the footprint, {} MiB of {}", needed >> 20, allowed >> 20);
    Ok(if needed <= allowed { Ok(()) } else { Err(why()) })
}

#[cfg(test)]
mod tests {
    use myelon_ccl::variant::Lanes;

    use super::*;
    use crate::fake::space;

    fn place(space: &Space, wanted: &str) -> usize {
        space.entrants.iter().position(|entrant| entrant.to_string().starts_with(wanted)).unwrap()
    }

    #[test]
    fn the_manifests_shapes_come_first_and_everything_is_set() {
        let space = space(vec![1 << 20], &[DType::F32], &[], false);
        for (index, entrant) in space.entrants.iter().enumerate() {
            let Entrant::Myelon(choice) = entrant else {
                assert_eq!(index + 1, space.entrants.len(), "NCCL comes last");
                continue;
            };
            let shape = choice.shape;
            assert_eq!(choice.variant.parameters.of(shape.or(&full())), shape, "{choice}");
            assert!(space.entrants[..index].iter().all(|other| other != entrant), "{choice} is there twice");
        }
        assert!(space.seeds >= Manifest::embedded().enabled().count());
        assert!(space.entrants.len() > 500, "{}", space.entrants.len());
    }

    /// A shape with every parameter that a row of a table sets.
    fn full() -> Shape {
        let shape = "lanes = 1\nthreads = 32\nchunk = \"16\"\nstages = 2\nproducer_warps = 1\nslots = 2\nwait = \"spin\"\n\
                     sync = \"light\"\nplaces = \"coalesced\"\nmetadata = \"derived\"\nlaunch = \"persistent\"";
        toml::from_str(shape).unwrap()
    }

    #[test]
    fn candidates_of_one_plan_are_measured_once() {
        let space = space(vec![1 << 10, 1 << 24], &[DType::F32], &["one_shot_push"], false);
        let of =
            |lanes: u32| place(&space, &format!("one_shot_push lanes={lanes} threads=512 wait=adaptive sync=light"));
        let small = [16, 32, 128].map(|lanes| space.stand_in((0, 1 << 10), of(lanes)));
        assert!(small.iter().all(|&stand_in| stand_in == small[0]), "1 KiB has no work for a second lane");
        assert_eq!(space.stand_in((0, 1 << 24), of(16)), Some(of(16)));
        assert_eq!(space.stand_in((0, 12345), of(16)), Some(of(16)), "a size between others");
    }

    #[test]
    fn neighbours_are_a_step_apart() {
        let space = space(vec![1 << 20], &[DType::F32], &["one_shot_push", "ring"], false);
        let of = place(&space, "one_shot_push lanes=32 threads=128 wait=adaptive sync=light");
        let near: Vec<_> = space.neighbours[of].iter().map(|&entrant| space.entrants[entrant].short()).collect();
        for expected in
            ["lanes=64 threads=128", "lanes=32 threads=64", "lanes=64 threads=64", "lanes=32 threads=128 sync=strict"]
        {
            assert!(near.contains(&format!("one_shot_push {expected}")), "{expected}: {near:?}");
        }
        assert!(near.iter().all(|name| name.starts_with("one_shot_push") && !name.contains("lanes=128")), "{near:?}");
        assert!(
            space.neighbours.iter().enumerate().all(|(a, near)| near.iter().all(|&b| space.neighbours[b].contains(&a)))
        );
    }

    #[test]
    fn what_does_not_fit_is_left_out_and_said() {
        let ground = |footprint| Ground {
            device: DeviceKind::Cuda,
            arch: "sm_80".into(),
            ranks: WorldSize::new(8).unwrap(),
            shared: false,
            footprint,
        };
        let values = Values { chunk: vec![Bytes(1 << 20)], ..Values::default() };
        let effort = Effort { first: 1, last: 1, keep: 1, exhaustive: false };
        let names = ["ring".to_owned(), "one_shot_push".to_owned()];
        let class = Class { dtypes: DTypeClass::Float, dtype: DType::F32 };
        let new = |footprint| {
            Space::new(ground(footprint), &names, &values, vec![class], vec![1 << 20], &[], effort).unwrap()
        };
        let small = new(None);
        let said = |part: &str| small.left_out.iter().any(|why| why.contains(part));
        assert!(
            said("one_shot_push: not tried on sm_80") && said("chunk=1M") && said("over the footprint"),
            "{:?}",
            small.left_out
        );
        let large = new(Some(1 << 30));
        assert!(large.entrants.len() > small.entrants.len() && large.limits.slot_bytes == 1 << 20);
        assert!(Space::new(ground(Some(1)), &names, &values, vec![class], vec![1 << 20], &[], effort).is_err());
        let lanes = |entrant: &Entrant| {
            matches!(entrant, Entrant::Myelon(Choice { shape: Shape { lanes: Some(Lanes::UpTo(128)), .. }, .. }))
        };
        assert!(small.entrants.iter().all(lanes), "the manifest's");
    }
}

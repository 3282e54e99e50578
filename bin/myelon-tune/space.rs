//! What is searched: candidates, sizes and classes of types. Pure, and the same on all ranks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::Arc;

use myelon_ccl::abi::HeapLayout;
use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::DTypeClass;
use myelon_ccl::variant::{Choice, Lanes, Manifest, Plan, Request, Shape, Terrain, VariantSpec};
use myelon_ccl::{DType, Error, Launching, Metadata, Places, ReduceOp, Result, SyncPolicy, Wait, WorldSize};

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

/// The values that are combined; a parameter without any keeps those of the manifest's tunings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) lanes: Vec<u32>,
    pub(crate) threads: Vec<u32>,
    pub(crate) chunk: Vec<Bytes>,
    pub(crate) stages: Vec<u32>,
    pub(crate) sync: Vec<SyncPolicy>,
}

impl Values {
    /// What a device kind is searched with unless told otherwise. On the CPU, where times mean nothing and compiling takes longest,
    /// few.
    pub(crate) fn of(kind: DeviceKind) -> Self {
        let kib = |sizes: &[u64]| sizes.iter().map(|size| Bytes(size << 10)).collect();
        match kind {
            DeviceKind::Cuda => Self {
                lanes: vec![8, 16, 32, 64, 128],
                threads: vec![64, 128, 256, 512],
                chunk: kib(&[32, 64, 128, 256]),
                stages: vec![1, 2, 3, 4],
                sync: SyncPolicy::ALL.to_vec(),
            },
            DeviceKind::Cpu => Self { lanes: vec![1, 2, 4], ..Self::default() },
        }
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
            let own = own_shapes(spec, &ground);
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
        Request { count: Bytes(bytes).elements(dtype), dtype, op: OP }
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
    pub(crate) fn judge(&mut self, table: &myelon_ccl::table::LaneTable) -> Result<()> {
        use myelon_ccl::table::Buffers;
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

/// The manifest's tunings for the ranks, each once, with nothing left open.
fn own_shapes(spec: &VariantSpec, ground: &Ground) -> Vec<Shape> {
    let policies = Shape {
        wait: Some(Wait::Adaptive),
        sync: Some(SyncPolicy::Light),
        places: Some(Places::Coalesced),
        metadata: Some(Metadata::Derived),
        launch: Some(Launching::Persistent),
        ..Shape::default()
    };
    let is_for_ranks =
        |ranks: &Option<Vec<WorldSize>>| ranks.as_ref().is_none_or(|listed| listed.contains(&ground.ranks));
    let mut shapes: Vec<Shape> = Vec::new();
    for tuning in spec.tuning.iter().filter(|row| row.device == ground.device && is_for_ranks(&row.ranks)) {
        let shape = spec.parameters.of(tuning.shape.or(&policies));
        if !shapes.contains(&shape) {
            shapes.push(shape);
        }
    }
    shapes
}

/// The first of a variant's own shapes with every combination of the values that it takes.
fn combined(spec: &VariantSpec, own: &[Shape], values: &Values) -> Vec<Shape> {
    fn all<T: Copy + Ord>(values: &[T], own: impl Iterator<Item = T>) -> Vec<T> {
        let mut all: Vec<_> = values.iter().copied().chain(own).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
    let Some(&first) = own.first() else { return Vec::new() };
    let lanes = own.iter().filter_map(|shape| match shape.lanes {
        Some(Lanes::UpTo(lanes)) => Some(lanes),
        _ => None,
    });
    let lanes = all(&values.lanes, lanes);
    let threads = all(&values.threads, own.iter().filter_map(|shape| shape.threads));
    let chunk = all(&values.chunk, own.iter().filter_map(|shape| shape.chunk));
    let stages = all(&values.stages, own.iter().filter_map(|shape| shape.stages));
    let sync = all(&values.sync, own.iter().filter_map(|shape| shape.sync));
    let set = vec![first];
    let set = Shape::with_each(set, &lanes, |shape, lanes| shape.lanes = Some(Lanes::UpTo(lanes)));
    let set = Shape::with_each(set, &threads, |shape, threads| shape.threads = Some(threads));
    let set = Shape::with_each(set, &chunk, |shape, chunk| shape.chunk = Some(chunk));
    let set = Shape::with_each(set, &stages, |shape, stages| shape.stages = Some(stages));
    let set = Shape::with_each(set, &sync, |shape, sync| shape.sync = Some(sync));
    let mut taken: Vec<Shape> = Vec::new();
    for shape in set.into_iter().map(|shape| spec.parameters.of(shape)).filter(|shape| spec.takes(shape).is_ok()) {
        if !taken.contains(&shape) {
            taken.push(shape);
        }
    }
    taken
}

fn limits<'a>(ground: &Ground, choices: impl IntoIterator<Item = &'a Choice>) -> HeapLimits {
    HeapLimits::for_shapes(ground.device, ground.shared, choices.into_iter().map(|choice| &choice.shape))
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

/// Shapes of one variant are neighbours where one parameter, or two of them, have the next value of those that the variant is tried
/// with. Two, for more lanes of fewer threads can be better where more of either is worse.
fn neighbours(choices: &[Choice], rivals: usize) -> Vec<Vec<usize>> {
    fn number<T>(value: Option<T>, of: impl Fn(T) -> u64) -> u64 {
        value.map_or(0, |value| of(value) + 1)
    }
    let keys = |shape: &Shape| {
        [
            number(shape.lanes, |lanes| lanes.most(0).into()),
            number(shape.threads, u64::from),
            number(shape.chunk, |chunk| chunk.0),
            number(shape.stages, u64::from),
            number(shape.stage_packs, u64::from),
            number(shape.producer_warps, u64::from),
            number(shape.slots, u64::from),
            number(shape.wait, |wait| wait as u64),
            number(shape.sync, |sync| sync as u64),
            number(shape.places, |places| places as u64),
            number(shape.metadata, |metadata| metadata as u64),
            number(shape.launch, |launch| launch as u64),
        ]
    };
    let mut values: BTreeMap<&str, Vec<Vec<u64>>> = BTreeMap::new();
    for choice in choices {
        let of_variant = values.entry(&choice.variant.name).or_insert_with(|| vec![Vec::new(); 12]);
        for (known, key) in of_variant.iter_mut().zip(keys(&choice.shape)) {
            if let Err(place) = known.binary_search(&key) {
                known.insert(place, key);
            }
        }
    }
    let place = |choice: &Choice| -> Vec<usize> {
        let known = &values[choice.variant.name.as_str()];
        known.iter().zip(keys(&choice.shape)).map(|(known, key)| known.binary_search(&key).unwrap_or(0)).collect()
    };
    let places: Vec<_> = choices.iter().map(place).collect();
    let are_near = |a: usize, b: usize| {
        let steps = || places[a].iter().zip(&places[b]).map(|(&a, &b)| a.abs_diff(b));
        steps().all(|step| step <= 1) && (1..=2usize).contains(&steps().sum())
    };
    let same = |a: usize, b: usize| choices[a].variant.name == choices[b].variant.name;
    let of = |a: usize| (0..choices.len()).filter(|&b| same(a, b) && are_near(a, b)).collect();
    (0..choices.len()).map(of).chain((0..rivals).map(|_| Vec::new())).collect()
}

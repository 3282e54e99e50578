//! What is searched: candidates, sizes and classes of types. Pure, and the same on all ranks.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use myelon_ccl::abi::HeapLayout;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::{Buffers, DTypeClass, LaneTable};
use myelon_ccl::variant::{Choice, Manifest, Plan, Request, Shape, Terrain, VariantSpec};
use myelon_ccl::{DType, Error, Output, ReduceOp, Result, SyncPolicy};

use crate::grid::{FAR, Values, combined, neighbours, own_shapes};
use crate::ground::Ground;
use crate::shapes::none_takes;

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
        let output = shape.output.filter(|&output| output != Output::Staged);
        format!("{}{}", variant.name, Shape { lanes, threads, chunk, stages, slots, sync, output, ..Shape::default() })
    }
}

/// What one section of the table is for: element types, the one of them that it is measured with, and whose memory the operands are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) dtypes: DTypeClass,
    pub(crate) dtype: DType,
    pub(crate) buffers: Buffers,
}

/// By this name journals know it.
impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.buffers {
            Buffers::Plain => self.dtype.fmt(f),
            Buffers::Registered => write!(f, "{} {}", self.dtype, self.buffers),
        }
    }
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
    /// Every candidate at every size.
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
    /// Other libraries, behind all candidates of the grid.
    pub(crate) rivals: Range<usize>,
    /// Those that differ from an entrant by a step of one or two parameters.
    pub(crate) neighbours: Vec<Vec<usize>>,
    /// Plain ones first.
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
    /// The entrant that differs in being direct.
    directs: Vec<Option<usize>>,
    ground: Ground,
    layout: HeapLayout,
}

impl Space {
    /// Of the variants that are enabled and trusted, those among `names`, or all if it is empty; each in the manifest's shapes and in
    /// every combination of `values` that it takes and the footprint allows.
    ///
    /// Errors: [`Error::InvalidArgument`] for an unknown name, and a named value that nothing takes; [`Error::Unsupported`] where nothing is left.
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
            let own = own_shapes(spec, &ground, &values.output);
            grid.extend(
                combined(spec, &ground, &own, values).into_iter().map(|shape| Choice { shape, ..Choice::of(spec) }),
            );
            seeds.extend(own.into_iter().map(|shape| Choice { shape, ..Choice::of(spec) }));
        }
        if let Some(shape) = values.named.iter().find(|&&shape| ground.resident(shape) != shape) {
            let most = ground.most_lanes();
            return Err(Error::invalid(format!(
                "no candidate is tried with{shape}: the smallest GPU has {most} multiprocessors, name no more lanes"
            )));
        }
        let tried: Vec<_> = seeds.iter().chain(&grid).collect();
        if let Some(shape) = values.named.iter().find(|shape| !tried.iter().any(|choice| choice.shape.has(shape))) {
            return Err(not_tried(shape, &tried));
        }
        grid.retain(|choice| !seeds.contains(choice));
        let mut kept: Vec<Choice> = Vec::new();
        let (mut own, count, mut left_out_of_room) = (0, seeds.len(), 0);
        for (place, choice) in seeds.into_iter().chain(grid).enumerate() {
            match ground.fits(&kept, &choice)? {
                Ok(()) => {
                    own += usize::from(place < count);
                    kept.push(choice);
                }
                Err(why) => {
                    left_out_of_room += 1;
                    left_out.push(format!("{choice}: {why}"));
                }
            }
        }
        let limits = ground.limits(&kept);
        let (layout, _) = limits.layout(ground.ranks)?;
        let mut space = Self {
            neighbours: neighbours(&kept, rivals.len()),
            rivals: kept.len()..kept.len() + rivals.len(),
            entrants: kept.into_iter().map(Entrant::Myelon).chain(rivals.iter().copied().map(Entrant::Rival)).collect(),
            seeds: own,
            classes,
            sizes,
            effort,
            judged: BTreeMap::new(),
            limits,
            left_out,
            stand_ins: BTreeMap::new(),
            directs: Vec::new(),
            ground,
            layout,
        };
        space.relate();
        // Other libraries stand in for themselves everywhere.
        let runs = |(place, stand_in): (usize, &Option<usize>)| stand_in.is_some() && space.variant(place).is_some();
        if !space.stand_ins.values().all(|of_case| of_case.iter().enumerate().any(runs)) {
            let fix = match left_out_of_room {
                0 => "name other variants or data types",
                _ => "raise --footprint, or name variants that need less",
            };
            return Err(Error::unsupported(format!("no candidate is left that can run: {fix}")));
        }
        Ok(space)
    }

    /// Every class at every size.
    pub(crate) fn cases(&self) -> impl Iterator<Item = Case> {
        self.sizes.iter().flat_map(|&bytes| (0..self.classes.len()).map(move |class| (class, bytes)))
    }

    pub(crate) fn request(&self, (class, bytes): Case) -> Request {
        let Class { dtype, buffers, .. } = self.classes[class];
        let registered = buffers == Buffers::Registered;
        Request { count: Bytes(bytes).elements(dtype), dtype, op: OP, registered }
    }

    /// The class of the same types in plain buffers, of one in registered ones. Only what has direct outputs differs between them.
    pub(crate) fn plain_of(&self, class: usize) -> Option<usize> {
        let Class { dtypes, buffers, .. } = self.classes[class];
        let is_plain = |other: &Class| other.dtypes == dtypes && other.buffers == Buffers::Plain;
        self.classes.iter().position(is_plain).filter(|_| buffers == Buffers::Registered)
    }

    /// Whether results of an entrant go straight into registered outputs.
    pub(crate) fn is_direct(&self, entrant: usize) -> bool {
        matches!(&self.entrants[entrant], Entrant::Myelon(choice) if choice.shape.is_direct())
    }

    /// The entrant that differs from this one in being direct, if there is one.
    pub(crate) fn direct_of(&self, entrant: usize) -> Option<usize> {
        self.directs[entrant]
    }

    /// The entrant that runs as this one would: itself, or one with the same plan; none where it cannot run.
    pub(crate) fn stand_in(&self, case: Case, entrant: usize) -> Option<usize> {
        self.stand_ins(case)(entrant)
    }

    /// The same, of many.
    pub(crate) fn stand_ins(&self, case: Case) -> impl Fn(usize) -> Option<usize> {
        let of_case = self.stand_ins.get(&case);
        move |entrant| of_case.map_or(Some(entrant), |of_case| of_case[entrant])
    }

    /// Why an entrant without a stand-in cannot run.
    pub(crate) fn refusal(&self, case: Case, entrant: usize) -> Option<String> {
        match &self.entrants[entrant] {
            Entrant::Myelon(choice) => self.plan(case, choice).err().map(|error| error.to_string()),
            Entrant::Rival(_) => None,
        }
    }

    pub(crate) fn variant(&self, entrant: usize) -> Option<&str> {
        match &self.entrants[entrant] {
            Entrant::Myelon(choice) => Some(&choice.variant.name),
            Entrant::Rival(_) => None,
        }
    }

    /// Measures what a table takes too: an entrant of its own where there is none like it.
    ///
    /// Errors: [`Error::InvalidArgument`] for one of another device kind, one that has nothing for these ranks, or needs a larger heap.
    pub(crate) fn judge(&mut self, table: &LaneTable) -> Result<()> {
        table.serves(self.ground.device)?;
        for case in self.cases().collect::<Vec<_>>() {
            let Class { dtypes, dtype, buffers } = self.classes[case.0];
            let row = table.choose(self.ground.ranks, dtypes, buffers, case.1).ok_or_else(|| {
                Error::invalid(format!("{} has nothing for {} ranks and {dtype}", table.name(), self.ground.ranks))
            })?;
            let choice = Choice { shape: self.ground.resident(row.choice.shape), ..row.choice.clone() };
            let entrant = Entrant::Myelon(choice.clone());
            let known = self.entrants.iter().position(|known| *known == entrant);
            let place = known.unwrap_or(self.entrants.len());
            if known.is_none() {
                if let Err(why) = self.ground.fits(&self.choices(), &choice)? {
                    return Err(Error::invalid(format!("{choice}: {why}: raise --footprint")));
                }
                self.entrants.push(entrant);
                self.neighbours.push(Vec::new());
            }
            self.judged.insert(case, place);
        }
        self.limits = self.ground.limits(&self.choices());
        (self.layout, _) = self.limits.layout(self.ground.ranks)?;
        self.relate();
        Ok(())
    }

    fn choices(&self) -> Vec<Choice> {
        let own = self.entrants.iter().filter_map(|entrant| match entrant {
            Entrant::Myelon(choice) => Some(choice.clone()),
            Entrant::Rival(_) => None,
        });
        own.collect()
    }

    /// Finds which entrants run alike, and which differ in their outputs only.
    fn relate(&mut self) {
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
        let by_choice = |(place, entrant): (usize, &Entrant)| match entrant {
            Entrant::Myelon(Choice { variant, shape }) => Some(((variant.name.clone(), *shape), place)),
            Entrant::Rival(_) => None,
        };
        let places: HashMap<_, _> = self.entrants.iter().enumerate().filter_map(by_choice).collect();
        let of = |entrant: &Entrant| {
            let Entrant::Myelon(Choice { variant, shape }) = entrant else { return None };
            places.get(&(variant.name.clone(), Shape { output: Some(Output::Direct), ..*shape })).copied()
        };
        self.directs = self.entrants.iter().map(of).collect();
    }

    fn plan(&self, case: Case, choice: &Choice) -> Result<Plan> {
        let Ground { device, ref arch, ranks, .. } = self.ground;
        let terrain = Terrain::of(device, ranks, &self.layout, arch);
        Plan::new(&terrain, &self.request(case), choice)
    }
}

/// Why a value that was named is tried with none of the candidates.
fn not_tried(shape: &Shape, tried: &[&Choice]) -> Error {
    let specs: BTreeMap<_, _> = tried.iter().map(|choice| (&choice.variant.name, &choice.variant)).collect();
    if specs.values().any(|spec| spec.takes(shape).is_ok()) {
        let why = format!("it is far from the manifest's, name one that is less than {FAR} times as large or as small");
        return Error::invalid(format!("no candidate is tried with{shape}: {why}"));
    }
    let refusals = specs.values().map(|spec| (spec.parameters.of(*shape) == *shape, spec.takes(shape)));
    none_takes(shape, refusals.filter_map(|(has, taken)| Some((has, taken.err()?))))
}

#[cfg(test)]
mod tests;

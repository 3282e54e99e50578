//! Short conformance runs described by data, for children under sanitizers and with planted bugs.

use std::collections::BTreeMap;
use std::sync::{Arc, Barrier};

use myelon_ccl::variant::{Choice, Lanes, Request, Shape, VariantSpec};
use myelon_ccl::{DType, Launching, Options, Output, ReduceOp, WorldSize};
use serde::Deserialize;

use super::endings::Ending;
use super::{
    Bench, Operation, Random, expect_equal_on_all_ranks, on_ranks, options, shape, skew, small_limits, variants_of_all,
};

/// A sequence of seeded operations.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Run {
    pub(crate) name: String,
    ranks: u32,
    operations: u64,
    /// `"f32 sum"`: drawn from at random.
    pairs: Vec<String>,
    /// Names of the variants; every enabled one of every collective if absent.
    variants: Option<Vec<String>>,
    /// Whether parameters other than lanes are drawn as well, instead of the manifest's tuning.
    #[serde(default)]
    shapes: bool,
    /// How the steps of a ring are launched, if that is not drawn.
    launch: Option<Launching>,
    /// How results get into the output, if that is not drawn.
    output: Option<Output>,
    /// Slots of a ring, instead of those of `small_limits`.
    ring_slots: Option<u32>,
    /// Most lanes that are drawn, instead of 4.
    most_lanes: Option<u64>,
    /// Bytes of a staging half and of a slot, instead of those of `small_limits`.
    cell_bytes: Option<u64>,
    /// What the child is started with.
    #[serde(default)]
    pub(crate) environment: BTreeMap<String, String>,
    /// `thread` or `address`.
    pub(crate) sanitizer: Option<String>,
    /// An operation that cannot complete, after the others.
    ending: Option<Ending>,
}

impl Run {
    /// Whether this build has the variants that the run is about.
    pub(crate) fn is_possible(&self) -> bool {
        !self.variants().is_empty()
    }

    fn variants(&self) -> Vec<Arc<VariantSpec>> {
        let wanted = |spec: &Arc<VariantSpec>| self.variants.as_ref().is_none_or(|names| names.contains(&spec.name));
        variants_of_all().into_iter().filter(wanted).collect()
    }

    fn pairs(&self) -> Vec<(DType, ReduceOp)> {
        let pair = |text: &String| {
            let (dtype, op) = text.split_once(' ').unwrap_or_else(|| panic!("'{text}' is no pair like 'f32 sum'"));
            (dtype.parse().unwrap(), op.parse().unwrap())
        };
        self.pairs.iter().map(pair).collect()
    }

    /// Runs it in this process, every result compared with the reference. `MYELON_TIMEOUT` bounds each wait.
    pub(crate) fn perform(&self) {
        let (variants, pairs) = (self.variants(), self.pairs());
        let mut limits = small_limits();
        limits.ring_slots = self.ring_slots.unwrap_or(limits.ring_slots);
        // Few slots are few for copies too.
        limits.copy_bytes = if self.ring_slots.is_some() { 0 } else { limits.copy_bytes };
        limits.staging_bytes = self.cell_bytes.unwrap_or(limits.staging_bytes);
        limits.slot_bytes = self.cell_bytes.unwrap_or(limits.slot_bytes);
        let timeout = Options::from_env().unwrap().timeout;
        let options = Options { timeout, limits: Some(limits), ..options() };
        let world = WorldSize::new(self.ranks).unwrap();
        let hosts = Barrier::new(self.ranks as usize);
        let hashes = on_ranks(self.ranks, &options, |communicator| {
            let rank = communicator.rank();
            let bench = Bench::new(communicator, MOST_BYTES);
            let mut random = Random(7);
            let mut own = Random(7 ^ u64::from(rank.0));
            let mut hashes = Vec::new();
            for _ in 0..self.operations {
                let variant = random.pick(&variants);
                let (dtype, op) = *random.pick(&pairs);
                let count = count(&mut random, dtype);
                let request = Request { count, dtype, op, registered: false };
                let shape = shape(&mut random, variant, &request);
                let lanes =
                    self.most_lanes.map_or(shape.lanes, |most| Some(Lanes::UpTo(1 + random.below(most) as u32)));
                let shape = if self.shapes { Shape { lanes, ..shape } } else { Shape { lanes, ..Shape::default() } };
                let (launch, output) = (self.launch.or(shape.launch), self.output.or(shape.output));
                let shape = Shape { launch, output, ..shape };
                let (in_place, seed) = (random.below(2) == 0, random.next());
                if variant.supports(dtype, op, world).is_err() {
                    continue;
                }
                let choice = Choice { variant: Arc::clone(variant), shape };
                let request = Request { count, dtype, op, registered: false };
                let operation = Operation { choice, request, in_place, seed };
                hashes.push(bench.run(&operation, skew(&mut own, rank), own.below(2) as usize));
            }
            if let Some(ending) = self.ending {
                let shape = Shape { launch: self.launch, output: self.output, ..Shape::default() };
                ending.check(&bench, &Choice { variant: Arc::clone(&variants[0]), shape }, &hosts);
            }
            hashes
        });
        expect_equal_on_all_ranks(&hashes);
    }
}

/// Most bytes of a message: some pieces of everything under `small_limits`.
const MOST_BYTES: u64 = 12 << 10;

/// As many small messages as large ones: buffers are reused at other sizes.
fn count(random: &mut Random, dtype: DType) -> u64 {
    let most = MOST_BYTES / dtype.size_bytes() as u64;
    let scale = random.below(10);
    1 + random.below(most >> scale)
}

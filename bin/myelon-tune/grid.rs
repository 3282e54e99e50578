//! Which shapes of a variant are tried, and which of them are next to each other. Pure.

use std::collections::BTreeMap;

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Bytes;
use myelon_ccl::variant::{Choice, Lanes, Shape, VariantSpec};
use myelon_ccl::{Launching, Metadata, Output, Places, SyncPolicy, Wait, WorldSize};

use crate::ground::Ground;

/// Chunks that differ by this factor are no choice for the same variant.
pub(crate) const FAR: u64 = 64;
/// Parameters that tell shapes of a variant apart.
const PARAMETERS: usize = 14;
/// Ways of a result into the output, whether that is the input or not.
const OUTPUTS: [Output; 2] = [Output::Staged, Output::Direct];

/// The values that are combined; a parameter without any keeps those of the manifest's tunings.
#[derive(Clone, Debug, Default)]
pub(crate) struct Values {
    pub(crate) lanes: Vec<u32>,
    pub(crate) threads: Vec<u32>,
    pub(crate) chunk: Vec<Bytes>,
    pub(crate) stages: Vec<u32>,
    pub(crate) copied: Vec<u32>,
    pub(crate) wait: Vec<Wait>,
    pub(crate) sync: Vec<SyncPolicy>,
    /// Of variants that have more than one.
    pub(crate) output: Vec<Output>,
    /// Values that somebody named, a shape each: they have to be tried with something.
    pub(crate) named: Vec<Shape>,
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
                copied: vec![4, 6, 7, 8],
                wait: vec![Wait::Adaptive, Wait::Paired],
                sync: SyncPolicy::ALL.to_vec(),
                output: OUTPUTS.to_vec(),
                named: Vec::new(),
            },
            DeviceKind::Cpu => Self { lanes: vec![1, 2, 4], output: OUTPUTS.to_vec(), ..Self::default() },
        }
    }
}

/// The manifest's tunings for the ranks, each once with each of the `outputs` that the variant has, with nothing left open, and with
/// no more lanes than the ground has.
pub(crate) fn own_shapes(spec: &VariantSpec, ground: &Ground, outputs: &[Output]) -> Vec<Shape> {
    let Ground { device, ranks, .. } = *ground;
    let policies = Shape {
        wait: Some(Wait::Adaptive),
        sync: Some(SyncPolicy::Light),
        places: Some(Places::Coalesced),
        metadata: Some(Metadata::Derived),
        launch: Some(Launching::Persistent),
        output: Some(Output::Staged),
        ..Shape::default()
    };
    let has = |&output: &Output| spec.takes(&Shape { output: Some(output), ..Shape::default() }).is_ok();
    let outputs: Vec<_> = outputs.iter().copied().filter(has).collect();
    let is_for_ranks = |listed: &Option<Vec<WorldSize>>| listed.as_ref().is_none_or(|listed| listed.contains(&ranks));
    let mut shapes: Vec<Shape> = Vec::new();
    for tuning in spec.tuning.iter().filter(|row| row.device == device && is_for_ranks(&row.ranks)) {
        let shape = ground.resident(spec.parameters.of(tuning.shape.or(&policies)));
        for shape in Shape::with_each(vec![shape], &outputs, |shape, output| shape.output = Some(output)) {
            if !shapes.contains(&shape) {
                shapes.push(shape);
            }
        }
    }
    shapes
}

/// The first of a variant's own shapes with every combination of the values that it takes, and of lanes that the ground has.
pub(crate) fn combined(spec: &VariantSpec, ground: &Ground, own: &[Shape], values: &Values) -> Vec<Shape> {
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
    let resident: Vec<_> = values.lanes.iter().map(|&lanes| lanes.min(ground.most_lanes())).collect();
    let lanes = all(&resident, lanes);
    let threads = all(&values.threads, own.iter().filter_map(|shape| shape.threads));
    // A chunk that a copy engine moves is another kind of step than one of a lane.
    let is_like = |chunk: &Bytes| {
        own.iter().filter_map(|shape| shape.chunk).any(|own| chunk.0 * FAR > own.0 && own.0 * FAR > chunk.0)
    };
    let like: Vec<_> = values.chunk.iter().copied().filter(is_like).collect();
    let chunk = all(&like, own.iter().filter_map(|shape| shape.chunk));
    let stages = all(&values.stages, own.iter().filter_map(|shape| shape.stages));
    let copied = all(&values.copied, own.iter().filter_map(|shape| shape.copied));
    let wait = all(&values.wait, own.iter().filter_map(|shape| shape.wait));
    let sync = all(&values.sync, own.iter().filter_map(|shape| shape.sync));
    let output: Vec<_> = all(&[], own.iter().filter_map(|shape| shape.output));
    let set = vec![first];
    let set = Shape::with_each(set, &lanes, |shape, lanes| shape.lanes = Some(Lanes::UpTo(lanes)));
    let set = Shape::with_each(set, &threads, |shape, threads| shape.threads = Some(threads));
    let set = Shape::with_each(set, &chunk, |shape, chunk| shape.chunk = Some(chunk));
    let set = Shape::with_each(set, &stages, |shape, stages| shape.stages = Some(stages));
    let set = Shape::with_each(set, &copied, |shape, copied| shape.copied = Some(copied));
    let set = Shape::with_each(set, &wait, |shape, wait| shape.wait = Some(wait));
    let set = Shape::with_each(set, &sync, |shape, sync| shape.sync = Some(sync));
    let set = Shape::with_each(set, &output, |shape, output| shape.output = Some(output));
    let mut taken: Vec<Shape> = Vec::new();
    for shape in set.into_iter().map(|shape| spec.parameters.of(shape)).filter(|shape| spec.takes(shape).is_ok()) {
        if !taken.contains(&shape) {
            taken.push(shape);
        }
    }
    taken
}

/// Shapes of one variant are neighbours where one parameter, or two of them, have the next value of those that the variant is tried
/// with. Two, for more lanes of fewer threads can be better where more of either is worse.
pub(crate) fn neighbours(choices: &[Choice], rivals: usize) -> Vec<Vec<usize>> {
    fn number<T>(value: Option<T>, of: impl Fn(T) -> u64) -> u64 {
        value.map_or(0, |value| of(value) + 1)
    }
    let keys = |shape: &Shape| -> [u64; PARAMETERS] {
        [
            number(shape.lanes, |lanes| lanes.most(0).into()),
            number(shape.threads, u64::from),
            number(shape.chunk, |chunk| chunk.0),
            number(shape.stages, u64::from),
            number(shape.stage_packs, u64::from),
            number(shape.producer_warps, u64::from),
            number(shape.slots, u64::from),
            number(shape.copied, u64::from),
            number(shape.wait, |wait| wait as u64),
            number(shape.sync, |sync| sync as u64),
            number(shape.places, |places| places as u64),
            number(shape.metadata, |metadata| metadata as u64),
            number(shape.launch, |launch| launch as u64),
            number(shape.output, |output| output as u64),
        ]
    };
    let mut values: BTreeMap<&str, [Vec<u64>; PARAMETERS]> = BTreeMap::new();
    for choice in choices {
        let of_variant = values.entry(&choice.variant.name).or_default();
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

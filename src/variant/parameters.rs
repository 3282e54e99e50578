//! [`Parameters`]: which values of each parameter a variant takes, as its row in the manifest says.

use std::fmt;

use serde::Deserialize;

use super::shape::{Lanes, Shape};
use crate::abi::{LINE_BYTES, MAX_LANES};
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Launching, Metadata, Output, Places, SyncPolicy, Wait};

/// Most threads of a CTA, and so of a lane.
pub(super) const MOST_THREADS: u32 = 1024;

/// The values that a variant takes. A parameter without values is one that the variant does not have; lanes and threads it
/// always has, within the same bounds for all.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Parameters {
    chunk: Option<ChunkRange>,
    stages: Vec<u32>,
    stage_packs: Vec<u32>,
    producer_warps: Vec<u32>,
    slots: Vec<u32>,
    copied: Vec<u32>,
    wait: Vec<Wait>,
    sync: Vec<SyncPolicy>,
    places: Vec<Places>,
    metadata: Vec<Metadata>,
    launch: Vec<Launching>,
    output: Vec<Output>,
}

/// Every whole number of lines from one size to another.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct ChunkRange {
    from: Bytes,
    to: Bytes,
}

impl fmt::Display for ChunkRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a multiple of {LINE_BYTES} from {} to {}", self.from, self.to)
    }
}

impl Parameters {
    /// Whether a lane goes through its share in steps of a chunk.
    pub fn has_chunk(&self) -> bool {
        self.chunk.is_some()
    }

    /// The largest step of a lane; 0 of a variant that goes in none.
    pub(super) fn largest_chunk(&self) -> u64 {
        self.chunk.as_ref().map_or(0, |range| range.to.0)
    }

    /// Whether loads go through a pipeline.
    pub fn has_stages(&self) -> bool {
        !self.stages.is_empty()
    }

    /// Whether it has a ring of slots.
    pub fn has_slots(&self) -> bool {
        !self.slots.is_empty()
    }

    /// Whether results can get into the output in this way.
    pub fn has_output(&self, output: Output) -> bool {
        self.output.contains(&output)
    }

    /// `shape` without the parameters that the variant does not have.
    pub fn of(&self, shape: Shape) -> Shape {
        fn had<T, V>(values: &[T], value: Option<V>) -> Option<V> {
            value.filter(|_| !values.is_empty())
        }
        Shape {
            lanes: shape.lanes,
            threads: shape.threads,
            chunk: shape.chunk.filter(|_| self.has_chunk()),
            stages: had(&self.stages, shape.stages),
            stage_packs: had(&self.stages, shape.stage_packs),
            producer_warps: had(&self.producer_warps, shape.producer_warps),
            slots: had(&self.slots, shape.slots),
            copied: had(&self.copied, shape.copied),
            wait: had(&self.wait, shape.wait),
            sync: had(&self.sync, shape.sync),
            places: had(&self.places, shape.places),
            metadata: had(&self.metadata, shape.metadata),
            launch: had(&self.launch, shape.launch),
            output: had(&self.output, shape.output),
        }
    }

    /// Whether the variant takes every parameter that is set.
    ///
    /// Errors: [`Error::InvalidArgument`] naming variant, parameter, value and what it takes.
    pub(super) fn check(&self, variant: &str, shape: &Shape) -> Result<()> {
        let Shape {
            lanes,
            threads,
            chunk,
            stages,
            stage_packs,
            producer_warps,
            slots,
            copied,
            wait,
            sync,
            places,
            metadata,
            launch,
            output,
        } = *shape;
        let wrong = |parameter: &str, value: &dyn fmt::Display, taken: &str| {
            Error::invalid(format!("variant {variant}: {parameter}={value} is not possible, {taken} is"))
        };
        if let Some(Lanes::UpTo(lanes)) = lanes
            && !(1..=MAX_LANES).contains(&lanes)
        {
            return Err(wrong("lanes", &lanes, &format!("1 to {MAX_LANES}, or by_size,")));
        }
        if let Some(threads) = threads
            && !(threads.is_multiple_of(32) && (32..=MOST_THREADS).contains(&threads))
        {
            return Err(wrong("threads", &threads, &format!("a multiple of 32 up to {MOST_THREADS}")));
        }
        // One thread of the second warp waits for credit and publishes (`kProducerThread` of proto/slot_ring.cuh).
        if threads.is_some_and(|threads| threads < 64) && self.has_slots() {
            return Err(wrong("threads", &32, &format!("a multiple of 32 from 64 to {MOST_THREADS}")));
        }
        match (chunk, &self.chunk) {
            (Some(chunk), None) => return Err(lacks(variant, "chunk", &chunk)),
            (Some(chunk), Some(range)) if !range.contains(chunk) => {
                return Err(wrong("chunk", &chunk, &range.to_string()));
            }
            _ => {}
        }
        one_of(variant, "stages", stages, &self.stages)?;
        one_of(variant, "stage_packs", stage_packs, &self.stage_packs)?;
        one_of(variant, "producer_warps", producer_warps, &self.producer_warps)?;
        one_of(variant, "slots", slots, &self.slots)?;
        one_of(variant, "copied", copied, &self.copied)?;
        one_of(variant, "wait", wait, &self.wait)?;
        one_of(variant, "sync", sync, &self.sync)?;
        one_of(variant, "places", places, &self.places)?;
        one_of(variant, "metadata", metadata, &self.metadata)?;
        one_of(variant, "launch", launch, &self.launch)?;
        one_of(variant, "output", output, &self.output)
    }

    /// Every combination of the values that are listed: what tests draw from. Lanes, threads, chunk and the packs of a stage
    /// are left open.
    pub fn points(&self) -> Vec<Shape> {
        let points =
            Shape::with_each(vec![Shape::default()], &self.stages, |point, stages| point.stages = Some(stages));
        let points = Shape::with_each(points, &self.producer_warps, |point, warps| point.producer_warps = Some(warps));
        let points = Shape::with_each(points, &self.slots, |point, slots| point.slots = Some(slots));
        let points = Shape::with_each(points, &self.copied, |point, copied| point.copied = Some(copied));
        let points = Shape::with_each(points, &self.wait, |point, wait| point.wait = Some(wait));
        let points = Shape::with_each(points, &self.sync, |point, sync| point.sync = Some(sync));
        let points = Shape::with_each(points, &self.places, |point, places| point.places = Some(places));
        let points = Shape::with_each(points, &self.metadata, |point, metadata| point.metadata = Some(metadata));
        let points = Shape::with_each(points, &self.launch, |point, launch| point.launch = Some(launch));
        Shape::with_each(points, &self.output, |point, output| point.output = Some(output))
    }

    /// Some of [`Parameters::points`] that have every value between them, as few as that takes.
    pub fn covering_points(&self) -> Vec<Shape> {
        fn nth<T: Copy>(values: &[T], index: usize) -> Option<T> {
            values.get(index % values.len().max(1)).copied()
        }
        let lengths = [&self.stages, &self.producer_warps, &self.slots, &self.copied].map(Vec::len).into_iter();
        let policies = [self.wait.len(), self.sync.len(), self.places.len(), self.metadata.len()];
        let most = lengths.chain(policies).chain([self.launch.len(), self.output.len(), 1]).max();
        let point = |index| Shape {
            stages: nth(&self.stages, index),
            producer_warps: nth(&self.producer_warps, index),
            slots: nth(&self.slots, index),
            copied: nth(&self.copied, index),
            wait: nth(&self.wait, index),
            sync: nth(&self.sync, index),
            places: nth(&self.places, index),
            metadata: nth(&self.metadata, index),
            launch: nth(&self.launch, index),
            output: nth(&self.output, index),
            ..Shape::default()
        };
        (0..most.unwrap_or(1)).map(point).collect()
    }
}

impl ChunkRange {
    fn contains(&self, chunk: Bytes) -> bool {
        (self.from..=self.to).contains(&chunk) && chunk.0.is_multiple_of(LINE_BYTES)
    }
}

fn lacks(variant: &str, parameter: &str, value: &dyn fmt::Display) -> Error {
    Error::invalid(format!("variant {variant}: {parameter}={value} is not possible, it has no such parameter"))
}

fn one_of<T: PartialEq + fmt::Display>(variant: &str, parameter: &str, value: Option<T>, taken: &[T]) -> Result<()> {
    match value {
        Some(value) if taken.is_empty() => Err(lacks(variant, parameter, &value)),
        Some(value) if !taken.contains(&value) => {
            let taken: Vec<_> = taken.iter().map(T::to_string).collect();
            let detail = format!("{parameter}={value} is not possible, one of {} is", taken.join(", "));
            Err(Error::invalid(format!("variant {variant}: {detail}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::shape::tests::any_shape;
    use super::*;

    const BOTH: &str = "slots = [2, 4]\nwait = [\"adaptive\", \"spin\"]\nchunk = { from = \"256\", to = \"4K\" }";

    fn parameters(text: &str) -> Parameters {
        toml::from_str(text).unwrap()
    }

    #[test]
    fn a_wrong_value_is_named_with_what_is_taken() {
        let none = Shape::default();
        for (shape, expected) in [
            (Shape { slots: Some(8), ..none }, "variant v: slots=8 is not possible, one of 2, 4 is"),
            (Shape { stages: Some(3), ..none }, "variant v: stages=3 is not possible, it has no such parameter"),
            (Shape { wait: Some(Wait::Yield), ..none }, "wait=yield is not possible, one of adaptive, spin is"),
            (
                Shape { chunk: Some(Bytes(128)), ..none },
                "chunk=128 is not possible, a multiple of 128 from 256 to 4K is",
            ),
            (Shape { chunk: Some(Bytes(320)), ..none }, "chunk=320"),
            (Shape { lanes: Some(Lanes::UpTo(0)), ..none }, "lanes=0 is not possible, 1 to 128, or by_size, is"),
            (Shape { lanes: Some(Lanes::UpTo(129)), ..none }, "lanes=129"),
            (Shape { threads: Some(48), ..none }, "threads=48 is not possible, a multiple of 32 up to 1024 is"),
            (Shape { threads: Some(0), ..none }, "threads=0"),
        ] {
            let message = parameters(BOTH).check("v", &shape).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let message = parameters("").check("v", &Shape { chunk: Some(Bytes(64)), ..none }).unwrap_err().to_string();
        assert!(message.contains("chunk=64 is not possible, it has no such parameter"), "{message}");
    }

    #[test]
    fn points_are_every_combination() {
        let points = parameters(BOTH).points();
        assert_eq!(points.len(), 4);
        let last = Shape { slots: Some(4), wait: Some(Wait::Spin), ..Shape::default() };
        assert_eq!(points.last(), Some(&last));
        assert_eq!(parameters("").points(), [Shape::default()]);
    }

    #[test]
    fn a_shape_keeps_what_the_variant_has() {
        let all = Shape { lanes: Some(Lanes::BySize), slots: Some(2), stages: Some(3), ..Shape::default() };
        let kept = Shape { stages: None, ..all };
        assert_eq!(parameters(BOTH).of(all), kept);
        assert_eq!(parameters("").of(all), Shape { slots: None, ..kept });
    }

    #[test]
    fn covering_points_have_every_value() {
        let taken =
            parameters("stages = [1, 2, 3]\nwait = [\"adaptive\", \"spin\"]\nplaces = [\"coalesced\", \"swizzled\"]");
        let points = taken.covering_points();
        assert_eq!(points.len(), 3);
        assert!(points.iter().all(|point| taken.points().contains(point)));
        assert!((1..=3).all(|stages| points.iter().any(|point| point.stages == Some(stages))));
        assert!(Places::ALL.iter().all(|&places| points.iter().any(|point| point.places == Some(places))));
        assert_eq!(parameters("").covering_points(), [Shape::default()]);
    }

    #[test]
    fn an_unknown_parameter_is_refused() {
        assert!(toml::from_str::<Parameters>("depth = [2]").is_err());
    }

    proptest! {
        #[test]
        fn points_are_taken_and_nothing_beyond_the_values(shape in any_shape()) {
            let all = parameters(&format!("stages = [1, 3]\n{BOTH}"));
            for point in all.points() {
                all.check("v", &point).unwrap();
            }
            let within = |value: Option<u32>, taken: &[u32]| value.is_none_or(|value| taken.contains(&value));
            let fits = shape.lanes.is_none_or(|lanes| lanes == Lanes::BySize || (1..=128).contains(&lanes.most(0)))
                && shape.threads.is_none_or(|threads| threads > 0 && threads <= 1024 && threads % 32 == 0)
                && shape.chunk.is_none_or(|chunk| chunk.0 % 128 == 0 && (256..=4096).contains(&chunk.0))
                && within(shape.stages, &[1, 3])
                && within(shape.stage_packs, &[])
                && within(shape.producer_warps, &[])
                && within(shape.slots, &[2, 4])
                && within(shape.copied, &[])
                && shape.wait != Some(Wait::Yield)
                && (shape.sync, shape.places, shape.metadata) == (None, None, None)
                && (shape.launch, shape.output) == (None, None);
            prop_assert_eq!(all.check("v", &shape).is_ok(), fits, "{}", shape);
        }
    }
}

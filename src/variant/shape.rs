//! [`Shape`]: the parameters of a run as fields, by the same names in configurations, on the command line and in results.

use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::abi::MAX_LANES;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Launching, Metadata, Output, Places, SyncPolicy, Wait};

/// Parameters of a run. What is absent is left to whoever is asked next: a choice comes before the manifest's tuning, and
/// that before what the heap has. [`Parameters`](super::Parameters) says which values a variant takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
#[serde(default)]
pub struct Shape {
    /// CTAs of a launch, at most: a message without work for all of them runs on fewer.
    pub lanes: Option<Lanes>,
    /// Threads a CTA: a multiple of 32 up to 1024.
    pub threads: Option<u32>,
    /// Bytes a lane moves per step.
    pub chunk: Option<Bytes>,
    /// Depth of a pipeline of loads; 1 waits for each load before the next.
    pub stages: Option<u32>,
    /// Packs that a stage holds for each thread that is not of a producer warp; one of every rank if absent.
    pub stage_packs: Option<u32>,
    /// Warps that fill stages for the others, for variants that divide the work so: at most one a stage, and one warp less than
    /// there are.
    pub producer_warps: Option<u32>,
    /// Slots of a ring; a power of two.
    pub slots: Option<u32>,
    /// Sixteenths of a message that copies carry, for variants whose kernels carry the rest.
    pub copied: Option<u32>,
    /// What a thread does between two polls.
    pub wait: Option<Wait>,
    /// How many barriers of the CTA there are.
    pub sync: Option<SyncPolicy>,
    /// Where fetched packs lie in shared memory.
    pub places: Option<Places>,
    /// How consumer warps learn which piece lies in a stage.
    pub metadata: Option<Metadata>,
    /// How the steps of a ring are launched.
    pub launch: Option<Launching>,
    /// How results get into the output; direct if absent, where the variant has it and the output is registered.
    pub output: Option<Output>,
}

impl Shape {
    /// These parameters, and those of `other` where these are absent.
    pub fn or(self, other: &Self) -> Self {
        Self {
            lanes: self.lanes.or(other.lanes),
            threads: self.threads.or(other.threads),
            chunk: self.chunk.or(other.chunk),
            stages: self.stages.or(other.stages),
            stage_packs: self.stage_packs.or(other.stage_packs),
            producer_warps: self.producer_warps.or(other.producer_warps),
            slots: self.slots.or(other.slots),
            copied: self.copied.or(other.copied),
            wait: self.wait.or(other.wait),
            sync: self.sync.or(other.sync),
            places: self.places.or(other.places),
            metadata: self.metadata.or(other.metadata),
            launch: self.launch.or(other.launch),
            output: self.output.or(other.output),
        }
    }
}

impl Shape {
    /// Whether it is for registered outputs only.
    pub fn is_direct(&self) -> bool {
        matches!(self.output, Some(Output::Direct | Output::Landing))
    }

    /// Whether it has all parameters of `other`, with the same values.
    pub fn has(&self, other: &Self) -> bool {
        other.or(self) == *self
    }

    /// Each parameter that is there, alone.
    pub fn parts(&self) -> Vec<Self> {
        let none = Self::default();
        let parts = [
            Self { lanes: self.lanes, ..none },
            Self { threads: self.threads, ..none },
            Self { chunk: self.chunk, ..none },
            Self { stages: self.stages, ..none },
            Self { stage_packs: self.stage_packs, ..none },
            Self { producer_warps: self.producer_warps, ..none },
            Self { slots: self.slots, ..none },
            Self { copied: self.copied, ..none },
            Self { wait: self.wait, ..none },
            Self { sync: self.sync, ..none },
            Self { places: self.places, ..none },
            Self { metadata: self.metadata, ..none },
            Self { launch: self.launch, ..none },
            Self { output: self.output, ..none },
        ];
        parts.into_iter().filter(|part| *part != none).collect()
    }

    /// Every one of `shapes` with every one of `values`, as `set` puts it there; as they are where there are no values.
    pub fn with_each<T: Copy>(shapes: Vec<Self>, values: &[T], set: impl Fn(&mut Self, T)) -> Vec<Self> {
        if values.is_empty() {
            return shapes;
        }
        let with = |mut shape: Self, value| {
            set(&mut shape, value);
            shape
        };
        shapes
            .iter()
            .flat_map(|&shape| values.iter().map(move |&value| (shape, value)))
            .map(|(s, v)| with(s, v))
            .collect()
    }
}

/// The parameters that are there, as `name=value` with a space before each.
impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn part<T: fmt::Display>(f: &mut fmt::Formatter<'_>, name: &str, value: Option<T>) -> fmt::Result {
            value.map_or(Ok(()), |value| write!(f, " {name}={value}"))
        }
        part(f, "lanes", self.lanes)?;
        part(f, "threads", self.threads)?;
        part(f, "chunk", self.chunk)?;
        part(f, "stages", self.stages)?;
        part(f, "stage_packs", self.stage_packs)?;
        part(f, "producer_warps", self.producer_warps)?;
        part(f, "slots", self.slots)?;
        part(f, "copied", self.copied)?;
        part(f, "wait", self.wait)?;
        part(f, "sync", self.sync)?;
        part(f, "places", self.places)?;
        part(f, "metadata", self.metadata)?;
        part(f, "launch", self.launch)?;
        part(f, "output", self.output)
    }
}

/// How many lanes a run has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "LanesInFile")]
pub enum Lanes {
    /// So many at most: 1 to [`MAX_LANES`].
    UpTo(u32),
    /// `by_size`: more for larger messages, as far as the heap has them.
    BySize,
}

impl Lanes {
    const BY_SIZE: &str = "by_size";

    /// Most lanes for a message of `bytes`.
    ///
    /// The rule by size is the claim that 32 lanes suffice to 1 MiB, 64 to 8 MiB and 128 to 64 MiB. Its last part,
    /// `2^(ceil(log2(MiB)) + 2)` clamped to 128, is 128 for every size it is for.
    pub fn most(self, bytes: u64) -> u32 {
        match self {
            Self::UpTo(lanes) => lanes,
            Self::BySize if bytes <= 1 << 20 => 32,
            Self::BySize if bytes <= 8 << 20 => 64,
            Self::BySize => MAX_LANES,
        }
    }
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UpTo(lanes) => write!(f, "{lanes}"),
            Self::BySize => f.write_str(Self::BY_SIZE),
        }
    }
}

impl FromStr for Lanes {
    type Err = Error;

    /// Errors: [`Error::InvalidArgument`] for what is neither a number nor the policy.
    fn from_str(text: &str) -> Result<Self> {
        if text == Self::BY_SIZE {
            return Ok(Self::BySize);
        }
        let wrong = || Error::invalid(format!("'{text}' is neither a number of lanes nor {}", Self::BY_SIZE));
        text.parse().map(Self::UpTo).map_err(|_| wrong())
    }
}

/// In a configuration, a number is written without quotes.
#[derive(Deserialize)]
#[serde(untagged)]
enum LanesInFile {
    Number(u32),
    Text(String),
}

impl TryFrom<LanesInFile> for Lanes {
    type Error = Error;

    fn try_from(value: LanesInFile) -> Result<Self> {
        match value {
            LanesInFile::Number(lanes) => Ok(Self::UpTo(lanes)),
            LanesInFile::Text(text) => text.parse(),
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::option;
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn any_shape() -> impl Strategy<Value = Shape> {
        let lanes = prop_oneof![(0u32..200).prop_map(Lanes::UpTo), Just(Lanes::BySize)];
        let wait = proptest::sample::select(Wait::ALL);
        let sync = proptest::sample::select(SyncPolicy::ALL);
        let places = proptest::sample::select(Places::ALL);
        let metadata = proptest::sample::select(Metadata::ALL);
        let launch = proptest::sample::select(Launching::ALL);
        let output = proptest::sample::select(Output::ALL);
        let chunk = (0u64..1 << 22).prop_map(Bytes);
        let parts = (
            option::of(lanes),
            option::of(0u32..1100),
            option::of(chunk),
            option::of(0u32..6),
            option::of(0u32..10),
            option::of(0u32..6),
            option::of(0u32..20),
            option::of(0u32..20),
            (
                option::of(wait),
                option::of(sync),
                option::of(places),
                option::of(metadata),
                option::of(launch),
                option::of(output),
            ),
        );
        parts.prop_map(|(lanes, threads, chunk, stages, stage_packs, producer_warps, slots, copied, named)| Shape {
            lanes,
            threads,
            chunk,
            stages,
            stage_packs,
            producer_warps,
            slots,
            copied,
            wait: named.0,
            sync: named.1,
            places: named.2,
            metadata: named.3,
            launch: named.4,
            output: named.5,
        })
    }

    proptest! {
        #[test]
        fn what_is_displayed_is_what_a_file_says(shape in any_shape()) {
            // Every value in quotes but the numbers: as a configuration spells them.
            let line = |part: &str| {
                let (name, value) = part.split_once('=').unwrap();
                let quoted = name == "chunk" || value.parse::<u32>().is_err();
                if quoted { format!("{name} = \"{value}\"\n") } else { format!("{name} = {value}\n") }
            };
            let text: String = shape.to_string().split_whitespace().map(line).collect();
            prop_assert_eq!(toml::from_str::<Shape>(&text).unwrap(), shape);
        }

        #[test]
        fn what_is_set_stays_and_what_is_absent_is_filled(first in any_shape(), second in any_shape()) {
            let both = first.or(&second);
            prop_assert_eq!(both.or(&first), both);
            prop_assert_eq!(both.lanes, first.lanes.or(second.lanes));
            prop_assert!(both.has(&first));
            prop_assert_eq!(first.has(&second), second.parts().iter().all(|part| first.has(part)));
            let whole = first.parts().iter().fold(Shape::default(), |whole, part| whole.or(part));
            prop_assert_eq!(whole, first);
            prop_assert_eq!((both.slots, both.wait), (first.slots.or(second.slots), first.wait.or(second.wait)));
            prop_assert_eq!(first.or(&Shape::default()), first);
            prop_assert_eq!(Shape::default().or(&second), second);
        }

        #[test]
        fn lanes_by_size_follow_the_claim(bytes in 0u64..1 << 41) {
            let mib = bytes as f64 / (1u64 << 20) as f64;
            let claimed = match mib {
                ..=1.0 => 32,
                ..=8.0 => 64,
                ..=64.0 => 128,
                _ => (1u64 << (mib.log2().ceil() as u32 + 2)).clamp(1, 128),
            };
            prop_assert_eq!(u64::from(Lanes::BySize.most(bytes)), claimed);
            prop_assert_eq!(Lanes::UpTo(7).most(bytes), 7);
        }
    }

    #[test]
    fn lanes_change_at_the_claimed_sizes() {
        let lanes = [1, 1 << 20, (1 << 20) + 1, 8 << 20, (8 << 20) + 1, 1 << 40].map(|bytes| Lanes::BySize.most(bytes));
        assert_eq!(lanes, [32, 32, 64, 64, 128, 128]);
    }

    #[test]
    fn wrong_parts_say_what_would_be_right() {
        assert!("many".parse::<Lanes>().unwrap_err().to_string().contains("by_size"));
        for (text, expected) in
            [("lanes = \"many\"", "'many'"), ("wait = \"nap\"", "adaptive, spin, yield"), ("chunk = \"1Q\"", "'1Q'")]
        {
            let message = toml::from_str::<Shape>(text).unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

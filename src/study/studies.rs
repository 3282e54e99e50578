//! `configs/studies.toml`, parsed and checked.

use std::collections::BTreeSet;
use std::fmt;

use super::file::File;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::against::AUTO;
use crate::measure::{Baseline, Bytes, MOST_BATCH};
use crate::memory::HeapLimits;
use crate::types::{DType, ReduceOp, WorldSize};
use crate::variant::{Choice, Manifest, Plan, Request, Shape, Terrain};

const SOURCE: &str = include_str!("../../configs/studies.toml");
const SOURCE_NAME: &str = "configs/studies.toml";

/// A pattern, what is claimed of it, and what is measured to see whether that holds.
#[derive(Clone, Debug, PartialEq)]
pub struct Study {
    /// Letters, digits, `_` and `-`: the name in results and of its plot.
    pub name: String,
    /// The pattern, as a heading.
    pub title: String,
    /// What those who propose the pattern promise.
    pub claim: String,
    /// The speed-up that the claim names, at least; none where it only says that the pattern is faster.
    pub factor: Option<f64>,
    /// Why the times can be expected to be as they are.
    pub because: String,
    /// At least one.
    pub groups: Vec<Group>,
}

/// Candidates that are held against one baseline at the same sizes.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// What tells it from the other groups of its study; may be empty where there is only one.
    pub title: String,
    /// Ascending, each once, at least one.
    pub sizes: Vec<Bytes>,
    /// World sizes that it is for; all if absent.
    pub ranks: Option<Vec<WorldSize>>,
    /// Timed repeats of each candidate at each size.
    pub repeats: u32,
    /// Libraries that are measured beside the candidates, where they are installed.
    pub against: Vec<Baseline>,
    /// What the others are compared with.
    pub baseline: Candidate,
    /// At least one.
    pub candidates: Vec<Candidate>,
}

/// A variant in a shape.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate {
    /// Its name for people.
    pub label: String,
    /// A name of the manifest, or `auto` for what the lane table chooses.
    pub variant: String,
    /// What is set of its shape; nothing for `auto`.
    pub shape: Shape,
    /// Operations a graph; 0 where the host launches each.
    pub graph: u32,
    /// Operations a call, without graphs; 0 where each is a call of its own.
    pub batch: u32,
    /// Shown for comparison only: it does not have the pattern, so no verdict rests on it.
    pub aside: bool,
}

impl Study {
    /// Element type that studies are measured with.
    pub const DTYPE: DType = DType::F32;
    /// Operator that studies are measured with.
    pub const OP: ReduceOp = ReduceOp::Sum;

    /// The studies of this build.
    ///
    /// # Panics
    /// If the embedded file is wrong, which a unit test rules out.
    pub fn embedded() -> Vec<Self> {
        Self::parse(SOURCE_NAME, SOURCE).expect("the embedded studies are checked by a test")
    }

    /// Studies from TOML text.
    ///
    /// Errors: [`Error::Config`] with file, study, candidate and what would be right. A candidate that cannot be planned at one
    /// of its sizes is among them.
    pub fn parse(source_name: &str, text: &str) -> Result<Vec<Self>> {
        let wrong = |key: String, detail: String| Error::Config { source_name: source_name.into(), key, detail };
        let file: File = toml::from_str(text).map_err(|error| wrong("study".into(), error.to_string()))?;
        if file.schema != 1 {
            return Err(wrong("schema".into(), format!("{} is not known, this build reads 1", file.schema)));
        }
        if file.study.is_empty() {
            return Err(wrong("study".into(), "there is none: write a [[study]]".into()));
        }
        let mut names = BTreeSet::new();
        let mut studies = Vec::new();
        for raw in file.study {
            let key = format!("study {}", raw.name);
            let is_slug = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
            if raw.name.is_empty() || !raw.name.bytes().all(is_slug) {
                return Err(wrong(key, "a name has letters, digits, _ and - only: it names a file".into()));
            }
            if !names.insert(raw.name.clone()) {
                return Err(wrong(key, "named twice".into()));
            }
            if raw.factor.is_some_and(|factor| !(factor > 1.0 && factor.is_finite())) {
                return Err(wrong(key, "factor is a speed-up above 1: leave it out where the claim names none".into()));
            }
            let study = Self {
                groups: raw.group.into_iter().map(Group::from).collect(),
                name: raw.name,
                title: raw.title,
                claim: raw.claim,
                factor: raw.factor,
                because: raw.because,
            };
            study.check().map_err(|(part, detail)| wrong(format!("{key}{part}"), detail))?;
            studies.push(study);
        }
        Ok(studies)
    }

    /// What is wrong, behind where in the study it is.
    fn check(&self) -> Result<(), (String, String)> {
        let mut titles = BTreeSet::new();
        if self.groups.is_empty() {
            return Err((String::new(), "it measures nothing: write a [[study.group]]".into()));
        }
        for group in &self.groups {
            let part = if group.title.is_empty() { String::new() } else { format!(", group '{}'", group.title) };
            if !titles.insert(&group.title) {
                return Err((part, "two groups of one title: give each a title of its own".into()));
            }
            group.check().map_err(|(candidate, detail)| (format!("{part}{candidate}"), detail))?;
        }
        Ok(())
    }
}

impl Group {
    /// The baseline, then the others.
    pub fn entrants(&self) -> impl Iterator<Item = &Candidate> {
        std::iter::once(&self.baseline).chain(&self.candidates)
    }

    fn check(&self) -> Result<(), (String, String)> {
        let wrong = |detail: &str| Err((String::new(), detail.to_owned()));
        if self.sizes.is_empty() || !self.sizes.is_sorted_by(|a, b| a < b) {
            return wrong("sizes ascend, each once, at least one");
        }
        if self.repeats == 0 {
            return wrong("repeats = 0 measures nothing: use 1 or more");
        }
        if self.candidates.is_empty() {
            return wrong("nothing is compared with the baseline: write candidates");
        }
        let (mut labels, mut runs) = (BTreeSet::new(), BTreeSet::new());
        for candidate in self.entrants() {
            let part = format!(", '{}'", candidate.label);
            if candidate.label.is_empty() || !labels.insert(&candidate.label) {
                return Err((part, "a label is not empty, and no other candidate of the group has it".into()));
            }
            if !runs.insert((candidate.to_string(), candidate.issue())) {
                return Err((part, "another candidate of the group is the same in all but the label".into()));
            }
            if candidate.graph > 0 && candidate.batch > 0 {
                return Err((part, "graph and batch exclude each other: set graph = 0 for a batch".into()));
            }
            if candidate.batch > MOST_BATCH {
                let detail =
                    format!("batch = {} is more than a call may queue: use {MOST_BATCH} or less", candidate.batch);
                return Err((part, detail));
            }
            candidate.check(&self.sizes).map_err(|error| (part, error.to_string()))?;
        }
        Ok(())
    }
}

impl Candidate {
    /// Operations a graph and operations a call.
    pub fn issue(&self) -> (u32, u32) {
        (self.graph, self.batch)
    }

    /// The variant in its shape; none for `auto`.
    ///
    /// Errors: those of [`Manifest::get`].
    pub fn choice(&self) -> Result<Option<Choice>> {
        if self.variant == AUTO {
            return Ok(None);
        }
        Ok(Some(Choice { shape: self.shape, ..Choice::of(Manifest::embedded().get(&self.variant)?) }))
    }

    /// A plan at every size, on both kinds of device: as a run would make it, in a heap that has room.
    fn check(&self, sizes: &[Bytes]) -> Result<()> {
        let Some(choice) = self.choice()? else {
            let free = self.shape == Shape::default();
            return if free { Ok(()) } else { Err(Error::invalid("auto takes no shape: the lane table chooses it")) };
        };
        // First, for a heap would refuse a value in other words.
        choice.variant.takes(&self.shape)?;
        let world_size = WorldSize::new(2)?;
        for device in [DeviceKind::Cuda, DeviceKind::Cpu] {
            let (layout, _) = HeapLimits::for_shapes(device, world_size, false, [&self.shape]).layout(world_size)?;
            // The CPU has every instruction; what a GPU lacks is left out where it is known.
            let terrain = Terrain::of(device, world_size, &layout, "cpu");
            for size in sizes {
                let request = Request {
                    count: size.elements(Study::DTYPE),
                    dtype: Study::DTYPE,
                    op: Study::OP,
                    registered: self.shape.is_direct(),
                };
                Plan::new(&terrain, &request, &choice)?;
            }
        }
        Ok(())
    }
}

/// What was asked for, as results say it: the variant and what is set of its shape.
impl fmt::Display for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.variant, self.shape)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One study of one group: `ring` with 2 and 4 slots, and eight lanes beside them, against `signal_two_shot`.
    pub(crate) const SMALL: &str = r#"
schema = 1
[[study]]
name = "slots"
title = "Slots"
claim = "Slots double the speed."
factor = 2.0
because = "Of credits."
[[study.group]]
sizes = ["64K", "1M"]
baseline = { label = "signals", variant = "signal_two_shot" }
candidates = [
    { label = "2 slots", variant = "ring", slots = 2 },
    { label = "4 slots", variant = "ring", slots = 4 },
    { label = "8 lanes", variant = "ring", lanes = 8, aside = true },
]
"#;

    pub(crate) fn small() -> Study {
        Study::parse("small.toml", SMALL).unwrap().remove(0)
    }

    #[test]
    fn the_embedded_studies_are_sound() {
        let studies = Study::embedded();
        assert!(studies.len() >= 8);
        for study in &studies {
            assert!(!study.claim.is_empty() && !study.because.is_empty(), "{}", study.name);
            let judged = study.groups.iter().all(|group| group.candidates.iter().any(|candidate| !candidate.aside));
            assert!(judged, "{}: a group of which nothing can be said", study.name);
        }
    }

    #[test]
    fn a_study_is_read_with_its_defaults() {
        let study = small();
        let group = &study.groups[0];
        assert_eq!((group.repeats, group.ranks.clone(), group.against.len()), (30, None, 0));
        let said: Vec<_> = group.entrants().map(ToString::to_string).collect();
        assert_eq!(said, ["signal_two_shot", "ring slots=2", "ring slots=4", "ring lanes=8"]);
        assert!(group.entrants().all(|candidate| candidate.graph == 20));
        let eager = SMALL.replace("slots = 2 }", "slots = 2, graph = 0 }");
        assert_eq!(Study::parse("x", &eager).unwrap()[0].groups[0].candidates[0].graph, 0);
    }

    #[test]
    fn mistakes_are_named_with_their_place() {
        for (from, to, expected) in [
            ("schema = 1", "schema = 2", "small.toml: schema: 2 is not known"),
            ("slots = 4 }", "slots = 3 }", "study slots, '4 slots': variant ring: slots=3 is not possible"),
            ("slots = 4 }", "slotz = 4 }", "unknown field `slotz`"),
            (
                "slots = 4 }",
                "slots = 4, graph = 0, batch = 257 }",
                "'4 slots': batch = 257 is more than a call may queue",
            ),
            ("slots = 4 }", "stages = 4 }", "stages=4 is not possible, it has no such parameter"),
            ("slots = 4 }", "slots = 2 }", "'4 slots': another candidate of the group is the same"),
            ("\"4 slots\"", "\"2 slots\"", "no other candidate of the group has it"),
            ("\"signal_two_shot\"", "\"signals\"", "signals"),
            ("\"signal_two_shot\"", "\"auto\", lanes = 4", "'signals': auto takes no shape"),
            ("variant = \"ring\", slots = 2", "variant = \"two_shot_tma\", threads = 32", "needs 64 or more"),
            ("\"64K\", \"1M\"", "\"1M\", \"64K\"", "sizes ascend"),
            ("\"64K\", \"1M\"", "\"64Q\"", "'64Q' is not a size"),
            ("\"slots\"", "\"a/b\"", "it names a file"),
            ("factor = 2.0", "factor = 0.5", "factor is a speed-up above 1"),
            ("sizes", "repeats = 0\nsizes", "repeats = 0 measures nothing"),
            ("sizes", "ranks = [9]\nsizes", "a world of 9 ranks"),
        ] {
            assert!(SMALL.contains(from), "{from}");
            let message = Study::parse("small.toml", &SMALL.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(message.contains(expected), "{to}: {message}");
        }
        let two = format!("{SMALL}{}", SMALL.replace("schema = 1", ""));
        assert!(Study::parse("x", &two).unwrap_err().to_string().contains("named twice"));
    }
}

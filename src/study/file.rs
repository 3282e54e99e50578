//! The form of `configs/studies.toml`, before anything in it is checked.

use serde::Deserialize;

use super::studies::{Candidate, Group};
use crate::measure::{Baseline, Bytes};
use crate::types::WorldSize;
use crate::variant::Shape;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    pub(super) schema: u32,
    #[serde(default)]
    pub(super) study: Vec<RawStudy>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawStudy {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) claim: String,
    pub(super) factor: Option<f64>,
    pub(super) because: String,
    #[serde(default)]
    pub(super) group: Vec<RawGroup>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawGroup {
    #[serde(default)]
    pub(super) title: String,
    pub(super) sizes: Vec<Bytes>,
    pub(super) ranks: Option<Vec<WorldSize>>,
    #[serde(default = "default_graph")]
    pub(super) graph: u32,
    #[serde(default = "default_repeats")]
    pub(super) repeats: u32,
    #[serde(default)]
    pub(super) against: Vec<Baseline>,
    pub(super) baseline: RawCandidate,
    pub(super) candidates: Vec<RawCandidate>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCandidate {
    pub(super) label: String,
    pub(super) variant: String,
    pub(super) graph: Option<u32>,
    #[serde(default)]
    pub(super) batch: u32,
    #[serde(default)]
    pub(super) aside: bool,
    #[serde(flatten)]
    pub(super) shape: Shape,
}

fn default_graph() -> u32 {
    20
}

fn default_repeats() -> u32 {
    30
}

impl From<RawGroup> for Group {
    fn from(raw: RawGroup) -> Self {
        let graph = raw.graph;
        let candidate = |raw: RawCandidate| Candidate {
            label: raw.label,
            variant: raw.variant,
            shape: raw.shape,
            graph: raw.graph.unwrap_or(graph),
            batch: raw.batch,
            aside: raw.aside,
        };
        Self {
            title: raw.title,
            sizes: raw.sizes,
            ranks: raw.ranks,
            repeats: raw.repeats,
            against: raw.against,
            baseline: candidate(raw.baseline),
            candidates: raw.candidates.into_iter().map(candidate).collect(),
        }
    }
}

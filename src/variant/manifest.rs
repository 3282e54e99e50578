//! `configs/variants.toml`, parsed and checked.

use std::sync::{Arc, OnceLock};

use serde::Deserialize;

use super::arch::capability_of;
use super::parameters::Parameters;
use super::properties::{Capacity, Mailbox, Order, Rounding, Selection, Transfer};
use super::shape::Shape;
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::Bytes;
use crate::types::{Collective, DType, Output, ReduceOp, WorldSize};

const SOURCE: &str = include_str!("../../configs/variants.toml");
const SOURCE_NAME: &str = "configs/variants.toml";

/// Every variant this build has, in the manifest's order.
#[derive(Debug)]
pub struct Manifest {
    variants: Vec<Arc<VariantSpec>>,
}

/// One variant: what it is, what it supports, and its default shapes.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VariantSpec {
    /// The name, which is also the kernel's file and function.
    pub name: String,
    /// One line for `--help` and tables.
    pub summary: String,
    /// The collective that it is a kernel of; an all-reduce if absent.
    #[serde(default)]
    pub collective: Collective,
    /// Whether sweeps of all variants and `auto` may take it.
    pub enabled: bool,
    /// The measurement that ruled it out, for a disabled one.
    #[serde(default)]
    pub disabled_because: Option<String>,
    dtypes: Selection<DType>,
    operators: Selection<ReduceOp>,
    /// Mailboxes it uses.
    pub mailbox: Mailbox,
    /// What bounds one launch.
    pub capacity: Capacity,
    /// Who moves the bytes between ranks.
    #[serde(default)]
    pub transfer: Transfer,
    /// How often narrow floats are rounded.
    pub rounding: Rounding,
    /// In which order ranks are reduced.
    pub order: Order,
    /// Whether a team of threads, one for each rank, works on a pack (`cuda/base/team.cuh`), instead of one thread.
    #[serde(default)]
    pub team: bool,
    /// Whether its launches may come up while the one before still runs (programmatic dependent launch).
    #[serde(default)]
    pub dependent: bool,
    /// Whether it has a form for a list of buckets (`cuda/base/buckets.cuh`).
    #[serde(default)]
    pub buckets: bool,
    /// Architectures on which the protocol's hardware assumption has been tried; `None` where PTX guarantees what it needs.
    #[serde(default)]
    pub tried_on: Option<Vec<String>>,
    /// Oldest architecture that has the instructions it uses, `sm_90`; any if absent. The CPU device has them all.
    #[serde(default, deserialize_with = "compute_capability")]
    pub min_arch: Option<u32>,
    /// The values that its parameters take.
    #[serde(default)]
    pub parameters: Parameters,
    /// Default shapes, first fit.
    pub tuning: Vec<Tuning>,
}

/// A default shape.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tuning {
    /// Device kind it is for.
    pub device: DeviceKind,
    /// Largest message it is for; any if absent.
    #[serde(default)]
    pub up_to: Option<Bytes>,
    /// World sizes it is for; any if absent.
    #[serde(default)]
    pub ranks: Option<Vec<WorldSize>>,
    /// The shape; lanes and threads are always there. Each part is bounded by what the heap has.
    #[serde(flatten)]
    pub shape: Shape,
}

fn compute_capability<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    capability_of(&text)
        .map(Some)
        .ok_or_else(|| serde::de::Error::custom(format!("'{text}' is not an architecture like sm_90")))
}

impl VariantSpec {
    /// Whether it is a variant of a collective; the reason if not.
    pub fn implements(&self, collective: Collective) -> Result<()> {
        if self.collective == collective {
            return Ok(());
        }
        let names: Vec<_> = Manifest::embedded().enabled_of(collective).map(|spec| spec.name.as_str()).collect();
        Err(Error::invalid(format!(
            "variant {} is one of {}, and this is {collective}: its variants are {}",
            self.name,
            self.collective,
            names.join(", ")
        )))
    }

    /// Whether it has a kernel for this pair, over so many ranks; the reason if not.
    pub fn supports(&self, dtype: DType, op: ReduceOp, ranks: WorldSize) -> Result<()> {
        if !self.dtypes.has(dtype, |dtype| !dtype.is_fp8()) {
            return Err(Error::unsupported(format!("variant {} does not support {dtype}", self.name)));
        }
        if !self.operators.has(op, |_| true) {
            return Err(Error::unsupported(format!("variant {} does not support {op}", self.name)));
        }
        // Over two ranks no sum is handed on.
        let hands_on_sums = self.rounding == Rounding::PerHop && op == ReduceOp::Avg && ranks.get() > 2;
        if hands_on_sums && dtype.has_narrow_range() {
            return Err(Error::unsupported(format!(
                "variant {} does not average {dtype} over more than two ranks: it hands on sums as {dtype}, which overflow where \
                 the average does not",
                self.name
            )));
        }
        Ok(())
    }

    /// Whether this architecture has the instructions it uses; the reason if not.
    pub fn runs_on(&self, arch: &str) -> Result<()> {
        match (self.min_arch, capability_of(arch)) {
            (Some(least), Some(have)) if have < least => Err(Error::unsupported(format!(
                "variant {} needs sm_{least} or newer, this device is {arch}",
                self.name
            ))),
            _ => Ok(()),
        }
    }

    /// Whether it takes these parameters.
    ///
    /// Errors: [`Error::InvalidArgument`] naming the parameter, its value and what the variant takes.
    pub fn takes(&self, shape: &Shape) -> Result<()> {
        self.parameters.check(&self.name, shape)
    }

    /// Whether it takes these parameters for every operation, as what is chosen by its size has to.
    ///
    /// Errors: besides those of [`VariantSpec::takes`], [`Error::InvalidArgument`] for parameters that some operations cannot have.
    pub fn takes_always(&self, shape: &Shape) -> Result<()> {
        self.takes(shape)?;
        if shape.output == Some(Output::Landing) {
            return Err(Error::invalid(
                "output=landing: operations in place cannot have it, and a row is for them too; take direct, or leave it out",
            ));
        }
        Ok(())
    }

    /// Whether `auto` may take it on this architecture.
    pub fn is_trusted_on(&self, arch: &str) -> bool {
        self.runs_on(arch).is_ok() && self.tried_on.as_ref().is_none_or(|tried| tried.iter().any(|known| known == arch))
    }

    /// The default shape for a message.
    pub fn tuning(&self, device: DeviceKind, ranks: WorldSize, bytes: u64) -> Result<&Tuning> {
        let is_for_ranks = |row: &&Tuning| row.ranks.as_ref().is_none_or(|listed| listed.contains(&ranks));
        let mut rows = self.tuning.iter().filter(|row| row.device == device).filter(is_for_ranks);
        rows.find(|row| row.up_to.is_none_or(|limit| bytes <= limit.0))
            .ok_or_else(|| Error::unsupported(format!("variant {} has no tuning for {device}", self.name)))
    }
}

impl Manifest {
    /// The manifest embedded in this build.
    ///
    /// # Panics
    /// If the embedded file is wrong, which a unit test rules out.
    pub fn embedded() -> &'static Self {
        static MANIFEST: OnceLock<Manifest> = OnceLock::new();
        MANIFEST.get_or_init(|| Self::parse(SOURCE).expect("the embedded manifest is checked by a test"))
    }

    /// The text of the embedded manifest; part of what ranks compare.
    pub fn source() -> &'static str {
        SOURCE
    }

    fn parse(text: &str) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct File {
            variant: Vec<Arc<VariantSpec>>,
        }
        let wrong =
            |key: &str, detail: String| Error::Config { source_name: SOURCE_NAME.into(), key: key.into(), detail };
        let file: File = toml::from_str(text).map_err(|error| wrong("variant", error.to_string()))?;
        for (index, spec) in file.variant.iter().enumerate() {
            if file.variant[..index].iter().any(|other| other.name == spec.name) {
                return Err(wrong(&spec.name, "named twice".into()));
            }
            if !spec.enabled && spec.disabled_because.is_none() {
                return Err(wrong(&spec.name, "disabled without disabled_because".into()));
            }
            if spec.transfer.has_copies() != (spec.capacity == Capacity::Copies) {
                return Err(wrong(&spec.name, "a transfer by copies and capacity = \"copies\" go together".into()));
            }
            for row in &spec.tuning {
                spec.takes(&row.shape).map_err(|error| wrong(&spec.name, error.to_string()))?;
                let Shape { lanes, threads, stages, .. } = row.shape;
                if lanes.is_none() || threads.is_none() || stages.is_some() != spec.parameters.has_stages() {
                    return Err(wrong(&spec.name, "a tuning without lanes, threads, or the stages it takes".into()));
                }
                let (stages, threads) = (stages.unwrap_or(0), threads.unwrap_or(0));
                if row.shape.producer_warps.is_some_and(|warps| warps == 0 || warps > stages || warps * 32 >= threads) {
                    let what = "producer warps: one or more, at most one a stage, and a warp must be left to consume";
                    return Err(wrong(&spec.name, what.into()));
                }
            }
        }
        Ok(Self { variants: file.variant })
    }

    /// Every variant.
    pub fn all(&self) -> impl Iterator<Item = &Arc<VariantSpec>> {
        self.variants.iter()
    }

    /// Every variant of all-reduce that sweeps and `auto` may take.
    pub fn enabled(&self) -> impl Iterator<Item = &Arc<VariantSpec>> {
        self.enabled_of(Collective::AllReduce)
    }

    /// Every variant of a collective that sweeps and `auto` may take.
    pub fn enabled_of(&self, collective: Collective) -> impl Iterator<Item = &Arc<VariantSpec>> {
        self.variants.iter().filter(move |spec| spec.enabled && spec.collective == collective)
    }

    /// A variant by name; an unknown one is an error that lists the known.
    pub fn get(&self, name: &str) -> Result<&Arc<VariantSpec>> {
        self.variants.iter().find(|spec| spec.name == name).ok_or_else(|| {
            let known: Vec<_> = self.variants.iter().map(|spec| spec.name.as_str()).collect();
            Error::invalid(format!("unknown variant '{name}': known are {}", known.join(", ")))
        })
    }
}

#[cfg(test)]
mod tests;

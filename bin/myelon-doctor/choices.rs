//! What `auto` takes here, by the lane table that would be used, and what its heap holds.

use myelon_ccl::device::{DeviceKind, cuda};
use myelon_ccl::measure::Bytes;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::{Dispatcher, LaneTable, Machine};
use myelon_ccl::variant::{Manifest, Request};
use myelon_ccl::{DType, Options, ReduceOp, Result, WorldSize};
use serde::Serialize;

use crate::finding::{Finding, Level};

/// Sizes that are shown, of f32 sums.
const SIZES: [u64; 6] = [1 << 10, 16 << 10, 256 << 10, 4 << 20, 64 << 20, 1 << 30];

/// The choices of one number of ranks.
#[derive(Debug, Serialize)]
pub(crate) struct Choices {
    ranks: u32,
    /// Device memory that a communicator holds on each rank.
    heap_bytes: u64,
    choices: Vec<Choice>,
    /// Variants that `auto` passes over on this architecture, because they have not been tried on it.
    passed_over: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Choice {
    bytes: u64,
    /// The variant, and the parts of its shape that the table sets.
    choice: String,
}

impl Choices {
    /// Asks the table.
    ///
    /// Errors: those of a table that does not serve f32 sums.
    pub(crate) fn look(kind: DeviceKind, arch: &str, ranks: WorldSize) -> Result<Self> {
        let gpu = cuda::devices().unwrap_or_default().into_iter().next();
        let machine = match (kind, gpu) {
            (DeviceKind::Cuda, Some(gpu)) => Machine::of_gpus(&gpu.name),
            _ => Machine::cpu(),
        };
        let table = LaneTable::embedded(&machine, ranks).filter(|table| table.device == kind);
        let dispatcher = Dispatcher::new(None, table, kind, arch, ranks, true);
        let choose = |bytes| {
            let request = Request { count: bytes / 4, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
            dispatcher.choose(&request).map(|decision| Choice { bytes, choice: decision.choice.to_string() })
        };
        // A variable that cannot be understood is a finding of its own.
        let options = Options::from_env().unwrap_or_default();
        let limits = options.adjusted(HeapLimits::for_shapes(kind, ranks, false, dispatcher.shapes()));
        let (_, heap_bytes) = limits.layout(ranks)?;
        let untried = Manifest::embedded().all().filter(|spec| spec.enabled && !spec.is_trusted_on(arch));
        Ok(Self {
            ranks: ranks.get(),
            heap_bytes,
            choices: SIZES.into_iter().map(choose).collect::<Result<_>>()?,
            passed_over: untried.map(|spec| spec.name.clone()).collect(),
        })
    }

    pub(crate) fn judge(&self, arch: &str) -> Option<Finding> {
        let what = format!(
            "auto passes over {} on {arch}, where they have not been tried or do not run",
            self.passed_over.join(", ")
        );
        let fix = "the litmus and the manifest's tried_on say how that is changed (ARCHITECTURE.md)";
        (!self.passed_over.is_empty()).then(|| Finding::new(Level::Warning, "lane table", what, fix))
    }

    pub(crate) fn lines(&self) -> Vec<String> {
        let heap = format!(
            "{} ranks, f32 sums; heap: {:.1} MiB on each rank",
            self.ranks,
            self.heap_bytes as f64 / f64::from(1 << 20)
        );
        let choice = |Choice { bytes, choice }: &Choice| format!("{:>8}  {choice}", Bytes(*bytes).to_string());
        [heap].into_iter().chain(self.choices.iter().map(choice)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_a_choice_and_untried_variants_are_named() {
        let ranks = WorldSize::new(4).unwrap();
        let tried = Choices::look(DeviceKind::Cuda, "sm_90a", ranks).unwrap();
        assert_eq!(tried.lines().len(), 1 + SIZES.len());
        assert!(tried.heap_bytes > 64 << 20 && tried.judge("sm_90a").is_none(), "{tried:?}");
        let untried = Choices::look(DeviceKind::Cuda, "sm_75", ranks).unwrap();
        assert!(untried.judge("sm_75").unwrap().what.contains("one_shot_push"));
    }
}

//! What a communicator takes here, by the lane table and the variables that would be used, and what its heap holds.

use myelon_ccl::abi::MAX_LANES;
use myelon_ccl::device::{DeviceKind, cuda};
use myelon_ccl::measure::Bytes;
use myelon_ccl::memory::HeapLimits;
use myelon_ccl::table::{Dispatcher, LaneTable, Machine, Origin};
use myelon_ccl::variant::{Manifest, Request, Terrain};
use myelon_ccl::{Collective, DType, Options, ReduceOp, Result, WorldSize};
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
    /// The lane table that is asked, and where it comes from.
    lane_table: String,
    choices: Vec<Choice>,
    /// Variants that `auto` passes over on this architecture, because they have not been tried on it.
    passed_over: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Choice {
    bytes: u64,
    /// The variant, and the parts of its shape that the table sets.
    choice: String,
    /// The row or the variable that made it.
    origin: String,
}

impl Choices {
    /// Asks what a communicator with these options would ask.
    ///
    /// Errors: those of a table that does not serve f32 sums, and of heap limits that are none.
    pub(crate) fn look(kind: DeviceKind, arch: &str, ranks: WorldSize, options: &Options) -> Result<Self> {
        let gpus = cuda::devices().unwrap_or_default();
        let machine = match (kind, gpus.first()) {
            (DeviceKind::Cuda, Some(gpu)) => Machine::of_gpus(&gpu.name),
            _ => Machine::cpu(),
        };
        let of_build = || LaneTable::embedded(&machine, ranks).filter(|table| table.device == kind);
        let table = options.table.clone().or_else(of_build);
        let lane_table = match &table {
            Some(table) => {
                let from = if options.table.is_some() { "MYELON_LANE_TABLE" } else { "this build" };
                let lacks =
                    if table.has(ranks) { String::new() } else { format!("; it has no section for {ranks} ranks") };
                format!("{}, from {from}{lacks}", table.name())
            }
            None => "none for this machine: a rule of size and ranks chooses".to_owned(),
        };
        let dispatcher = Dispatcher::new(options.choice.clone(), table, kind, arch, ranks, options.sentinel);
        let limits = options.adjusted(HeapLimits::for_shapes(kind, ranks, false, dispatcher.shapes()));
        let fewest = gpus.iter().map(|gpu| gpu.multiprocessors).min();
        let limits = fewest.map_or(limits, |fewest| limits.resident_on(kind, fewest));
        let (layout, heap_bytes) = limits.layout(ranks)?;
        let terrain = Terrain {
            sentinel: options.sentinel,
            large_lanes: options.large_lanes.unwrap_or(MAX_LANES),
            ..Terrain::of(kind, ranks, &layout, arch)
        };
        let choose = |bytes| {
            let request = Request { count: bytes / 4, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
            let (choice, origin) = dispatcher.decide(Collective::AllReduce, &request, &terrain)?;
            let origin = match origin {
                Origin::Forced => "MYELON_VARIANT".to_owned(),
                origin => origin.to_string(),
            };
            Ok(Choice { bytes, choice: choice.to_string(), origin })
        };
        let untried = Manifest::embedded().all().filter(|spec| spec.enabled && !spec.is_trusted_on(arch));
        Ok(Self {
            ranks: ranks.get(),
            heap_bytes,
            lane_table,
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
        let table = format!("lane table: {}", self.lane_table);
        let choice = |Choice { bytes, choice, origin }: &Choice| {
            format!("{:>8}  {choice} ({origin})", Bytes(*bytes).to_string())
        };
        [heap, table].into_iter().chain(self.choices.iter().map(choice)).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use myelon_ccl::variant::{self, Lanes};

    use super::*;

    fn look(kind: DeviceKind, arch: &str, ranks: u32, options: &Options) -> Choices {
        Choices::look(kind, arch, WorldSize::new(ranks).unwrap(), options).unwrap()
    }

    #[test]
    fn every_size_has_a_choice_and_untried_variants_are_named() {
        let tried = look(DeviceKind::Cuda, "sm_90a", 4, &Options::default());
        assert_eq!(tried.lines().len(), 2 + SIZES.len());
        assert!(tried.heap_bytes > 64 << 20 && tried.judge("sm_90a").is_none(), "{tried:?}");
        let untried = look(DeviceKind::Cuda, "sm_75", 4, &Options::default());
        assert!(untried.judge("sm_75").unwrap().what.contains("one_shot_push"));
    }

    #[test]
    fn what_was_set_is_what_is_shown_with_its_origin() {
        let on_gpus = |ranks, options: &Options| look(DeviceKind::Cuda, "sm_90a", ranks, options);
        let of_table = |choices: &Choices| {
            choices.choices.iter().all(|it| it.origin.starts_with("h200-nvlink-2.toml, the row from"))
        };
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("configs/lanes/h200-nvlink-2.toml");
        let table = LaneTable::parse("h200-nvlink-2.toml", &std::fs::read_to_string(file).unwrap()).unwrap();
        let tabled = Options { table: Some(Arc::new(table)), ..Options::default() };
        let shown = on_gpus(2, &tabled);
        assert_eq!(shown.lane_table, "h200-nvlink-2.toml, from MYELON_LANE_TABLE");
        assert!(of_table(&shown), "{shown:?}");
        let shown = on_gpus(3, &tabled);
        assert!(shown.lane_table.ends_with("it has no section for 3 ranks"), "{shown:?}");
        assert!(shown.choices.iter().all(|it| it.origin.ends_with("of the rule")), "{shown:?}");

        let few = on_gpus(2, &Options { max_lanes: Some(4), ..tabled.clone() });
        let is_bounded = |it: &Choice| it.choice.contains("lanes=4 ");
        // Beside copies a ring is in all of its lanes only.
        let is_ring_of_rule = |it: &Choice| it.choice == "ring" && it.origin.ends_with("of the rule");
        assert!(few.choices.iter().all(|it| is_bounded(it) != is_ring_of_rule(it)), "{few:?}");

        let few = on_gpus(2, &Options { large_lanes: Some(4), ..tabled.clone() });
        let is_large = |it: &Choice| it.bytes >= variant::LARGE_BYTES;
        assert!(few.choices.iter().any(is_large) && !few.choices.iter().all(is_large), "{few:?}");
        assert!(few.choices.iter().all(|it| is_large(it) == (is_bounded(it) || is_ring_of_rule(it))), "{few:?}");

        let mut choice = variant::Choice::of(Manifest::embedded().get("ring").unwrap());
        choice.shape.lanes = Some(Lanes::UpTo(7));
        let forced = on_gpus(2, &Options { choice: Some(choice), ..tabled });
        let all = |part: fn(&Choice) -> bool| forced.choices.iter().all(part);
        assert!(all(|it| it.origin == "MYELON_VARIANT" && it.choice == "ring lanes=7"), "{forced:?}");
    }
}

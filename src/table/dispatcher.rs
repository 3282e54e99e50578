//! [`Dispatcher`]: what a communicator asks for the choice of a request.

use std::fmt;
use std::sync::Arc;

use super::class::{Buffers, DTypeClass};
use super::lane_table::{LaneTable, Row};
use super::rule::Rule;
use crate::device::DeviceKind;
use crate::error::Result;
use crate::measure::Bytes;
use crate::types::{Collective, WorldSize};
use crate::variant::{Choice, LARGE_BYTES, Manifest, Request, Shape, Terrain};

/// What decides for the ranks of a communicator: a choice that was forced, else a lane table, else the rule of the device kind.
/// Each is asked only where its variant is one of the collective, has the type and operator, and is trusted on the architecture.
/// Tables are of all-reduces.
#[derive(Debug)]
pub struct Dispatcher {
    forced: Option<Choice>,
    table: Option<Arc<LaneTable>>,
    /// Whether every row of the table is trusted on the architecture, as on the machine that it was measured on.
    trusts_all: bool,
    rule: Arc<Rule>,
    /// Variants with a form for lists of buckets that are trusted on the architecture.
    for_buckets: Vec<Choice>,
    arch: String,
    ranks: WorldSize,
    sentinel: bool,
}

/// A choice, and what made it.
#[derive(Clone, Copy, Debug)]
pub struct Decision<'a> {
    /// What runs.
    pub choice: &'a Choice,
    /// Why.
    pub origin: Origin<'a>,
}

/// What made a choice.
#[derive(Clone, Copy, Debug)]
pub enum Origin<'a> {
    /// It was forced.
    Forced,
    /// A row of this table.
    Table(&'a LaneTable, &'a Row),
    /// The row at this place of the rule, from 1.
    Rule(usize),
    /// It is the last of the manifest with a form for buckets.
    Manifest,
}

impl Decision<'_> {
    /// What runs on a terrain for a message of so many bytes. A row of a table or of the rule is cut to the room there, for it must run anywhere; what was forced is
    /// refused later where it does not fit.
    pub fn on(&self, terrain: &Terrain<'_>, bytes: u64) -> Choice {
        match self.origin {
            Origin::Forced => self.choice.clone(),
            Origin::Table(..) | Origin::Rule(_) | Origin::Manifest => self.choice.within(terrain, bytes),
        }
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forced => f.write_str("forced"),
            Self::Table(table, row) => write!(f, "{}, the row from {}", table.name(), Bytes(row.from)),
            Self::Rule(place) => write!(f, "row {place} of the rule"),
            Self::Manifest => f.write_str("the last of the manifest with a form for buckets"),
        }
    }
}

impl Dispatcher {
    /// For `ranks` ranks on devices of one kind and architecture. `sentinel` says whether floats use sentinel mailboxes.
    pub fn new(
        forced: Option<Choice>,
        table: Option<Arc<LaneTable>>,
        kind: DeviceKind,
        arch: &str,
        ranks: WorldSize,
        sentinel: bool,
    ) -> Self {
        let trusts = |table: &Arc<LaneTable>| table.rows(ranks).all(|row| row.choice.variant.is_trusted_on(arch));
        let trusts_all = table.iter().all(trusts);
        let manifest = Manifest::embedded();
        let with_buckets = manifest.enabled().filter(|spec| spec.buckets && spec.is_trusted_on(arch));
        let for_buckets = with_buckets.map(Choice::of).collect();
        let (rule, arch) = (Rule::embedded(kind), arch.to_owned());
        Self { forced, table, trusts_all, rule, for_buckets, arch, ranks, sentinel }
    }

    /// The choice for a request of all-reduce: [`Dispatcher::choose_of`] that.
    pub fn choose(&self, request: &Request) -> Result<Decision<'_>> {
        self.choose_of(Collective::AllReduce, request)
    }

    /// The choice for a request of any collective: of one rank's part, where there are parts. Allocates nothing.
    ///
    /// Errors: [`crate::Error::Unsupported`] where no variant has the type and operator.
    pub fn choose_of(&self, collective: Collective, request: &Request) -> Result<Decision<'_>> {
        if let Some(choice) = &self.forced
            && choice.variant.collective == collective
            && choice.variant.supports(request.dtype, request.op).is_ok()
        {
            return Ok(Decision { choice, origin: Origin::Forced });
        }
        if let Some(table) = self.table.as_ref().filter(|_| collective == Collective::AllReduce) {
            let class = DTypeClass::of(request.dtype, self.sentinel);
            let buffers = if request.registered { Buffers::Registered } else { Buffers::Plain };
            let row = table.choose(self.ranks, class, buffers, request.bytes());
            let is_trusted = |row: &Row| self.trusts_all || row.choice.variant.is_trusted_on(&self.arch);
            let is_possible = |row: &Row| request.registered || !row.choice.shape.is_direct();
            let serves = |row: &&Row| {
                is_trusted(row) && is_possible(row) && row.choice.variant.supports(request.dtype, request.op).is_ok()
            };
            if let Some(row) = row.filter(serves) {
                return Ok(Decision { choice: &row.choice, origin: Origin::Table(table, row) });
            }
        }
        self.by_rule(collective, request)
    }

    /// What runs on a terrain for a request of any collective, and why: [`Dispatcher::choose_of`], but the rule's choice where a table's
    /// is not worth taking there.
    ///
    /// Errors: as [`Dispatcher::choose_of`].
    pub fn decide(
        &self,
        collective: Collective,
        request: &Request,
        terrain: &Terrain<'_>,
    ) -> Result<(Choice, Origin<'_>)> {
        let mut decision = self.choose_of(collective, request)?;
        if matches!(decision.origin, Origin::Table(..)) && !terrain.suits(decision.choice, request.bytes()) {
            decision = self.by_rule(collective, request)?;
        }
        Ok((decision.on(terrain, request.bytes()), decision.origin))
    }

    fn by_rule(&self, collective: Collective, request: &Request) -> Result<Decision<'_>> {
        let (choice, place) = self.rule.choose(&self.arch, self.ranks, collective, request)?;
        Ok(Decision { choice, origin: Origin::Rule(place) })
    }

    /// The choice for a list of buckets, of which `request` is the whole: what [`Dispatcher::choose`] says where that has a form
    /// for buckets, else what the rule says, else the last variant of the manifest that has one. `None` where there is none.
    ///
    /// Errors: as [`Dispatcher::choose`].
    pub fn choose_for_buckets(&self, request: &Request) -> Result<Option<Decision<'_>>> {
        let decision = self.choose(request)?;
        if decision.choice.variant.buckets {
            return Ok(Some(decision));
        }
        let decision = self.by_rule(Collective::AllReduce, request)?;
        if decision.choice.variant.buckets {
            return Ok(Some(decision));
        }
        let supports = |choice: &&Choice| choice.variant.supports(request.dtype, request.op).is_ok();
        let last = self.for_buckets.iter().rev().find(supports);
        Ok(last.map(|choice| Decision { choice, origin: Origin::Manifest }))
    }

    /// Sizes at which the choice can change, and every power of two to 4 GiB, at which rules and tunings mostly do; and the last one of
    /// every type below [`LARGE_BYTES`], for what begins above half of that is bounded in all others.
    pub fn sizes(&self) -> impl Iterator<Item = u64> {
        let rows = self.table.iter().flat_map(|table| table.rows(self.ranks)).map(|row| row.from.max(1));
        let of_rule = self.rule.odd_limits().flat_map(|limit| [limit, limit + 1]);
        (0..=32).map(|power| 1u64 << power).chain([LARGE_BYTES - 8]).chain(rows).chain(of_rule)
    }

    /// The shapes that it may choose: what a heap should have room for.
    pub fn shapes(&self) -> impl Iterator<Item = &Shape> {
        let of_table = self.table.iter().flat_map(|table| table.shapes(self.ranks));
        self.rule.shapes().chain(of_table).chain(self.forced.iter().map(|choice| &choice.shape))
    }

    /// Table and rule as text: what ranks compare. A forced choice is not in it.
    pub fn sources(&self) -> [&str; 2] {
        [self.rule.source(), self.table.as_ref().map_or("", |table| table.source())]
    }
}

#[cfg(test)]
mod tests {
    use super::super::lane_table::tests::{row, section, table};
    use super::*;
    use crate::memory::HeapLimits;
    use crate::types::{DType, ReduceOp};
    use crate::variant::Plan;

    fn dispatcher(forced: Option<&str>, arch: &str, sentinel: bool) -> Dispatcher {
        let rows = |variant: &str| vec![row(0, variant, 7), row(1 << 20, "ring", 9)];
        let (float, integer) = (DTypeClass::Float, DTypeClass::Integer);
        let sections = vec![
            section(2, float, Buffers::Plain, rows("one_shot_push")),
            section(2, integer, Buffers::Plain, rows("low_latency")),
        ];
        let forced = forced.map(|name| Choice::of(Manifest::embedded().get(name).unwrap()));
        let two = WorldSize::new(2).unwrap();
        Dispatcher::new(forced, Some(Arc::new(table(sections))), DeviceKind::Cuda, arch, two, sentinel)
    }

    fn decide(dispatcher: &Dispatcher, count: u64, dtype: DType) -> (String, String) {
        let Decision { choice, origin } =
            dispatcher.choose(&Request { count, dtype, op: ReduceOp::Sum, registered: false }).unwrap();
        (choice.variant.name.clone(), origin.to_string())
    }

    #[test]
    fn the_table_comes_before_the_rule_and_after_what_was_forced() {
        let row = |variant: &str, from: &str| (variant.to_owned(), format!("the new table, the row from {from}"));
        let hopper = dispatcher(None, "sm_90a", true);
        assert_eq!(decide(&hopper, 256, DType::F32), row("one_shot_push", "0"));
        assert_eq!(decide(&hopper, 1 << 19, DType::Bf16), row("ring", "1M"));
        assert_eq!(decide(&hopper, 256, DType::I32), row("low_latency", "0"));
        assert_eq!(decide(&dispatcher(None, "sm_90a", false), 256, DType::F32), row("low_latency", "0"));
        // A protocol that was not tried there, and a type that the row's variant lacks.
        assert!(decide(&dispatcher(None, "sm_80", true), 256, DType::F32).1.ends_with("of the rule"));
        assert!(decide(&hopper, 1 << 24, DType::E4m3).1.ends_with("of the rule"));
        let forced = dispatcher(Some("ring"), "sm_90a", true);
        assert_eq!(decide(&forced, 256, DType::F32), ("ring".to_owned(), "forced".to_owned()));
        assert_eq!(decide(&forced, 256, DType::E4m3), row("one_shot_push", "0"));
    }

    #[test]
    fn a_forced_variant_is_for_its_own_collective() {
        let decide = |dispatcher: &Dispatcher, collective| {
            let request = Request { count: 256, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
            let Decision { choice, origin } = dispatcher.choose_of(collective, &request).unwrap();
            choice.variant.implements(collective).unwrap();
            (choice.variant.name.clone(), origin.to_string())
        };
        let (unforced, ring) = (dispatcher(None, "sm_90a", true), dispatcher(Some("ring"), "sm_90a", true));
        for &collective in &Collective::ALL[1..] {
            let taken = decide(&unforced, collective);
            assert!(taken.1.ends_with("of the rule"), "{taken:?}");
            assert_eq!(decide(&ring, collective), taken);
        }
        let gather = dispatcher(Some("signal_all_gather"), "sm_90a", true);
        assert_eq!(decide(&gather, Collective::AllReduce).0, "one_shot_push");
        assert_eq!(decide(&gather, Collective::AllGather), ("signal_all_gather".to_owned(), "forced".to_owned()));
    }

    #[test]
    fn copies_beside_a_ring_are_taken_in_all_of_their_lanes_only() {
        let two = WorldSize::new(2).unwrap();
        let copies = row(0, "ring_with_copies", 100);
        let sections = vec![section(2, DTypeClass::Float, Buffers::Plain, vec![copies])];
        let dispatcher = Dispatcher::new(None, Some(Arc::new(table(sections))), DeviceKind::Cuda, "sm_90a", two, true);
        let (layout, _) = HeapLimits::of(DeviceKind::Cuda, two).layout(two).unwrap();
        let request = Request { count: 1 << 26, dtype: DType::F32, op: ReduceOp::Sum, registered: false };
        let all = Terrain::of(DeviceKind::Cuda, two, &layout, "sm_90a");
        for (terrain, variant, from) in [
            (all, "ring_with_copies", "the new table, the row from 0"),
            (Terrain { large_lanes: 100, ..all }, "ring_with_copies", "the new table, the row from 0"),
            (Terrain { large_lanes: 99, ..all }, "ring", "of the rule"),
            (Terrain { value_operations: false, ..all }, "ring", "of the rule"),
        ] {
            let (choice, origin) = dispatcher.decide(Collective::AllReduce, &request, &terrain).unwrap();
            assert_eq!(choice.variant.name, variant, "{terrain:?}");
            assert!(origin.to_string().ends_with(from), "{origin}");
        }
        let forced = Choice::of(Manifest::embedded().get("ring_with_copies").unwrap());
        let dispatcher = Dispatcher::new(Some(forced), None, DeviceKind::Cuda, "sm_90a", two, true);
        let few = Terrain { large_lanes: 8, ..all };
        let (choice, _) = dispatcher.decide(Collective::AllReduce, &request, &few).unwrap();
        assert_eq!(choice.variant.name, "ring_with_copies");
    }

    #[test]
    fn a_list_of_buckets_gets_a_variant_that_has_a_form_for_them() {
        let decide = |dispatcher: &Dispatcher, count, dtype| {
            let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
            let decision = dispatcher.choose_for_buckets(&request).unwrap();
            decision.map(|Decision { choice, origin }| (choice.variant.name.clone(), origin.to_string()))
        };
        let some = |variant: &str, origin: &str| Some((variant.to_owned(), origin.to_owned()));
        let hopper = dispatcher(None, "sm_90a", true);
        assert_eq!(decide(&hopper, 256, DType::F32), some("one_shot_push", "the new table, the row from 0"));
        // The table's variant has none, but the rule's has, or that of neither.
        let (rule, manifest) = ("row 2 of the rule", "the last of the manifest with a form for buckets");
        assert_eq!(decide(&hopper, 256, DType::I32), some("one_shot_push", rule));
        assert_eq!(decide(&hopper, 1 << 19, DType::I32), some("two_shot_push", manifest));
        let forced = |variant| dispatcher(Some(variant), "sm_90a", true);
        assert_eq!(decide(&forced("two_shot_push"), 256, DType::F32), some("two_shot_push", "forced"));
        assert_eq!(decide(&forced("ring"), 1 << 26, DType::F32), some("two_shot_push", manifest));
        // None of them has been tried there.
        assert_eq!(decide(&dispatcher(None, "sm_80", true), 256, DType::F32), None);
    }

    #[test]
    fn no_size_has_a_choice_that_no_listed_size_has() {
        for (ranks, arch) in (2..=8).flat_map(|ranks| [(ranks, "sm_90a"), (ranks, "sm_80")]) {
            let ranks = WorldSize::new(ranks).unwrap();
            let dispatcher = Dispatcher::new(None, None, DeviceKind::Cuda, arch, ranks, true);
            for (&collective, dtype) in
                Collective::ALL.iter().flat_map(|it| [DType::F32, DType::I32, DType::E4m3].map(|dtype| (it, dtype)))
            {
                let choose = |size: u64| {
                    let count = size.div_ceil(dtype.size_bytes() as u64);
                    let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
                    dispatcher.choose_of(collective, &request).unwrap().choice.to_string()
                };
                let listed: std::collections::BTreeSet<_> = dispatcher.sizes().map(choose).collect();
                for size in (3..32).flat_map(|power| (8..16).map(move |eighths| eighths << power >> 3)) {
                    let choice = choose(size);
                    assert!(listed.contains(&choice), "{ranks} ranks, {arch}, {collective} {dtype}, {size}: {choice}");
                }
            }
        }
    }

    #[test]
    fn no_size_has_a_kernel_that_no_listed_size_has_however_large_messages_are_bounded() {
        for (ranks, large_lanes) in (2..=8).flat_map(|ranks| [8, 32, 64, 128].map(|lanes| (ranks, lanes))) {
            let ranks = WorldSize::new(ranks).unwrap();
            let (layout, _) = HeapLimits::of(DeviceKind::Cuda, ranks).layout(ranks).unwrap();
            let terrain = Terrain { large_lanes, ..Terrain::of(DeviceKind::Cuda, ranks, &layout, "sm_90a") };
            let dispatcher = Dispatcher::new(None, None, DeviceKind::Cuda, "sm_90a", ranks, true);
            for (&collective, dtype) in
                Collective::ALL.iter().flat_map(|it| [DType::F32, DType::I32, DType::Bf16].map(|dtype| (it, dtype)))
            {
                let kernel = |size: u64| {
                    let count = size.div_ceil(dtype.size_bytes() as u64);
                    let request = Request { count, dtype, op: ReduceOp::Sum, registered: false };
                    let (choice, _) = dispatcher.decide(collective, &request, &terrain).unwrap();
                    Plan::new(&terrain, &request, &choice).unwrap().kernel
                };
                let listed: Vec<_> = dispatcher.sizes().map(kernel).collect();
                for size in (10..32).flat_map(|power| (8..16).map(move |eighths| eighths << power >> 3)) {
                    let kernel = kernel(size);
                    assert!(listed.contains(&kernel), "{ranks} ranks, {collective} {dtype}, {size}: {kernel:?}");
                }
            }
        }
    }

    #[test]
    fn the_manifests_tunings_change_at_powers_of_two() {
        for spec in Manifest::embedded().all() {
            let mut limits = spec.tuning.iter().filter_map(|tuning| tuning.up_to);
            assert!(limits.all(|limit| limit.0.is_power_of_two()), "{}: `sizes` lists no others", spec.name);
        }
    }

    #[test]
    fn what_a_heap_needs_and_where_choices_change_is_known() {
        let dispatcher = dispatcher(None, "sm_90a", true);
        let lanes: Vec<_> = dispatcher.shapes().filter_map(|shape| shape.lanes).map(|lanes| lanes.most(0)).collect();
        assert!(lanes.contains(&7) && lanes.contains(&9));
        assert!(
            dispatcher.sizes().any(|size| size == 1 << 32)
                && dispatcher.sizes().filter(|&size| size == 1 << 20).count() == 3
        );
    }
}

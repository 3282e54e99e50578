//! What is chosen, why, and at which sizes that changes.

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

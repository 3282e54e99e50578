//! Verdicts, pairs, and what differs.

use proptest::prelude::*;

use super::*;
use crate::measure::provenance::tests::provenance;
use crate::measure::results::tests::row;
use crate::measure::stats::Summary;
use crate::types::Output;

pub(super) const FIVE: Percent = Percent(5.0);

/// A row that scatters by `scatter` microseconds.
pub(super) fn steady(bytes: u64, requested: &str, p50: f64, scatter: f64) -> Row {
    let time_us = Summary { p50, p99: p50 * 3.0, min: p50 - scatter };
    Row { time_us, ..row(2, bytes, requested, p50) }
}

pub(super) fn run(rows: Vec<Row>) -> Results {
    Results { rows, ..Results::new(provenance()) }
}

fn verdict(before: Row, after: Row) -> Verdict {
    let (before, after) = (run(vec![before]), run(vec![after]));
    let [pair] = Comparison::of(&before, &after).pairs.try_into().unwrap();
    pair.verdict(FIVE)
}

#[test]
fn a_change_counts_past_threshold_and_scatter() {
    let judge = |before, after| verdict(steady(64, "auto", before, 1.0), steady(64, "auto", after, 1.0));
    assert_eq!([judge(100.0, 104.9), judge(100.0, 105.1)], [Verdict::Same, Verdict::Slower]);
    assert_eq!([judge(105.1, 100.0), judge(104.9, 100.0)], [Verdict::Faster, Verdict::Same]);
    assert_eq!([judge(10.0, 10.9), judge(10.0, 11.1)], [Verdict::Noise, Verdict::Slower]);
    assert_eq!([judge(10.9, 10.0), judge(11.1, 10.0)], [Verdict::Noise, Verdict::Faster]);
}

#[test]
fn times_of_nothing_are_the_same() {
    assert_eq!(verdict(steady(64, "auto", 0.0, 0.0), steady(64, "auto", 0.0, 0.0)), Verdict::Same);
}

#[test]
fn ways_of_a_result_into_the_output_are_told_apart() {
    let of = |output, p50| Row { output: Some(output), ..steady(64, "ring", p50, 0.1) };
    let before = run(vec![of(Output::Staged, 10.0), of(Output::Direct, 5.0)]);
    let after = run(vec![of(Output::Direct, 5.0), of(Output::Staged, 10.0)]);
    let comparison = Comparison::of(&before, &after);
    assert_eq!(comparison.count(Verdict::Same, FIVE), 2);
}

#[test]
fn a_row_that_only_began_to_scatter_is_slower() {
    assert_eq!(verdict(steady(64, "auto", 10.0, 0.1), steady(64, "auto", 14.0, 4.0)), Verdict::Slower);
}

#[test]
fn what_all_controls_did_is_drift() {
    let rows = |auto, nccl, symmetric| {
        run(vec![
            steady(64, "auto", auto, 0.1),
            steady(64, "nccl", nccl, 0.1),
            steady(64, "nccl_symmetric", symmetric, 0.1),
        ])
    };
    let before = rows(10.0, 10.0, 10.0);
    let judge = |after: &Results| {
        let comparison = Comparison::of(&before, after);
        assert_eq!((comparison.pairs.len(), comparison.controls.len()), (1, after.rows.len() - 1));
        comparison.pairs[0].verdict(FIVE)
    };
    assert_eq!(judge(&rows(13.0, 13.0, 14.0)), Verdict::Noise);
    assert_eq!(judge(&rows(14.0, 13.0, 14.0)), Verdict::Slower, "by more than the controls and the threshold");
    assert_eq!(judge(&rows(13.0, 10.0, 14.0)), Verdict::Slower, "one control stayed");
    assert_eq!(judge(&rows(7.0, 7.0, 7.1)), Verdict::Noise, "gains as well");
    let mut wrong = rows(19.0, 20.0, 20.0);
    wrong.rows[1].wrong = Some(1);
    wrong.rows[2].wrong = Some(1);
    assert_eq!(judge(&wrong), Verdict::Slower, "times of wrong rows mean nothing");
    let mut loose = rows(13.0, 10.09, 14.0);
    assert_eq!(judge(&loose), Verdict::Slower, "one control only scattered");
    loose.rows.remove(1);
    assert_eq!(judge(&loose), Verdict::Noise, "the other alone moved");
    let mut newer = rows(13.0, 13.0, 14.0);
    newer.provenance.nccl = "2.29.0".into();
    assert_eq!(judge(&newer), Verdict::Slower, "another NCCL is no control");
}

#[test]
fn wrong_results_are_worse_than_slow_ones() {
    let wrong = Row { wrong: Some(1), ..steady(64, "auto", 1.0, 0.1) };
    assert_eq!(verdict(steady(64, "auto", 10.0, 0.1), wrong.clone()), Verdict::Broken);
    let (before, after) = (run(vec![steady(64, "auto", 10.0, 0.1)]), run(vec![wrong.clone()]));
    assert!(Comparison::of(&before, &after).is_worse(FIVE));
    assert_eq!(verdict(wrong.clone(), steady(64, "auto", 10.0, 0.1)), Verdict::Mended);
    let (before, after) = (run(vec![wrong.clone()]), run(vec![steady(64, "auto", 10.0, 0.1)]));
    assert!(!Comparison::of(&before, &after).is_worse(FIVE));
    assert_eq!(verdict(wrong.clone(), wrong), Verdict::Noise);
}

#[test]
fn other_gpus_are_other_hardware_and_another_driver_is_not() {
    let differs = |edit: fn(&mut Provenance)| {
        let (before, mut after) = (run(Vec::new()), run(Vec::new()));
        edit(&mut after.provenance);
        Comparison::of(&before, &after).is_of_hardware()
    };
    assert!(differs(|it| it.gpu = "NVIDIA B200".into()) && differs(|it| it.gpus = 4));
    assert!(differs(|it| it.link = "PCIe".into()) && !differs(|it| it.link = "not found".into()));
    assert!(!differs(|_| {}) && !differs(|it| it.driver = "590.1".into()) && !differs(|it| it.cpu = "other".into()));
    let cpu = |name: &str| Results::new(Provenance { gpus: 0, cpu: name.into(), ..provenance() });
    assert!(Comparison::of(&cpu("a"), &cpu("b")).is_of_hardware());
}

#[test]
fn rows_pair_by_case_candidate_and_then_shape() {
    let ring = |slots, p50| Row { slots, ..row(2, 64, "ring", p50) };
    let before = run(vec![ring(2, 1.0), ring(4, 2.0), row(2, 64, "auto", 1.0), row(2, 128, "auto", 1.0)]);
    let other_shape = Row { lanes: 64, ..row(2, 64, "auto", 1.0) };
    let after = run(vec![ring(8, 1.0), ring(4, 3.0), other_shape, row(4, 64, "auto", 1.0)]);
    let comparison = Comparison::of(&before, &after);
    let pairs: Vec<_> = comparison.pairs.iter().map(|pair| (&*pair.before.requested, pair.ratio())).collect();
    assert_eq!(pairs, [("auto", 1.0), ("ring", 1.5)], "one row a file pairs whatever its shape");
    let names = |rows: &[&Row]| rows.iter().map(|row| (row.requested.clone(), row.slots)).collect::<Vec<_>>();
    assert_eq!(names(&comparison.only_before), [("ring".to_owned(), 2), ("auto".to_owned(), 0)]);
    assert_eq!(names(&comparison.only_after), [("ring".to_owned(), 8), ("auto".to_owned(), 0)]);
}

proptest! {
    #[test]
    fn swapping_the_runs_swaps_the_verdict(
        times in prop::array::uniform2((1.0_f64..100.0, 0.0_f64..1.0)),
        controls in prop::array::uniform2(1.0_f64..100.0),
    ) {
        let of = |turn: usize| {
            let (p50, part) = times[turn];
            run(vec![steady(64, "auto", p50, p50 * part), steady(64, "nccl", controls[turn], 0.0)])
        };
        let (one, other) = (of(0), of(1));
        let judge = |before, after| Comparison::of(before, after).pairs[0].verdict(FIVE);
        let swapped = match judge(&one, &other) {
            Verdict::Slower => Verdict::Faster,
            Verdict::Faster => Verdict::Slower,
            same => same,
        };
        prop_assert_eq!(judge(&other, &one), swapped);
        prop_assert_eq!(judge(&one, &one), Verdict::Same);
    }
}

//! Two runs against each other: what became slower or faster, and whether that says something.
//!
//! A stored row has three numbers of its repeats, so its noise is taken from them: its **scatter**, [`Row::scatter_us`]. The
//! baselines of a case are its **controls**: what all of them became slower by, in runs of equal baselines, is **drift**, which the
//! machine did. A machine does not slow all alike, so a row that is taken for drift is shown as noise and not left out.

mod text;

use std::collections::BTreeMap;

use crate::measure::against::Baseline;
use crate::measure::case::Case;
use crate::measure::provenance::Provenance;
use crate::measure::results::{Results, Row};

/// How much slower a p50 may be before it counts, in percent.
#[derive(Clone, Copy, Debug, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl Percent {
    fn of_ratio(ratio: f64) -> Self {
        Self((ratio - 1.0) * 100.0)
    }
}

/// Whether `slow` is slower than `fast` by more than `within`, and by more than `fast` scattered.
///
/// WHY the faster row's scatter: a row that became slower in every second repeat scatters widely itself.
pub fn is_beyond(fast: &Row, slow: &Row, within: Percent) -> bool {
    let (fast_us, slow_us) = (fast.time_us.p50, slow.time_us.p50);
    slow_us > fast_us * (1.0 + within.0 / 100.0) && slow_us - fast_us > fast.scatter_us()
}

/// A candidate's rows of one case in two runs.
#[derive(Clone, Copy, Debug)]
pub struct Pair<'a> {
    /// From the run that is held to be the standard.
    pub before: &'a Row,
    /// From the run that is judged.
    pub after: &'a Row,
    /// What all controls of the case became slower by, as a ratio above 1, or faster by, below 1; 1 without controls.
    pub drift: f64,
}

/// What a [`Pair`] says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// The later result is wrong, and the earlier one was not.
    Broken,
    /// Slower by more than the threshold, the scatter and the drift.
    Slower,
    /// Past the threshold, and not past the scatter or the drift.
    Noise,
    /// Within the threshold.
    Same,
    /// Faster by more than the threshold, the scatter and the drift.
    Faster,
    /// The earlier result was wrong, and the later one is not.
    Mended,
}

impl Verdict {
    /// For reports.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Broken => "broken",
            Self::Slower => "slower",
            Self::Noise => "noise",
            Self::Same => "same",
            Self::Faster => "faster",
            Self::Mended => "mended",
        }
    }
}

impl Pair<'_> {
    /// p50 after, over p50 before; above 1 it became slower.
    pub fn ratio(&self) -> f64 {
        self.after.time_us.p50 / self.before.time_us.p50
    }

    /// [`Self::ratio`], but 1 within the scatter.
    fn moved(&self) -> f64 {
        let (before, after) = (self.before, self.after);
        let none = Percent(0.0);
        if is_beyond(before, after, none) || is_beyond(after, before, none) { self.ratio() } else { 1.0 }
    }

    /// What the two rows say at this threshold. Nothing is said of the time of a wrong row.
    pub fn verdict(&self, threshold: Percent) -> Verdict {
        match (self.before.is_wrong(), self.after.is_wrong()) {
            (false, false) => {}
            (false, true) => return Verdict::Broken,
            (true, false) => return Verdict::Mended,
            (true, true) => return Verdict::Noise,
        }
        let ratio = self.ratio();
        let (fast, slow, moved, drift) = if ratio >= 1.0 {
            (self.before, self.after, ratio, self.drift.max(1.0))
        } else {
            (self.after, self.before, 1.0 / ratio, (1.0 / self.drift).max(1.0))
        };
        let factor = 1.0 + threshold.0 / 100.0;
        if moved <= factor {
            Verdict::Same
        } else if !is_beyond(fast, slow, threshold) || moved <= drift * factor {
            Verdict::Noise
        } else if ratio > 1.0 {
            Verdict::Slower
        } else {
            Verdict::Faster
        }
    }
}

/// Two runs, row by row.
#[derive(Clone, Debug)]
pub struct Comparison<'a> {
    /// Provenances of the earlier and the later run.
    pub provenances: [&'a Provenance; 2],
    /// Myelon's rows that are in both, in the order of cases, then of the earlier file.
    pub pairs: Vec<Pair<'a>>,
    /// The baselines', which say what the machine did.
    pub controls: Vec<Pair<'a>>,
    /// Rows that only the earlier run has.
    pub only_before: Vec<&'a Row>,
    /// Rows that only the later run has.
    pub only_after: Vec<&'a Row>,
}

impl<'a> Comparison<'a> {
    /// Pairs the rows of equal case and candidate. Where a file has several such rows, those of equal shape.
    pub fn of(before: &'a Results, after: &'a Results) -> Self {
        let mut rows: BTreeMap<(Case, &str), [Vec<&Row>; 2]> = BTreeMap::new();
        for (turn, run) in [before, after].into_iter().enumerate() {
            for row in &run.rows {
                rows.entry((row.case(), &row.requested)).or_default()[turn].push(row);
            }
        }
        let mut comparison = Self {
            provenances: [&before.provenance, &after.provenance],
            pairs: Vec::new(),
            controls: Vec::new(),
            only_before: Vec::new(),
            only_after: Vec::new(),
        };
        for [befores, mut afters] in rows.into_values() {
            let alone = befores.len() == 1 && afters.len() == 1;
            for before in befores {
                match afters.iter().position(|after| alone || shape(before) == shape(after)) {
                    None => comparison.only_before.push(before),
                    Some(place) => {
                        let pair = Pair { before, after: afters.remove(place), drift: 1.0 };
                        let is_control = Baseline::of(before).is_some();
                        (if is_control { &mut comparison.controls } else { &mut comparison.pairs }).push(pair);
                    }
                }
            }
            comparison.only_after.append(&mut afters);
        }
        comparison.judge_drift();
        comparison
    }

    /// Baselines that differ are no controls: NCCL of another version may be slower by itself.
    fn judge_drift(&mut self) {
        let [before, after] = self.provenances;
        if (&before.nccl, &before.nvls) != (&after.nccl, &after.nvls) || !before.has_peers_of(after) {
            return;
        }
        for pair in &mut self.pairs {
            let case = pair.before.case();
            let of_case = self.controls.iter().filter(|control| control.before.case() == case);
            let ratios: Vec<f64> = of_case.map(Pair::moved).filter(|ratio| ratio.is_finite()).collect();
            let least = ratios.iter().copied().reduce(f64::min).unwrap_or(1.0);
            let most = ratios.iter().copied().reduce(f64::max).unwrap_or(1.0);
            // One that stayed, or went the other way, says that the machine did not do it.
            pair.drift = least.max(1.0) * most.min(1.0);
        }
    }

    /// How many of Myelon's pairs have this verdict.
    pub fn count(&self, verdict: Verdict, threshold: Percent) -> usize {
        self.pairs.iter().filter(|pair| pair.verdict(threshold) == verdict).count()
    }

    /// Whether a candidate of Myelon became slower, or wrong.
    pub fn is_worse(&self, threshold: Percent) -> bool {
        self.pairs.iter().any(|pair| pair.verdict(threshold) <= Verdict::Slower)
    }

    /// What differs between the two runs besides their dates: a line each, its name and both values.
    pub fn differences(&self) -> Vec<(&'static str, String, String)> {
        let [before, after] = self.provenances.map(fields);
        let pairs = before.into_iter().zip(after).filter(|((_, ours), (_, theirs))| ours != theirs);
        pairs.map(|((name, before), (_, after))| (name, before, after)).collect()
    }

    /// Whether the runs are of different GPUs, of a different number of them, or differently linked; of CPUs where there are no GPUs.
    /// A time of one says nothing of the other.
    pub fn is_of_hardware(&self) -> bool {
        !self.provenances[0].is_same_hardware(self.provenances[1])
    }

    /// Whether the runs are of different machines, or with different drivers or libraries.
    pub fn is_of_machines(&self) -> bool {
        !self.provenances[0].is_same_machine(self.provenances[1])
    }
}

/// What tells rows of one candidate apart.
fn shape(row: &Row) -> impl PartialEq + use<> {
    let &Row { lanes, threads, chunk, stages, stage_packs, producer_warps, slots, .. } = row;
    let &Row { wait, sync, places, metadata, launch, .. } = row;
    ([lanes, threads, stages, stage_packs, producer_warps, slots], chunk, wait, sync, places, metadata, launch)
}

fn fields(provenance: &Provenance) -> [(&'static str, String); 11] {
    let Provenance { date: _, version, source_hash, gpu, gpus, link, driver, cuda, nccl, nvls, cpu, peers: _ } =
        provenance;
    let text = |text: &String| text.clone();
    [
        ("version", text(version)),
        ("kernels' sources", text(source_hash)),
        ("GPU", text(gpu)),
        ("GPUs", gpus.to_string()),
        ("link", text(link)),
        ("driver", text(driver)),
        ("CUDA", text(cuda)),
        ("NCCL", text(nccl)),
        ("NVLS", text(nvls)),
        ("processor", text(cpu)),
        ("peers", provenance.peers_state()),
    ]
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;
    use crate::measure::stats::Summary;

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
        assert!(
            !differs(|_| {}) && !differs(|it| it.driver = "590.1".into()) && !differs(|it| it.cpu = "other".into())
        );
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
}

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
        let (before, after) = (self.before.time_us.p50, self.after.time_us.p50);
        // Times too short for the clock are both 0.
        if before == after { 1.0 } else { after / before }
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
            let is_right = |control: &&Pair<'_>| !control.before.is_wrong() && !control.after.is_wrong();
            let of_case = self.controls.iter().filter(|control| control.before.case() == case).filter(is_right);
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
    let &Row { lanes, threads, chunk, stages, stage_packs, producer_warps, slots, copied, .. } = row;
    let &Row { wait, sync, places, metadata, launch, output, .. } = row;
    (
        [lanes, threads, stages, stage_packs, producer_warps, slots, copied],
        chunk,
        wait,
        sync,
        places,
        metadata,
        launch,
        output,
    )
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
pub(super) mod tests;

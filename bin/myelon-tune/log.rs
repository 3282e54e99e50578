//! What was measured so far: all that the search knows. Equal on all ranks.

mod journal;

use std::collections::BTreeMap;

use myelon_ccl::measure::stats::percentile;

pub(crate) use self::journal::Origin;
use crate::space::{Case, Space};

/// Times and verdicts.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Log {
    cases: BTreeMap<Case, Measured>,
    /// Entrants that are out, with the reason: wrong, or stalled.
    dropped: Reasons,
}

/// Why entrants are out, by their places.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Reasons(Vec<Option<String>>);

impl Reasons {
    /// The first reason stays.
    fn insert(&mut self, entrant: usize, why: String) {
        self.0.resize(self.0.len().max(entrant + 1), None);
        self.0[entrant].get_or_insert(why);
    }

    pub(crate) fn get(&self, entrant: usize) -> Option<&str> {
        self.0.get(entrant)?.as_deref()
    }

    /// Growing.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (usize, &str)> {
        self.0.iter().enumerate().filter_map(|(entrant, why)| Some((entrant, why.as_deref()?)))
    }
}

/// What is known of a case. A search asks far more often than anything is measured.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    /// Of each entrant, up to the last one that was measured; empty for those that were not.
    samples: Vec<Samples>,
    /// Entrants and their p50, fastest first.
    ranking: Vec<(usize, f64)>,
    /// Entrants that cannot run it, with the reason.
    refused: Reasons,
}

/// Of a case where nothing was tried.
static NOTHING: Measured = Measured { samples: Vec::new(), ranking: Vec::new(), refused: Reasons(Vec::new()) };

impl Measured {
    /// How many times an entrant was measured.
    pub(crate) fn count(&self, entrant: usize) -> u32 {
        self.samples.get(entrant).map_or(0, Samples::count)
    }

    /// Entrants with times, growing.
    fn each(&self) -> impl Iterator<Item = (usize, &Samples)> {
        self.samples.iter().enumerate().filter(|(_, samples)| samples.count() > 0)
    }
}

/// The slowest rank's times.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Samples {
    us: Vec<f32>,
    p50_us: f64,
}

impl Samples {
    pub(crate) fn count(&self) -> u32 {
        self.us.len() as u32
    }

    pub(crate) fn p50_us(&self) -> f64 {
        self.p50_us
    }
}

impl Log {
    /// Notes further times of an entrant.
    pub(crate) fn record(&mut self, case: Case, entrant: usize, times_us: &[f32]) {
        let Measured { samples, ranking, .. } = self.cases.entry(case).or_default();
        samples.resize(samples.len().max(entrant + 1), Samples::default());
        let samples = &mut samples[entrant];
        samples.us.extend(times_us);
        let mut sorted: Vec<f64> = samples.us.iter().map(|&us| us.into()).collect();
        sorted.sort_by(f64::total_cmp);
        samples.p50_us = percentile(&sorted, 50.0);
        ranking.retain(|&(other, _)| other != entrant);
        let is_before = |other: &(usize, f64)| other.1.total_cmp(&samples.p50_us).then(other.0.cmp(&entrant)).is_lt();
        ranking.insert(ranking.partition_point(is_before), (entrant, samples.p50_us));
    }

    /// Notes that an entrant is out, everywhere.
    pub(crate) fn drop(&mut self, entrant: usize, why: String) {
        self.dropped.insert(entrant, why);
    }

    /// Notes that an entrant cannot run a case.
    pub(crate) fn refuse(&mut self, case: Case, entrant: usize, why: String) {
        self.cases.entry(case).or_default().refused.insert(entrant, why);
    }

    /// Whether an entrant can be measured.
    pub(crate) fn is_in(&self, case: Case, entrant: usize) -> bool {
        self.ins(case)(entrant)
    }

    /// The same, of many.
    pub(crate) fn ins(&self, case: Case) -> impl Fn(usize) -> bool {
        let refused = &self.at(case).refused;
        move |entrant| self.dropped.get(entrant).is_none() && refused.get(entrant).is_none()
    }

    /// Why an entrant cannot be measured, if it cannot.
    pub(crate) fn why_out(&self, case: Case, entrant: usize) -> Option<&str> {
        self.dropped.get(entrant).or_else(|| self.at(case).refused.get(entrant))
    }

    pub(crate) fn dropped(&self) -> &Reasons {
        &self.dropped
    }

    /// What was measured at a case.
    pub(crate) fn at(&self, case: Case) -> &Measured {
        self.cases.get(&case).unwrap_or(&NOTHING)
    }

    /// Times of an entrant; none before the first.
    pub(crate) fn samples(&self, case: Case, entrant: usize) -> Option<&Samples> {
        self.at(case).samples.get(entrant).filter(|samples| samples.count() > 0)
    }

    /// How many times an entrant was measured.
    pub(crate) fn count(&self, case: Case, entrant: usize) -> u32 {
        self.at(case).count(entrant)
    }

    /// Sizes at which anything of a class was measured, growing.
    pub(crate) fn sizes(&self, class: usize) -> impl Iterator<Item = u64> {
        let of_class = self.cases.range((class, 0)..=(class, u64::MAX));
        of_class.filter(|(_, measured)| !measured.ranking.is_empty()).map(|(&(_, bytes), _)| bytes)
    }

    /// Everything that was measured at a case and is not out, fastest first.
    pub(crate) fn ranking(&self, case: Case) -> impl Iterator<Item = (usize, f64)> {
        let is_in = self.ins(case);
        self.at(case).ranking.iter().copied().filter(move |&(entrant, _)| is_in(entrant))
    }

    /// The same without the libraries that are measured beside.
    pub(crate) fn own_ranking(&self, space: &Space, case: Case) -> impl Iterator<Item = (usize, f64)> {
        self.ranking(case).filter(|&(entrant, _)| space.variant(entrant).is_some())
    }

    /// Measurements so far, of how many candidates at a case.
    pub(crate) fn measured(&self) -> usize {
        self.cases.values().map(|measured| measured.ranking.len()).sum()
    }
}

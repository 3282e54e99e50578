//! From what was measured to what is measured next. Pure: equal spaces and logs give equal rounds, so ranks need not ask.
//!
//! 1. A first pass: the manifest's own shapes at every size, so that a search that is cut has something for each; then, at few sizes,
//!    every shape of the variants that are near the best.
//! 2. Every size: the own shapes that may win and the best of the sizes around it from the first pass, then the neighbours of each
//!    variant's best shape, until none of them is better. The better half gets more repeats, and the best two all.
//! 3. Between every two sizes, what may win at either: a chunk that fits a size exactly can be a bad one for what is slightly larger.
//! 4. Where two neighbouring sizes have different winners, both are measured between them, until the boundary is known closely, and right
//!    behind a size that was asked for: what fits it exactly goes round once more from there on.
//! 5. The same three for registered buffers, from what won in plain ones and its direct siblings: nothing else runs differently there.

use std::collections::{BTreeMap, BTreeSet};

use crate::choices::{choices, choices_before};
use crate::log::Log;
use crate::space::{Case, Space};

/// Most candidates of a round: they take turns, so that a drift of clocks meets them alike.
const ROUND: usize = 12;
/// Most repeats of a round, so that clock and signals are looked at in between.
const MOST_REPEATS: u32 = 100;
/// Between two sizes of the first pass, at least this factor.
const FIRST_STEP: u64 = 16;
/// A variant whose best is slower than this times the best of all is left out of the first pass.
const NEAR: f64 = 2.0;
/// Above this size, all shapes would take too long; which are best has hardly changed since the size before it.
const WIDE: u64 = 64 << 20;
/// Candidates of a size in plain buffers that are measured in registered ones, besides direct ones.
const FROM_PLAIN: usize = 2;
/// A variant may still win at a size where its best shape so far is at most this much slower than the best of all.
const RIVAL: f64 = 1.25;
/// With so many candidates of a size measured, no more neighbours are looked at.
const CLIMB: usize = 200;
/// Two sizes are close enough for a boundary between them where they differ by less than this factor.
const CLOSE: f64 = 1.2;
/// Sizes between others are whole multiples of this.
const GRAIN: u64 = 256;

/// What a round is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first pass.
    First,
    /// A size of its own.
    Size,
    /// Between two sizes.
    Between,
}

impl Phase {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::First => "first pass",
            Self::Size => "each size",
            Self::Between => "between sizes",
        }
    }
}

/// Candidates that are measured together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Round {
    pub(crate) phase: Phase,
    pub(crate) case: Case,
    /// Growing; at least one.
    pub(crate) entrants: Vec<usize>,
    pub(crate) repeats: u32,
}

/// The next round; none when the search is over.
pub(crate) fn next(space: &Space, log: &Log) -> Option<Round> {
    let search = Search { space, log };
    if space.effort.exhaustive {
        return space.cases().find_map(|case| search.everything(case));
    }
    let first_pass = search.first_sizes();
    let (of_plain, of_its_own): (Vec<_>, Vec<_>) =
        (0..space.classes.len()).partition(|&class| space.plain_of(class).is_some());
    let first_cases = || first_pass.iter().flat_map(|&bytes| of_its_own.iter().map(move |&class| (class, bytes)));
    let all_cases = space.cases().filter(|(class, _)| of_its_own.contains(class));
    first_cases()
        .chain(all_cases)
        .find_map(|case| search.own_shapes(case))
        .or_else(|| first_cases().find_map(|case| search.all_shapes(case, &first_pass)))
        .or_else(|| search.sizes(&of_its_own, &first_pass))
        .or_else(|| search.sizes(&of_plain, &first_pass))
}

/// A size between two others; none where they are close.
fn between(low: u64, high: u64) -> Option<u64> {
    let middle = (low as f64 * high as f64).sqrt() as u64 / GRAIN * GRAIN;
    (high as f64 > CLOSE * low as f64 && low < middle && middle < high).then_some(middle)
}

struct Search<'a> {
    space: &'a Space,
    log: &'a Log,
}

impl Search<'_> {
    /// Every candidate, and then all repeats of those that may be the best, and of what is judged. In registered buffers what is not
    /// direct was measured in plain ones, so only the best of it.
    fn everything(&self, case: Case) -> Option<Round> {
        let (space, log) = (self.space, self.log);
        let from_plain = space.plain_of(case.0).map(|plain| self.best_of_plain(case, plain));
        let is_asked = |entrant: &usize| {
            let is_rival = space.rivals.contains(entrant);
            from_plain.as_ref().is_none_or(|found| is_rival || space.is_direct(*entrant) || found.contains(entrant))
        };
        let all = (0..space.entrants.len()).filter(is_asked).filter(self.is_own(case));
        let judged = space.judged.get(&case).and_then(|&entrant| space.stand_in(case, entrant));
        let judged = judged.filter(|&entrant| log.is_in(case, entrant));
        let all: BTreeSet<_> = all.chain(judged).collect();
        self.round(Phase::Size, case, all.into_iter(), self.few()).or_else(|| {
            let own = || log.own_ranking(space, case);
            let best_us = own().next().map_or(0.0, |(_, us)| us);
            let near = own().filter(|&(_, us)| us <= RIVAL * best_us).map(|(entrant, _)| entrant);
            let near: BTreeSet<_> = near.chain(judged).collect();
            self.round(Phase::Size, case, near.into_iter(), space.effort.last)
        })
    }

    /// Repeats of a candidate of which nothing is known yet.
    fn few(&self) -> u32 {
        self.space.effort.first.max(self.space.effort.last / 4)
    }

    /// Every size of some classes, and the boundaries between them.
    fn sizes(&self, classes: &[usize], first_pass: &[u64]) -> Option<Round> {
        // WHY: those of the first pass first: the others begin with what is best there.
        let (of_first, others): (Vec<_>, Vec<_>) = self
            .space
            .cases()
            .filter(|(class, _)| classes.contains(class))
            .partition(|(_, bytes)| first_pass.contains(bytes));
        let mut cases = of_first.into_iter().chain(others);
        cases
            .find_map(|case| self.size(case, first_pass))
            .or_else(|| classes.iter().find_map(|&class| self.middle(class)))
            .or_else(|| classes.iter().find_map(|&class| self.crossover(class)))
    }

    /// What a size in registered buffers begins with: the best in plain ones, and the direct siblings of the best shapes of each
    /// variant that is near.
    fn best_of_plain(&self, (_, bytes): Case, plain: usize) -> BTreeSet<usize> {
        let (space, log) = (self.space, self.log);
        let ranking: Vec<_> = log.own_ranking(space, (plain, bytes)).collect();
        let best_us = ranking.first().map_or(0.0, |&(_, us)| us);
        let taken = choices(space, log, plain).into_iter().find(|&(size, _)| size == bytes);
        let mut found: BTreeSet<_> = taken.map(|(_, entrant)| entrant).into_iter().collect();
        found.extend(ranking.iter().take(FROM_PLAIN).map(|&(entrant, _)| entrant));
        let mut seen: BTreeMap<Option<&str>, usize> = BTreeMap::new();
        for &(entrant, _) in ranking.iter().filter(|&&(_, us)| us <= NEAR * best_us) {
            let Some(direct) = space.direct_of(entrant) else { continue };
            let of_variant = seen.entry(space.variant(entrant)).or_default();
            *of_variant += 1;
            found.extend((*of_variant <= FROM_PLAIN).then_some(direct));
        }
        found
    }

    /// Sizes of the first pass: the smallest, the largest, and those between them that are far enough apart.
    fn first_sizes(&self) -> Vec<u64> {
        let sizes = &self.space.sizes;
        let mut chosen: Vec<u64> = Vec::new();
        for (place, &bytes) in sizes.iter().enumerate() {
            let is_far = chosen.last().is_none_or(|&last| bytes / last.max(1) >= FIRST_STEP);
            if is_far || place + 1 == sizes.len() {
                chosen.push(bytes);
            }
        }
        chosen
    }

    /// The manifest's own shapes.
    fn own_shapes(&self, case: Case) -> Option<Round> {
        let seeds = (0..self.space.seeds).filter(self.is_own(case));
        self.round(Phase::First, case, seeds, self.space.effort.first)
    }

    /// All shapes of the variants that are near; at a size that takes long, those that were best at the size before it.
    fn all_shapes(&self, case: Case, first_pass: &[u64]) -> Option<Round> {
        let (space, log, (class, bytes)) = (self.space, self.log, case);
        let near = self.near(case);
        let before = first_pass.iter().rev().find(|&&size| size < bytes);
        let of_near = |&entrant: &usize| space.variant(entrant).is_some_and(|variant| near.contains(variant));
        let shapes = |all: &mut dyn Iterator<Item = usize>| {
            let own = all.filter(of_near).filter(self.is_own(case));
            self.round(Phase::First, case, own, space.effort.first)
        };
        match before {
            Some(&before) if bytes > WIDE => {
                let best = log.ranking((class, before)).take(2 * space.effort.keep);
                let best: BTreeSet<_> = best.filter_map(|(entrant, _)| space.stand_in(case, entrant)).collect();
                shapes(&mut best.into_iter())
            }
            _ => shapes(&mut (space.seeds..space.entrants.len())),
        }
    }

    /// Variants whose own shapes are near the best of all. By those alone, which are measured first, so that it stays as it is.
    fn near(&self, case: Case) -> BTreeSet<&str> {
        let own: Vec<_> = self.log.ranking(case).filter(|&(entrant, _)| entrant < self.space.seeds).collect();
        let best_us = own.first().map_or(0.0, |&(_, us)| us);
        own.into_iter()
            .filter(|&(_, us)| us <= NEAR * best_us)
            .filter_map(|(entrant, _)| self.space.variant(entrant))
            .collect()
    }

    fn size(&self, case: Case, first_pass: &[u64]) -> Option<Round> {
        let (space, log) = (self.space, self.log);
        let contenders = self.contenders(case, first_pass);
        let few = self.few();
        if let Some(round) = self.round(Phase::Size, case, contenders.iter().copied(), few) {
            return Some(round);
        }
        let own = log.own_ranking(space, case);
        let measured = log.at(case);
        let ranking: Vec<_> = own.filter(|&(entrant, _)| measured.count(entrant) >= few).collect();
        if ranking.len() < if case.1 > WIDE { CLIMB / 4 } else { CLIMB } {
            let next_to = self.leaders(&ranking).flat_map(|best| &space.neighbours[best]);
            let next_to = next_to.filter_map(|&entrant| space.stand_in(case, entrant));
            let next_to = next_to.filter(|&entrant| space.plain_of(case.0).is_none() || space.is_direct(entrant));
            let next_to: BTreeSet<_> = next_to.filter(self.is_own(case)).collect();
            if let Some(round) = self.round(Phase::Size, case, next_to.into_iter(), few) {
                return Some(round);
            }
        }
        let halves = [(4, space.effort.last / 2), (2, space.effort.last)];
        let judged = space.judged.get(&case).and_then(|&entrant| space.stand_in(case, entrant));
        halves.into_iter().find_map(|(places, repeats)| {
            let ahead = ranking.iter().take(places).map(|&(entrant, _)| entrant);
            let with = ahead.chain(judged).chain(space.rivals.clone().filter(|_| places > 2));
            let all: BTreeSet<_> = with.filter(|&entrant| log.is_in(case, entrant)).collect();
            self.round(Phase::Size, case, all.into_iter(), repeats)
        })
    }

    /// The best shape of each variant that may still win.
    fn leaders(&self, ranking: &[(usize, f64)]) -> impl Iterator<Item = usize> {
        let mut variants = BTreeSet::new();
        let best_us = ranking.first().map_or(0.0, |&(_, us)| us);
        let near = ranking.iter().filter(move |&&(_, us)| us <= RIVAL * best_us);
        near.filter(move |&&(entrant, _)| variants.insert(self.space.variant(entrant))).map(|&(entrant, _)| entrant)
    }

    /// What a size begins with: of each size of the first pass next to it the best, and the best shape of each variant that is near;
    /// and what the size before takes.
    fn contenders(&self, case: Case, first_pass: &[u64]) -> BTreeSet<usize> {
        let (space, log, (class, bytes)) = (self.space, self.log, case);
        let below = first_pass.iter().rev().find(|&&size| size <= bytes);
        let above = first_pass.iter().find(|&&size| size >= bytes);
        let plain = space.plain_of(class);
        let mut found = plain.map_or(BTreeSet::new(), |plain| self.best_of_plain(case, plain));
        for &size in below.into_iter().chain(above).filter(|_| plain.is_none()) {
            let mut variants = BTreeSet::new();
            let best_us = log.ranking((class, size)).next().map_or(0.0, |(_, us)| us);
            for (place, (entrant, us)) in log.ranking((class, size)).enumerate() {
                let of_variant = space.variant(entrant).is_some_and(|variant| variants.insert(variant));
                if place < space.effort.keep || (of_variant && us <= NEAR * best_us) {
                    found.insert(entrant);
                }
            }
        }
        let own = log.ranking(case).filter(|&(entrant, _)| entrant < space.seeds);
        let own: Vec<_> = own.filter(|_| plain.is_none()).collect();
        let best_us = own.first().map_or(0.0, |&(_, us)| us);
        found.extend(own.into_iter().filter(|&(_, us)| us <= RIVAL * best_us).map(|(entrant, _)| entrant));
        found.extend(choices_before(space, log, class, bytes).last().map(|&(_, entrant)| entrant));
        found.extend(space.judged.get(&case));
        found.extend(space.rivals.clone());
        let stand_ins = found.into_iter().filter_map(|entrant| space.stand_in(case, entrant));
        stand_ins.filter(|&entrant| log.is_in(case, entrant)).collect()
    }

    /// Between two sizes that were asked for, what each of them takes and its best two.
    fn middle(&self, class: usize) -> Option<Round> {
        let (space, log) = (self.space, self.log);
        let taken = choices(space, log, class);
        space.sizes.windows(2).find_map(|pair| {
            let case = (class, between(pair[0], pair[1])?);
            let best = |&bytes: &u64| log.own_ranking(space, (class, bytes)).take(2).map(|(entrant, _)| entrant);
            let of_ends = taken.iter().filter(|(bytes, _)| pair.contains(bytes)).map(|&(_, entrant)| entrant);
            let all = pair.iter().flat_map(best).chain(of_ends).filter_map(|entrant| space.stand_in(case, entrant));
            let all: BTreeSet<_> = all.filter(|&entrant| log.is_in(case, entrant)).collect();
            self.round(Phase::Between, case, all.into_iter(), space.effort.last)
        })
    }

    /// The widest step between two winners is halved first. Where they are close, the boundary may lie right behind the smaller.
    fn crossover(&self, class: usize) -> Option<Round> {
        let (space, log) = (self.space, self.log);
        let choices = choices(space, log, class);
        let changes = choices.windows(2).filter(|pair| pair[0].1 != pair[1].1);
        let mut open: Vec<_> = changes.map(|pair| (pair[0].0, pair[1].0, [pair[0].1, pair[1].1])).collect();
        open.sort_by(|a, b| (b.1 as f64 / b.0 as f64).total_cmp(&(a.1 as f64 / a.0 as f64)));
        open.into_iter().find_map(|(low, high, both)| {
            let behind = Some(low + GRAIN).filter(|&next| space.sizes.contains(&low) && next < high);
            let case = (class, between(low, high).or(behind)?);
            if !both.iter().all(|&entrant| log.is_in(case, entrant)) {
                return None;
            }
            let both: BTreeSet<_> = both.into_iter().collect();
            self.round(Phase::Between, case, both.into_iter(), space.effort.last)
        })
    }

    /// Whether an entrant is measured at a case itself: it can run, is not out, and no other runs alike.
    fn is_own(&self, case: Case) -> impl Fn(&usize) -> bool {
        let (stand_in, is_in) = (self.space.stand_ins(case), self.log.ins(case));
        move |&entrant| stand_in(entrant) == Some(entrant) && is_in(entrant)
    }

    /// A round of those that were measured less often than `repeats`, for as many as they lack; none if there are none. With few of
    /// them, all are measured: times of one round can be held against each other.
    fn round(&self, phase: Phase, case: Case, all: impl Iterator<Item = usize>, repeats: u32) -> Option<Round> {
        let all: Vec<_> = all.collect();
        let measured = self.log.at(case);
        let lacks = |entrant: usize| repeats.saturating_sub(measured.count(entrant));
        let short: Vec<_> = all.iter().copied().filter(|&entrant| lacks(entrant) > 0).take(ROUND).collect();
        let repeats = short.iter().map(|&entrant| lacks(entrant)).max()?.min(MOST_REPEATS);
        Some(Round { phase, case, entrants: if all.len() <= 2 { all } else { short }, repeats })
    }
}

#[cfg(test)]
mod tests;

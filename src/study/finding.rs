//! What times amount to: whether a claim holds in them, and at which sizes the pattern pays.

use std::fmt;

use super::grid::Grid;
use crate::measure::Bytes;

/// A pattern pays where it is faster by more than this part, and a claim may be missed by as much: what two runs of the same
/// thing can differ by.
pub const TOLERANCE: f64 = 0.03;

/// One group at one world size against the claim of its study.
#[derive(Clone, Debug, PartialEq)]
pub struct Finding<'a> {
    factor: Option<f64>,
    /// The fastest candidate with the pattern at each size that has one and a baseline to hold it against; sizes ascending.
    pub points: Vec<Point<'a>>,
}

/// The best that the pattern does at one size.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Point<'a> {
    /// Message size.
    pub bytes: Bytes,
    /// The candidate.
    pub label: &'a str,
    /// How many times faster than the baseline.
    pub speedup: f64,
}

impl Point<'_> {
    /// Whether the pattern is worth having at this size.
    pub fn pays(&self) -> bool {
        self.speedup >= 1.0 + TOLERANCE
    }
}

impl<'a> Finding<'a> {
    /// The best of each size. `factor` is that of the study.
    pub fn of(grid: &Grid<'a>, factor: Option<f64>) -> Self {
        let best = |(column, &bytes): (usize, &Bytes)| {
            let judged = grid.lines.iter().enumerate().filter(|(_, line)| line.candidate.is_some_and(|it| !it.aside));
            let speedups = judged.filter_map(|(index, line)| {
                Some(Point { bytes, label: line.label, speedup: grid.speedup(index, column)? })
            });
            speedups.max_by(|a, b| a.speedup.total_cmp(&b.speedup))
        };
        Self { factor, points: grid.group.sizes.iter().enumerate().filter_map(best).collect() }
    }

    /// Whether the claim holds at a point: the factor it names is reached, or it pays where it names none.
    fn holds_at(&self, point: &Point<'_>) -> bool {
        match self.factor {
            Some(factor) => point.speedup >= factor * (1.0 - TOLERANCE),
            None => point.pays(),
        }
    }
}

/// Whether the claim holds over several findings: everywhere, somewhere, nowhere; none where there is no point.
pub fn holds(findings: &[Finding<'_>]) -> Option<&'static str> {
    let points = || findings.iter().flat_map(|finding| finding.points.iter().map(|point| finding.holds_at(point)));
    match (points().any(|holds| holds), points().any(|holds| !holds)) {
        (true, false) => Some("holds"),
        (true, true) => Some("holds in part"),
        (false, true) => Some("fails"),
        (false, false) => None,
    }
}

/// `the claim **holds only at 64 KiB**. It pays at 64 KiB (2 slots, 2.10×); it does not at 1 MiB (4 slots, 1.01×).`
impl fmt::Display for Finding<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (held, failed): (Vec<&Point<'_>>, Vec<_>) = self.points.iter().partition(|point| self.holds_at(point));
        match (held.as_slice(), failed.as_slice()) {
            ([], []) => return f.write_str("nothing was measured on both sides."),
            (_, []) => f.write_str("the claim **holds**.")?,
            ([], _) => f.write_str("the claim **fails**.")?,
            (held, _) => {
                let sizes: Vec<_> = held.iter().map(|point| point.bytes.human()).collect();
                write!(f, "the claim **holds only at {}**.", sizes.join(", "))?;
            }
        }
        let list = |points: &[&Point<'_>]| -> String {
            let said = |point: &&Point<'_>| format!("{} ({}, {:.2}×)", point.bytes.human(), point.label, point.speedup);
            points.iter().map(said).collect::<Vec<_>>().join(", ")
        };
        let (pays, not): (Vec<&Point<'_>>, Vec<_>) = self.points.iter().partition(|point| point.pays());
        match (pays.as_slice(), not.as_slice()) {
            (pays, []) => write!(f, " It pays at {}.", list(pays)),
            ([], not) => write!(f, " It does not pay at {}.", list(not)),
            (pays, not) => write!(f, " It pays at {}; it does not at {}.", list(pays), list(not)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ablation::tests::run;
    use super::super::studies::tests::small;
    use super::*;

    /// Of the small study, with the times of its baseline, two candidates, and one aside.
    fn said(factor: Option<f64>, times: &[[f64; 2]]) -> (String, Option<&'static str>) {
        let (study, ablation) = (small(), run(2, times));
        let grid = Grid::of(&study.groups[0], ablation.ranks, &ablation.studies[0]).unwrap();
        let finding = Finding::of(&grid, factor);
        (finding.to_string(), holds(&[finding]))
    }

    #[test]
    fn a_claim_is_held_against_its_factor() {
        let (text, word) = said(Some(2.0), &[[10.0, 20.0], [4.0, 30.0], [6.0, 19.0], [1.0, 1.0]]);
        let expected =
            "the claim **holds only at 64 KiB**. It pays at 64 KiB (2 slots, 2.50×), 1 MiB (4 slots, 1.05×).";
        assert_eq!((text.as_str(), word), (expected, Some("holds in part")));
        let (text, word) = said(Some(2.0), &[[10.0, 20.0], [9.9, 15.0]]);
        let expected =
            "the claim **fails**. It pays at 1 MiB (2 slots, 1.33×); it does not at 64 KiB (2 slots, 1.01×).";
        assert_eq!((text.as_str(), word), (expected, Some("fails")));
        let (text, word) = said(Some(2.0), &[[10.0, 20.0], [5.1, 10.0]]);
        assert!(text.starts_with("the claim **holds**. It pays at 64 KiB") && word == Some("holds"), "{text}");
    }

    #[test]
    fn without_a_factor_it_has_to_pay() {
        let (text, word) = said(None, &[[10.0, 20.0], [10.2, 19.9]]);
        let expected = "the claim **fails**. It does not pay at 64 KiB (2 slots, 0.98×), 1 MiB (2 slots, 1.01×).";
        assert_eq!((text.as_str(), word), (expected, Some("fails")));
        let (text, word) = said(None, &[[10.0, 20.0], [9.0, 20.0]]);
        assert!(text.contains("holds only at 64 KiB") && word == Some("holds in part"), "{text}");
    }

    #[test]
    fn what_is_aside_or_alone_says_nothing() {
        let (text, word) = said(None, &[[10.0, 20.0]]);
        assert_eq!((text.as_str(), word), ("nothing was measured on both sides.", None));
        assert_eq!(holds(&[]), None);
    }
}

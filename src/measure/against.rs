//! Myelon against the baselines of one run: which row is held against which.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::Deserialize;

use crate::error::{Error, Result};
use crate::measure::case::Series;
use crate::measure::results::Row;
use crate::measure::size::Bytes;

/// What [`Row::requested`] says where the lane table chose the variant.
pub const AUTO: &str = "auto";

/// A library that Myelon is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// NCCL on plain buffers.
    Nccl,
    /// NCCL on buffers registered as symmetric windows.
    NcclSymmetric,
    /// MSCCL++ through NCCL's functions, on plain buffers, without NVLink multicast.
    Mscclpp,
    /// PyTorch's operators on symmetric memory, without NVLink multicast; measured by `python/bench/symm_mem.py`.
    TorchSymmMem,
}

impl Baseline {
    /// Every baseline, in the order of columns.
    pub const ALL: [Self; 4] = [Self::Nccl, Self::NcclSymmetric, Self::Mscclpp, Self::TorchSymmMem];
    /// Those of NCCL.
    pub const OF_NCCL: [Self; 2] = [Self::Nccl, Self::NcclSymmetric];

    /// Its name on the command line and in [`Row::requested`].
    pub const fn name(self) -> &'static str {
        match self {
            Self::Nccl => "nccl",
            Self::NcclSymmetric => "nccl_symmetric",
            Self::Mscclpp => "mscclpp",
            Self::TorchSymmMem => "torch_symm_mem",
        }
    }

    /// Its name for people.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Nccl => "NCCL",
            Self::NcclSymmetric => "NCCL symmetric",
            Self::Mscclpp => "MSCCL++",
            Self::TorchSymmMem => "PyTorch symmetric memory",
        }
    }

    /// Whether NCCL is what runs.
    pub fn is_of_nccl(self) -> bool {
        Self::OF_NCCL.contains(&self)
    }

    /// Those that any of these rows measured, in the order of columns.
    pub fn among(rows: &[Row]) -> Vec<Self> {
        Self::ALL.into_iter().filter(|&baseline| rows.iter().any(|row| Self::of(row) == Some(baseline))).collect()
    }

    /// The baseline that this row measured; none if it measured Myelon.
    pub fn of(row: &Row) -> Option<Self> {
        Self::ALL.into_iter().find(|baseline| baseline.name() == row.requested)
    }

    /// How many times faster `row` is than this baseline was in the same case; above 1 the row wins.
    ///
    /// None if `rows` lack the baseline, if either result was wrong, or for a time of zero.
    pub fn ratio(self, row: &Row, rows: &[Row]) -> Option<f64> {
        let case = row.case();
        let baseline = rows.iter().find(|other| Self::of(other) == Some(self) && other.case() == case)?;
        row.speedup_over(baseline)
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|baseline| baseline.name() == text).ok_or_else(|| {
            Error::invalid(format!("unknown baseline '{text}': known are {}", Self::ALL.map(Self::name).join(", ")))
        })
    }
}

/// One series with Myelon and the baselines side by side, sizes ascending.
#[derive(Clone, Debug)]
pub struct Standing<'a> {
    /// What the lines have in common.
    pub series: Series,
    /// How [`Line::ours`] was chosen.
    pub choice: Choice,
    /// One line a size that Myelon or a baseline was measured at.
    pub lines: Vec<Line<'a>>,
}

/// Which of several Myelon rows of a size stands for Myelon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// What the lane table chose: the series has rows that were requested as [`AUTO`], which is what users get.
    Auto,
    /// The fastest by p50: no row was requested as [`AUTO`].
    Fastest,
}

/// One size of a [`Standing`].
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Message size.
    pub bytes: Bytes,
    /// Myelon; a wrong result only where none was right.
    pub ours: Option<&'a Row>,
    /// NCCL and the like, as in [`Baseline::ALL`].
    pub baselines: [Option<&'a Row>; Baseline::ALL.len()],
}

impl Line<'_> {
    /// This baseline's row.
    pub fn baseline(&self, baseline: Baseline) -> Option<&Row> {
        self.baselines[baseline as usize]
    }

    /// How many times faster Myelon is than the fastest baseline; above 1 Myelon wins. None if either side lacks a right result.
    pub fn ratio(&self) -> Option<f64> {
        let rivals = self.baselines.into_iter().flatten();
        rivals.filter_map(|rival| self.ours?.speedup_over(rival)).min_by(f64::total_cmp)
    }
}

impl<'a> Standing<'a> {
    /// Sorts rows into one standing a series: most ranks first, then in the order of types and operators. A series that only
    /// baselines were measured in is none where there are others.
    pub fn of(rows: &'a [Row]) -> Vec<Self> {
        let mut series: BTreeMap<Series, Vec<&Row>> = BTreeMap::new();
        for row in rows {
            series.entry(row.case().series).or_default().push(row);
        }
        let mut standings: Vec<_> = series.into_iter().map(|(series, rows)| Self::of_series(series, &rows)).collect();
        if standings.iter().any(Self::has_ours) {
            standings.retain(Self::has_ours);
        }
        standings.sort_by_key(|standing| std::cmp::Reverse(standing.series.ranks));
        standings
    }

    fn has_ours(&self) -> bool {
        self.lines.iter().any(|line| line.ours.is_some())
    }

    /// Whether any line has this baseline.
    pub fn has(&self, baseline: Baseline) -> bool {
        self.lines.iter().any(|line| line.baseline(baseline).is_some())
    }

    fn of_series(series: Series, rows: &[&'a Row]) -> Self {
        let choice = if rows.iter().any(|row| row.requested == AUTO) { Choice::Auto } else { Choice::Fastest };
        let mut lines: BTreeMap<Bytes, Line<'a>> = BTreeMap::new();
        for &row in rows {
            let bytes = Bytes(row.bytes);
            let line = lines.entry(bytes).or_insert(Line { bytes, ours: None, baselines: [None; Baseline::ALL.len()] });
            let place = match Baseline::of(row) {
                Some(baseline) => &mut line.baselines[baseline as usize],
                None if choice == Choice::Auto && row.requested != AUTO => continue,
                None => &mut line.ours,
            };
            let merit = |row: &Row| (row.is_wrong(), row.time_us.p50);
            if place.is_none_or(|held| merit(row) < merit(held)) {
                *place = Some(row);
            }
        }
        // A size at which only the passed-over variants ran has nothing to show.
        let shown = |line: &Line<'_>| line.ours.is_some() || line.baselines.iter().any(Option::is_some);
        Self { series, choice, lines: lines.into_values().filter(shown).collect() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::tests::row;

    #[test]
    fn names_round_trip() {
        for (index, baseline) in Baseline::ALL.into_iter().enumerate() {
            assert_eq!(baseline.name().parse::<Baseline>().unwrap(), baseline);
            assert_eq!(baseline as usize, index, "`Line::baselines` is indexed by it");
        }
        assert!("nccl2".parse::<Baseline>().unwrap_err().to_string().contains("nccl_symmetric"));
    }

    #[test]
    fn ratios_pair_equal_cases_only() {
        let ours = row(8, 1024, "auto", 4.0);
        let rows = [row(4, 1024, "nccl", 1.0), row(8, 2048, "nccl", 1.0), row(8, 1024, "nccl", 10.0)];
        assert_eq!(Baseline::Nccl.ratio(&ours, &rows), Some(2.5));
        assert_eq!(Baseline::NcclSymmetric.ratio(&ours, &rows), None);
        assert_eq!(Baseline::Nccl.ratio(&ours, &rows[..2]), None);
        let in_place = Row { in_place: true, ..ours.clone() };
        assert_eq!(Baseline::Nccl.ratio(&in_place, &rows), None);
        let wrong = Row { wrong: Some(1), ..ours };
        assert_eq!(Baseline::Nccl.ratio(&wrong, &rows), None);
    }

    #[test]
    fn auto_stands_for_myelon_where_it_was_measured() {
        let rows =
            [row(2, 64, "ring", 1.0), row(2, 64, "auto", 2.0), row(2, 64, "nccl", 6.0), row(2, 128, "ring", 1.0)];
        let [standing] = Standing::of(&rows).try_into().unwrap();
        assert_eq!((standing.choice, standing.lines.len()), (Choice::Auto, 1));
        assert_eq!(standing.lines[0].ours.unwrap().requested, "auto");
        assert_eq!(standing.lines[0].ratio(), Some(3.0));
    }

    #[test]
    fn without_auto_the_fastest_right_variant_does() {
        let wrong = Row { wrong: Some(3), ..row(2, 64, "broken", 0.1) };
        let rows = [wrong.clone(), row(2, 64, "slow", 4.0), row(2, 64, "fast", 2.0), Row { bytes: 128, ..wrong }];
        let [standing] = Standing::of(&rows).try_into().unwrap();
        assert_eq!(standing.choice, Choice::Fastest);
        assert_eq!(standing.lines[0].ours.unwrap().requested, "fast");
        assert!(standing.lines[1].ours.unwrap().is_wrong(), "shown, so that it can be reported");
        assert_eq!(standing.lines[1].ratio(), None);
    }

    #[test]
    fn the_ratio_is_to_the_fastest_baseline() {
        let mut rows = vec![row(2, 64, "auto", 2.0), row(2, 64, "nccl", 6.0), row(2, 64, "nccl_symmetric", 3.0)];
        assert_eq!(Standing::of(&rows)[0].lines[0].ratio(), Some(1.5));
        rows.push(row(2, 64, "mscclpp", 1.0));
        assert_eq!(Standing::of(&rows)[0].lines[0].ratio(), Some(0.5));
        assert_eq!(Baseline::among(&rows), [Baseline::Nccl, Baseline::NcclSymmetric, Baseline::Mscclpp]);
    }

    #[test]
    fn what_only_baselines_were_measured_in_is_left_out_beside_others() {
        let alone = Row { in_place: true, ..row(2, 64, "nccl", 1.0) };
        let rows = [row(2, 64, "auto", 1.0), alone];
        let [standing] = Standing::of(&rows).try_into().unwrap();
        assert!(!standing.series.in_place && standing.lines[0].ours.is_some());
        assert_eq!(Standing::of(&rows[1..]).len(), 1);
    }

    #[test]
    fn large_worlds_and_small_sizes_come_first() {
        let rows = [row(2, 64, "auto", 1.0), row(8, 128, "auto", 1.0), row(8, 64, "auto", 1.0)];
        let standings = Standing::of(&rows);
        assert_eq!(standings.iter().map(|c| c.series.ranks.get()).collect::<Vec<_>>(), [8, 2]);
        assert_eq!(standings[0].lines.iter().map(|line| line.bytes.0).collect::<Vec<_>>(), [64, 128]);
    }
}

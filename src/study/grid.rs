//! One group's times side by side: a line a candidate, a column a size.

use super::ablation::StudyRun;
use super::studies::{Candidate, Group};
use crate::measure::{Baseline, Bytes, Row};
use crate::types::WorldSize;

/// What a run measured of a group.
#[derive(Clone, Debug)]
pub struct Grid<'a> {
    /// The group.
    pub group: &'a Group,
    /// Ranks that took part.
    pub ranks: WorldSize,
    /// The group's baseline first, then its candidates, then the libraries that were measured.
    pub lines: Vec<Line<'a>>,
}

/// One candidate's times.
#[derive(Clone, Debug)]
pub struct Line<'a> {
    /// Its name for people.
    pub label: &'a str,
    /// None for a library.
    pub candidate: Option<&'a Candidate>,
    /// One a size of the group; none where it was not measured.
    pub rows: Vec<Option<&'a Row>>,
}

impl<'a> Grid<'a> {
    /// The times of a group; none if nothing of it was measured.
    pub fn of(group: &'a Group, ranks: WorldSize, run: &'a StudyRun) -> Option<Self> {
        let mut lines: Vec<_> = group
            .entrants()
            .map(|candidate| Line {
                label: &candidate.label,
                candidate: Some(candidate),
                rows: group.sizes.iter().map(|&size| run.row(&group.title, candidate, size)).collect(),
            })
            .collect();
        for &baseline in &group.against {
            let row = |size: &Bytes| run.baseline(&group.title, baseline, *size);
            let rows = group.sizes.iter().map(row).collect();
            lines.push(Line { label: baseline.label(), candidate: None, rows });
        }
        lines.retain(|line| line.rows.iter().any(Option::is_some) || line.candidate.is_some());
        let measured = lines.iter().any(|line| line.rows.iter().any(Option::is_some));
        measured.then_some(Self { group, ranks, lines })
    }

    /// How many times faster a line is than the group's baseline; above 1 it wins.
    ///
    /// None for the baseline itself, where either was not measured or gave a wrong result, and for a time of zero.
    pub fn speedup(&self, line: usize, column: usize) -> Option<f64> {
        if line == 0 {
            return None;
        }
        self.lines[line].rows[column]?.speedup_over(self.lines[0].rows[column]?)
    }
}

impl StudyRun {
    fn baseline(&self, group: &str, baseline: Baseline, size: Bytes) -> Option<&Row> {
        let is_it = |row: &Row| Baseline::of(row) == Some(baseline) && row.bytes == size.0;
        self.rows.iter().find(|measured| measured.group == group && is_it(&measured.row)).map(|measured| &measured.row)
    }
}

#[cfg(test)]
mod tests {
    use super::super::ablation::tests::run;
    use super::super::studies::tests::small;
    use super::*;

    #[test]
    fn speedups_are_to_the_first_line() {
        let (study, ablation) = (small(), run(2, &[[10.0, 20.0], [5.0, 40.0]]));
        let grid = Grid::of(&study.groups[0], ablation.ranks, &ablation.studies[0]).unwrap();
        assert_eq!(
            grid.lines.iter().map(|line| line.label).collect::<Vec<_>>(),
            ["signals", "2 slots", "4 slots", "8 lanes"]
        );
        assert_eq!([grid.speedup(1, 0), grid.speedup(1, 1)], [Some(2.0), Some(0.5)]);
        assert_eq!([grid.speedup(0, 0), grid.speedup(2, 0)], [None, None]);
    }

    #[test]
    fn wrong_results_have_no_speedup() {
        let (study, mut ablation) = (small(), run(2, &[[10.0, 20.0], [5.0, 40.0]]));
        ablation.studies[0].rows[0].row.wrong = Some(1);
        let grid = Grid::of(&study.groups[0], ablation.ranks, &ablation.studies[0]).unwrap();
        assert_eq!([grid.speedup(1, 0), grid.speedup(1, 1)], [None, Some(0.5)]);
    }

    #[test]
    fn what_was_not_measured_is_no_grid() {
        let (study, ablation) = (small(), run(2, &[]));
        assert!(Grid::of(&study.groups[0], ablation.ranks, &ablation.studies[0]).is_none());
    }
}

//! The stored form of a run of studies, and runs on one machine taken together.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::studies::Candidate;
use crate::error::Result;
use crate::measure::stored::{Stored, json, lines};
use crate::measure::{Bytes, Provenance, Row};
use crate::types::WorldSize;

/// Number of the form described here. A change that an old reader would get wrong takes the next one.
const SCHEMA: u32 = 1;

/// One run of studies at one world size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Ablation {
    schema: u32,
    /// Where, when and with what it was measured.
    pub provenance: Provenance,
    /// Ranks that took part.
    pub ranks: WorldSize,
    /// Why the times mean nothing, if they do not: CPU ranks, or ranks that share GPUs.
    pub caution: Option<String>,
    /// In the order of the file of studies.
    pub studies: Vec<StudyRun>,
}

/// What was measured of one study.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StudyRun {
    /// [`Study::name`](super::Study::name).
    pub name: String,
    /// Whether the run ended before all of it was measured: the time was spent, or something failed.
    pub cut: bool,
    /// In the order in which they were measured.
    pub rows: Vec<Measured>,
}

/// One candidate at one size.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// [`Group::title`](super::Group::title).
    pub group: String,
    /// [`Candidate::label`], for people; a report finds a row by [`Row::requested`] and how it was issued.
    pub label: String,
    /// The measurement; what was requested is the candidate with all that is set of its shape.
    pub row: Row,
}

impl Ablation {
    /// A run in which nothing has been measured yet.
    pub fn new(provenance: Provenance, ranks: WorldSize, caution: Option<&str>) -> Self {
        Self { schema: SCHEMA, provenance, ranks, caution: caution.map(str::to_owned), studies: Vec::new() }
    }

    /// Names of the studies that were cut.
    pub fn cut(&self) -> Vec<&str> {
        self.studies.iter().filter(|study| study.cut).map(|study| study.name.as_str()).collect()
    }

    fn of(&self, study: &str) -> Option<&StudyRun> {
        self.studies.iter().find(|run| run.name == study && !run.rows.is_empty())
    }
}

impl Stored for Ablation {
    const SCHEMA: u32 = SCHEMA;
    const WHAT: &str = "results of studies";
    const WRITER: &str = "--ablate --json";

    fn check(&self) -> Result<(), (String, String)> {
        let mut rows = self.studies.iter().flat_map(|study| study.rows.iter().map(move |measured| (study, measured)));
        rows.try_for_each(|(StudyRun { name, .. }, Measured { label, row, .. })| {
            row.check().map_err(|detail| (format!("study {name}, '{label}'"), detail))
        })
    }

    fn body(&self) -> Result<String> {
        let Self { provenance, ranks, caution, studies, .. } = self;
        let study = |StudyRun { name, cut, rows }: &StudyRun| {
            Ok(format!("{{\"name\":{},\"cut\":{cut},\"rows\":{}}}", json(name)?, lines(rows.iter().map(json))?))
        };
        let (provenance, caution, studies) = (json(provenance)?, json(caution)?, lines(studies.iter().map(study))?);
        Ok(format!("\"provenance\":{provenance},\n\"ranks\":{ranks},\n\"caution\":{caution},\n\"studies\":{studies}"))
    }
}

impl StudyRun {
    /// The row of a candidate; none if it was not measured, or in another shape.
    pub fn row(&self, group: &str, candidate: &Candidate, size: Bytes) -> Option<&Row> {
        let asked = candidate.to_string();
        let is_it =
            |row: &Row| row.requested == asked && (row.graph, row.batch) == candidate.issue() && row.bytes == size.0;
        self.rows.iter().find(|measured| measured.group == group && is_it(&measured.row)).map(|measured| &measured.row)
    }
}

/// Runs on one machine, with one driver and one set of libraries.
#[derive(Clone, Debug)]
pub struct Machine {
    /// Newest first.
    runs: Vec<Ablation>,
}

impl Machine {
    /// Sorts runs by machine: the one with the newest run first; the order of `runs` does not matter unless two have one date.
    pub fn of(mut runs: Vec<Ablation>) -> Vec<Self> {
        runs.sort_by_key(|run| std::cmp::Reverse(run.provenance.date));
        let mut machines: Vec<Self> = Vec::new();
        for run in runs {
            let is_same = |machine: &&mut Self| {
                let newest = machine.newest();
                newest.caution == run.caution && newest.provenance.is_same_machine(&run.provenance)
            };
            match machines.iter_mut().find(is_same) {
                Some(machine) => machine.runs.push(run),
                None => machines.push(Self { runs: vec![run] }),
            }
        }
        machines
    }

    fn newest(&self) -> &Ablation {
        &self.runs[0]
    }

    /// Of the newest run.
    pub fn provenance(&self) -> &Provenance {
        &self.newest().provenance
    }

    /// Of every run, newest first.
    pub fn provenances(&self) -> impl Iterator<Item = &Provenance> {
        self.runs.iter().map(|run| &run.provenance)
    }

    /// [`Ablation::caution`], the same in all its runs.
    pub fn caution(&self) -> Option<&str> {
        self.newest().caution.as_deref()
    }

    /// World sizes at which a study was measured, ascending.
    pub fn worlds(&self, study: &str) -> BTreeSet<WorldSize> {
        self.runs.iter().filter(|run| run.of(study).is_some()).map(|run| run.ranks).collect()
    }

    /// What counts of a study at a world size: the newest run that was not cut, else the newest. Rows of two runs are never
    /// mixed, for only candidates of one run took turns.
    pub fn run(&self, study: &str, ranks: WorldSize) -> Option<&StudyRun> {
        let runs = || self.runs.iter().filter(|run| run.ranks == ranks).filter_map(|run| run.of(study));
        runs().find(|run| !run.cut).or_else(|| runs().next())
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::studies::tests::small;
    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;

    /// A run of the small study; times in microseconds at 64 KiB and 1 MiB, a row of them each entrant.
    pub(crate) fn run(ranks: u32, times: &[[f64; 2]]) -> Ablation {
        let study = small();
        let mut ablation = Ablation::new(provenance(), WorldSize::new(ranks).unwrap(), None);
        let mut rows = Vec::new();
        for (candidate, times) in study.groups[0].entrants().zip(times) {
            for (bytes, &p50) in [64 << 10, 1 << 20].into_iter().zip(times) {
                let row = Row { variant: candidate.variant.clone(), ..row(ranks, bytes, &candidate.to_string(), p50) };
                rows.push(Measured { group: String::new(), label: candidate.label.clone(), row });
            }
        }
        ablation.studies.push(StudyRun { name: study.name, cut: false, rows });
        ablation
    }

    fn dated(date: &str, run: Ablation) -> Ablation {
        Ablation { provenance: Provenance { date: date.parse().unwrap(), ..run.provenance }, ..run }
    }

    #[test]
    fn files_round_trip_and_say_what_they_hold() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("ablation.json");
        let mut ablation = run(2, &[[10.0, 20.0], [5.0, 21.0]]);
        ablation.caution = Some("none".into());
        ablation.studies.push(StudyRun { name: "later".into(), cut: true, rows: Vec::new() });
        ablation.write(&path).unwrap();
        assert_eq!(Ablation::read(&path).unwrap(), ablation);
        let text = ablation.to_json().unwrap();
        assert_eq!(crate::measure::kind::kind_of(&text).map(|kind| kind.what), Some(Ablation::WHAT));
        assert_eq!(text.lines().count(), 5 + 2 + 4 + 2 + 1, "{text}");
        assert!(text.contains("\"label\":\"2 slots\",\"row\":{") && text.contains("\"requested\":\"ring slots=2\""));
        assert_eq!(ablation.cut(), ["later"]);
    }

    #[test]
    fn other_files_are_refused_with_the_fix() {
        let good = run(2, &[[10.0, 20.0]]).to_json().unwrap();
        for (bad, expected) in [
            (good.replace("\"schema\":1", "\"schema\":2"), "x.json: schema: 2 is not the one known"),
            (good.replace("\"schema\":1", "\"schema\":2,\"new\":0"), "x.json: schema: 2 is not the one known"),
            (good.replace("\"p50\":10.0", "\"p50\":70.0"), "x.json: study slots, 'signals': time_us must ascend"),
            ("{\"schema\":1,\"rows\":[]}".to_owned(), "a file that --ablate --json wrote"),
        ] {
            let message = Ablation::parse(&bad, "x.json").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn a_row_is_found_by_shape_not_by_label() {
        let (study, ablation) = (small(), run(2, &[[10.0, 20.0], [5.0, 21.0]]));
        let (group, run) = (&study.groups[0], &ablation.studies[0]);
        let find = |candidate: &Candidate, size| run.row("", candidate, Bytes(size)).map(|row| row.time_us.p50);
        assert_eq!(find(&group.candidates[0], 64 << 10), Some(5.0));
        assert_eq!(find(&group.candidates[1], 64 << 10), None);
        assert_eq!(find(&Candidate { graph: 0, ..group.baseline.clone() }, 64 << 10), None);
        assert_eq!(find(&Candidate { label: "new".into(), ..group.baseline.clone() }, 1 << 20), Some(20.0));
    }

    #[test]
    fn the_newest_whole_run_counts() {
        let older = dated("2026-01-01T00:00:00Z", run(2, &[[1.0, 1.0]]));
        let newer = dated("2026-01-02T00:00:00Z", run(2, &[[2.0, 2.0]]));
        let mut cut = dated("2026-01-03T00:00:00Z", run(2, &[[3.0, 3.0]]));
        cut.studies[0].cut = true;
        let four = dated("2026-01-01T00:00:00Z", run(4, &[[4.0, 4.0]]));
        let mut other = dated("2026-01-04T00:00:00Z", run(2, &[[5.0, 5.0]]));
        other.provenance.gpu = "NVIDIA B200".into();
        let machines = Machine::of(vec![older, cut.clone(), other, newer, four]);
        assert_eq!(machines.len(), 2);
        assert_eq!(machines[0].provenance().gpu, "NVIDIA B200");
        let p50 = |machine: &Machine, ranks| {
            machine.run("slots", WorldSize::new(ranks).unwrap()).map(|run| run.rows[0].row.time_us.p50)
        };
        assert_eq!([p50(&machines[1], 2), p50(&machines[1], 4), p50(&machines[1], 8)], [Some(2.0), Some(4.0), None]);
        assert_eq!(machines[1].worlds("slots").len(), 2);
        assert_eq!(p50(&Machine::of(vec![cut])[0], 2), Some(3.0));
    }
}

//! Studies that can run here: those of the file, less what this machine lacks.

use std::time::Duration;

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::against::AUTO;
use myelon_ccl::measure::{Baseline, Bytes};
use myelon_ccl::study::{Candidate, Group, Study};
use myelon_ccl::variant::Shape;
use myelon_ccl::{Error, Result, WorldSize};

use crate::against::has_rivals;
use crate::args::SweepArgs;
use crate::here::Surroundings;
use crate::job;

/// How long studies may take unless told.
const BUDGET: Duration = Duration::from_secs(480);

/// What `--ablate` asks for.
#[derive(Clone, Debug)]
pub(crate) struct StudyRequest {
    /// At least one, each with at least one group.
    pub(crate) studies: Vec<Study>,
    /// No case starts after this time.
    pub(crate) budget: Duration,
    /// What this machine lacks of the studies, a sentence each.
    pub(crate) left_out: Vec<String>,
}

impl StudyRequest {
    /// The studies that were asked for; none where a sweep was.
    ///
    /// Errors: a file that cannot be used, with the place in it; arguments that studies do not take.
    pub(crate) fn check(
        args: &SweepArgs,
        device: DeviceKind,
        ranks: WorldSize,
        shares_gpus: bool,
        here: &dyn Surroundings,
    ) -> Result<Option<Self>> {
        let Some(file) = &args.ablate else { return Ok(None) };
        if job::shapes(args) != [Shape::default()] {
            return Err(Error::invalid(
                "--ablate takes the shapes of its studies: leave --lanes and its like out, or write them into a file of studies",
            ));
        }
        if args.check == 0 {
            return Err(Error::invalid("-c 0 with --ablate: results of studies are always verified; use 1 or more"));
        }
        let mut left_out = Vec::new();
        let mut studies = match file {
            None => Study::embedded(),
            Some(path) => read(path)?,
        };
        for study in &mut studies {
            study.groups.retain(|group| group.ranks.as_ref().is_none_or(|listed| listed.contains(&ranks)));
            for group in &mut study.groups {
                if let Some(other) = group.against.iter().find(|baseline| !baseline.is_of_nccl()) {
                    let (study, group) = (&study.name, &group.title);
                    return Err(Error::unsupported(format!(
                        "study {study}, {group}: studies are held against nccl and nccl_symmetric, not {other}"
                    )));
                }
                if !has_rivals(device, shares_gpus, here) {
                    group.against.clear();
                }
            }
            let refusal = |candidate: &Candidate| {
                let name = Some(&candidate.variant).filter(|name| *name != AUTO)?;
                let why = here.refusal(name, device, ranks, Study::DTYPE, Study::OP)?;
                Some(format!("{}, {}: {name} {why}", study.name, candidate.label))
            };
            let mut without = |candidate: &Candidate| {
                let refused = refusal(candidate);
                left_out.extend(refused.clone());
                refused.is_some()
            };
            study.groups.retain_mut(|group| {
                if without(&group.baseline) {
                    return false;
                }
                group.candidates.retain(|candidate| !without(candidate));
                !group.candidates.is_empty()
            });
        }
        studies.retain(|study| !study.groups.is_empty());
        if studies.is_empty() {
            let why = left_out.first().map_or(String::new(), |first| format!(" ({first})"));
            return Err(Error::unsupported(format!("--ablate: no study can run over {ranks} ranks here{why}")));
        }
        let budget = args.budget.map_or(BUDGET, Duration::from_secs);
        Ok(Some(Self { studies, budget, left_out }))
    }

    /// What is left where windows are zero-copy, or are not.
    ///
    /// Errors: [`Error::Unsupported`] where nothing is.
    pub(crate) fn in_windows(mut self, zero_copy: bool) -> Result<Self> {
        if zero_copy {
            return Ok(self);
        }
        for study in &mut self.studies {
            for group in &mut study.groups {
                group.candidates.retain(|candidate| !candidate.shape.is_direct());
            }
            study.groups.retain(|group| !group.candidates.is_empty() && !group.baseline.shape.is_direct());
        }
        self.studies.retain(|study| !study.groups.is_empty());
        if self.studies.is_empty() {
            return Err(Error::unsupported(
                "--ablate: these ranks cannot map each other's memory, which its studies need",
            ));
        }
        Ok(self)
    }

    fn groups(&self) -> impl Iterator<Item = &Group> {
        self.studies.iter().flat_map(|study| &study.groups)
    }

    /// The shapes of all candidates.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &Shape> {
        self.groups().flat_map(|group| group.entrants().map(|candidate| &candidate.shape))
    }

    /// The largest message of all.
    pub(crate) fn largest(&self) -> Option<Bytes> {
        self.groups().flat_map(|group| group.sizes.iter().copied()).max()
    }

    /// The longest batch of all; 0 without batches.
    pub(crate) fn most_batch(&self) -> u32 {
        self.groups().flat_map(Group::entrants).map(|candidate| candidate.batch).max().unwrap_or(0)
    }

    /// The libraries that any group is measured against.
    pub(crate) fn against(&self) -> Vec<Baseline> {
        let used = |baseline: &Baseline| self.groups().any(|group| group.against.contains(baseline));
        Baseline::ALL.into_iter().filter(used).collect()
    }

    /// Groups times sizes.
    pub(crate) fn cases(&self) -> u64 {
        self.groups().map(|group| group.sizes.len() as u64).sum()
    }
}

/// The studies of a file.
pub(crate) fn read(path: &std::path::Path) -> Result<Vec<Study>> {
    let text = std::fs::read_to_string(path).map_err(|error| Error::at_path("cannot read", path, error))?;
    Study::parse(&path.display().to_string(), &text)
}

#[cfg(test)]
mod tests {
    use myelon_ccl::memory::HeapLimits;

    use super::*;
    use crate::request::fake::{CPU, NODE, check, refused};

    /// Writes a file of studies, whose variants the fake surroundings refuse or not.
    fn file(directory: &tempfile::TempDir, groups: &str) -> String {
        let path = directory.path().join("studies.toml");
        let head = "schema = 1\n[[study]]\nname = \"a\"\ntitle = \"A\"\nclaim = \"B.\"\nbecause = \"C.\"\n";
        std::fs::write(&path, format!("{head}{groups}")).unwrap();
        format!("--ablate={}", path.display())
    }

    const RING: &str = r#"
[[study.group]]
title = "ring"
sizes = ["64K", "4M"]
against = ["nccl"]
baseline = { label = "b", variant = "auto" }
candidates = [{ label = "c", variant = "ring", slots = 16, lanes = 128, chunk = "1M" }]
"#;

    #[test]
    fn studies_take_the_place_of_jobs() {
        let directory = tempfile::tempdir().unwrap();
        let line = file(&directory, RING);
        let request = check(&line, NODE).unwrap();
        assert_eq!(
            (request.jobs.len(), request.against.clone(), request.largest()),
            (0, vec![Baseline::Nccl], Some(Bytes(4 << 20)))
        );
        let limits = request.limits([]);
        assert_eq!((limits.ring_slots, limits.slot_bytes, limits.lanes), (16, 1 << 20, 128));
        let studies = request.studies.unwrap();
        assert_eq!((studies.budget.as_secs(), studies.cases(), studies.left_out.len()), (480, 2, 0));
        let request = check(&format!("{line} --budget 5 --ranks 2"), CPU).unwrap();
        assert_eq!((request.against.len(), request.studies.unwrap().budget.as_secs()), (0, 5), "no NCCL on the CPU");
        assert_eq!(check("", NODE).unwrap().limits([]), HeapLimits::of(DeviceKind::Cuda, WorldSize::new(8).unwrap()));
    }

    #[test]
    fn what_the_machine_lacks_is_left_out() {
        let directory = tempfile::tempdir().unwrap();
        let two_ranks = RING.replace("\"ring\"\n", "\"two\"\nranks = [2]\n");
        let bulk = "{ label = \"bulk\", variant = \"two_shot_tma\" }";
        let one_lacks =
            RING.replace("\"ring\"\n", "\"one\"\n").replace("candidates = [", &format!("candidates = [{bulk}, "));
        let all_lack = RING.replace("\"ring\"\n", "\"all\"\n").replace("{ label = \"b\", variant = \"auto\" }", bulk);
        let line = file(&directory, &format!("{RING}{two_ranks}{one_lacks}{all_lack}"));
        let studies = check(&line, NODE).unwrap().studies.unwrap();
        let groups: Vec<_> =
            studies.studies[0].groups.iter().map(|group| (group.title.as_str(), group.candidates.len())).collect();
        assert_eq!(groups, [("ring", 1), ("one", 1)]);
        assert_eq!(studies.left_out, ["a, bulk: two_shot_tma needs sm_90 or newer"; 2]);
        let two = check(&format!("{line} --ranks 2"), NODE).unwrap().studies.unwrap();
        assert_eq!(two.studies[0].groups.len(), 3);
        refused(&file(&directory, &two_ranks), NODE, "no study can run over 8 ranks here");
        refused(&file(&directory, &all_lack), NODE, "no study can run over 8 ranks here (a, bulk: two_shot_tma needs");
    }

    #[test]
    fn what_needs_windows_is_left_out_where_there_are_none() {
        let directory = tempfile::tempdir().unwrap();
        let direct = "{ label = \"d\", variant = \"ring\", output = \"direct\" }";
        let one = RING.replace("candidates = [", &format!("candidates = [{direct}, "));
        let all = RING.replace("\"ring\"\n", "\"all\"\n").replace("{ label = \"b\", variant = \"auto\" }", direct);
        let request = check(&file(&directory, &format!("{one}{all}")), NODE).unwrap();
        assert!(request.has_window() && !check(&file(&directory, RING), NODE).unwrap().has_window());
        let lengths = |zero_copy| {
            let studies = request.studies.clone().unwrap().in_windows(zero_copy).unwrap();
            studies.groups().map(|group| group.candidates.len()).collect::<Vec<_>>()
        };
        assert_eq!((lengths(true), lengths(false)), (vec![2, 1], vec![1]));
        let only = check(&file(&directory, &all), NODE).unwrap().studies.unwrap();
        assert!(only.in_windows(false).unwrap_err().to_string().contains("cannot map each other's memory"));
    }

    #[test]
    fn a_bad_file_and_other_flags_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        refused(&file(&directory, ""), CPU, "study a: it measures nothing");
        let others = RING.replace("\"nccl\"", "\"mscclpp\"");
        refused(
            &file(&directory, &others),
            NODE,
            "study a, ring: studies are held against nccl and nccl_symmetric, not mscclpp",
        );
        refused("--ablate=/nonexistent/x.toml", CPU, "cannot read /nonexistent/x.toml");
        refused("--ablate --lanes 4", CPU, "leave --lanes and its like out");
        refused("--ablate -c 0", CPU, "results of studies are always verified");
    }
}

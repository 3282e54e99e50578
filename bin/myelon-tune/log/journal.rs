//! A log as a file, by names: another search over the same machine and sources can go on from it.

use std::collections::BTreeMap;
use std::path::Path;

use myelon_ccl::measure::output;
use myelon_ccl::{Error, Result};
use serde::{Deserialize, Serialize};

use super::Log;
use crate::space::Space;

/// Number of the form of a journal.
const SCHEMA: u32 = 2;

/// What the file has.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Journal {
    schema: u32,
    origin: Origin,
    dropped: Vec<(String, String)>,
    refused: Vec<(String, u64, String, String)>,
    times: Vec<(String, u64, String, Vec<f32>)>,
}

/// What times depend on besides the case and the candidate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Origin {
    /// GPUs and their link.
    pub(crate) machine: String,
    pub(crate) driver: String,
    /// Version that compiles the kernels.
    pub(crate) cuda: String,
    /// Version, for NCCL's times.
    pub(crate) nccl: String,
    /// What NCCL may do with NVLink multicast.
    pub(crate) nvls: String,
    pub(crate) ranks: u32,
    /// Hash of the kernels' sources.
    pub(crate) source_hash: String,
    /// Operations in each replayed graph.
    pub(crate) graph: u32,
}

impl Origin {
    /// The first thing that differs: its name and both values.
    fn difference(&self, other: &Self) -> Option<(&'static str, String, String)> {
        let pairs = [
            ("the machine", self.machine.clone(), other.machine.clone()),
            ("the driver", self.driver.clone(), other.driver.clone()),
            ("CUDA", self.cuda.clone(), other.cuda.clone()),
            ("NCCL", self.nccl.clone(), other.nccl.clone()),
            ("NVLS", self.nvls.clone(), other.nvls.clone()),
            ("the number of ranks", self.ranks.to_string(), other.ranks.to_string()),
            ("the kernels' sources", self.source_hash.clone(), other.source_hash.clone()),
            ("-G", self.graph.to_string(), other.graph.to_string()),
        ];
        pairs.into_iter().find(|(_, ours, theirs)| ours != theirs)
    }
}

impl Log {
    /// The text of a journal.
    pub(crate) fn to_journal(&self, space: &Space, origin: &Origin) -> Result<String> {
        let class = |class: usize| space.classes[class].to_string();
        let entrant = |entrant: usize| space.entrants[entrant].to_string();
        let journal = Journal {
            schema: SCHEMA,
            origin: origin.clone(),
            dropped: self.dropped.iter().map(|(place, why)| (entrant(place), why.to_owned())).collect(),
            refused: self
                .cases
                .iter()
                .flat_map(|(&case, measured)| measured.refused.iter().map(move |(place, why)| (case, place, why)))
                .map(|(case, place, why)| (class(case.0), case.1, entrant(place), why.to_owned()))
                .collect(),
            times: self
                .cases
                .iter()
                .flat_map(|(&case, measured)| measured.each().map(move |(place, samples)| (case, place, samples)))
                .map(|(case, place, samples)| (class(case.0), case.1, entrant(place), samples.us.clone()))
                .collect(),
        };
        serde_json::to_string(&journal).map_err(|error| Error::invalid(format!("a journal as JSON: {error}")))
    }

    /// What a journal says of this space; what is not in it is left out.
    ///
    /// Errors: [`Error::Config`] for a text that is no journal, or one of another origin.
    pub(crate) fn of_journal(text: &str, name: &str, space: &Space, origin: &Origin) -> Result<Self> {
        let wrong = |key: &str, detail: String| Error::Config { source_name: name.into(), key: key.into(), detail };
        let journal: Journal = serde_json::from_str(text).map_err(|error| {
            wrong(&format!("line {}", error.line()), format!("no journal of myelon-tune ({error}): leave --resume out"))
        })?;
        if journal.schema != SCHEMA {
            return Err(wrong(
                "schema",
                format!("{} is not the one known, {SCHEMA}: leave --resume out", journal.schema),
            ));
        }
        if let Some((what, ours, theirs)) = origin.difference(&journal.origin) {
            let detail = format!("{what}: {theirs} there, {ours} now: leave --resume out to start anew");
            return Err(wrong("origin", detail));
        }
        let class = |name: &str| space.classes.iter().position(|class| class.to_string() == name);
        // What is left out here is gone when the journal is written again.
        if let Some((other, ..)) = journal.times.iter().find(|(name, ..)| class(name).is_none()) {
            let detail = format!(
                "{other} there, which this search has not: ask for it too, or leave --resume out to start anew"
            );
            return Err(wrong("times", detail));
        }
        let places: BTreeMap<String, usize> =
            space.entrants.iter().enumerate().map(|(place, entrant)| (entrant.to_string(), place)).collect();
        let mut log = Self::default();
        for (name, why) in journal.dropped {
            if let Some(&place) = places.get(&name) {
                log.drop(place, why);
            }
        }
        for (dtype, bytes, name, why) in journal.refused {
            if let (Some(class), Some(&place)) = (class(&dtype), places.get(&name)) {
                log.refuse((class, bytes), place, why);
            }
        }
        for (dtype, bytes, name, times_us) in journal.times {
            if let (Some(class), Some(&place)) = (class(&dtype), places.get(&name)) {
                if times_us.is_empty() || !times_us.iter().all(|us| us.is_finite() && *us >= 0.0) {
                    return Err(wrong(&name, format!("times at {bytes} bytes that no run can give")));
                }
                log.record((class, bytes), place, &times_us);
            }
        }
        Ok(log)
    }

    /// Replaces the journal at once.
    pub(crate) fn write(&self, path: &Path, space: &Space, origin: &Origin) -> Result<()> {
        output::replace(path, &self.to_journal(space, origin)?)
    }
}

#[cfg(test)]
mod tests {
    use myelon_ccl::DType;
    use myelon_ccl::table::Buffers;

    use super::*;
    use crate::fake::{Machine, space, space_in};
    use crate::search::next;

    fn origin() -> Origin {
        Origin {
            machine: "8x H200".into(),
            driver: "580.159".into(),
            cuda: "13.0".into(),
            nccl: "2.28.9".into(),
            nvls: "default".into(),
            ranks: 8,
            source_hash: "1a".into(),
            graph: 20,
        }
    }

    #[test]
    fn a_search_goes_on_from_its_journal_as_if_nothing_had_been() {
        let space = space(vec![1 << 12, 1 << 16, 1 << 20], &[DType::F32], &["one_shot_push", "two_shot_push"], false);
        let (mut log, _) = Machine { seed: 1, noise: 0.1 }.search(&space, 15);
        log.drop(3, "7 wrong elements".into());
        log.refuse((0, 1 << 12), 4, "too many threads".into());
        let text = log.to_journal(&space, &origin()).unwrap();
        let read = Log::of_journal(&text, "j", &space, &origin()).unwrap();
        assert_eq!((next(&space, &read), &read), (next(&space, &log), &log));
        let fewer = crate::fake::space(vec![1 << 12], &[DType::F32], &["one_shot_push"], false);
        assert!(Log::of_journal(&text, "j", &fewer, &origin()).unwrap().measured() < log.measured());
        let of_integers = crate::fake::space(vec![1 << 12], &[DType::I32], &["one_shot_push"], false);
        let message = Log::of_journal(&text, "j", &of_integers, &origin()).unwrap_err().to_string();
        assert!(message.contains("which this search has not"), "{message}");
    }

    #[test]
    fn buffers_are_told_apart_and_a_journal_without_registered_ones_is_gone_on_from() {
        let (sizes, dtypes, names) = (vec![1 << 12, 1 << 24], [DType::F32], ["one_shot_push", "ring"]);
        let [both, plain] =
            [Buffers::ALL, &[Buffers::Plain]].map(|buffers| space_in(buffers, sizes.clone(), &dtypes, &names, false));
        let machine = Machine { seed: 1, noise: 0.1 };
        let (log, _) = machine.search(&both, usize::MAX);
        assert!(log.sizes(1).next().is_some());
        let read = Log::of_journal(&log.to_journal(&both, &origin()).unwrap(), "j", &both, &origin()).unwrap();
        assert_eq!(read, log);
        let (log, _) = machine.search(&plain, usize::MAX);
        let read = Log::of_journal(&log.to_journal(&plain, &origin()).unwrap(), "j", &both, &origin()).unwrap();
        assert_eq!((read.measured(), next(&both, &read).unwrap().case.0), (log.measured(), 1));
    }

    #[test]
    fn a_journal_of_something_else_is_refused() {
        let space = space(vec![1 << 12], &[DType::F32], &["ring"], false);
        let text = Log::default().to_journal(&space, &origin()).unwrap();
        let read = |text: &str, origin: &Origin| Log::of_journal(text, "j", &space, origin).unwrap_err().to_string();
        assert!(
            read(&text, &Origin { ranks: 4, ..origin() }).contains("j: origin: the number of ranks: 8 there, 4 now")
        );
        let others = [
            (Origin { cuda: "13.1".into(), ..origin() }, "CUDA: 13.0 there, 13.1 now"),
            (Origin { nccl: "2.30.3".into(), ..origin() }, "NCCL: 2.28.9 there, 2.30.3 now"),
            (Origin { nvls: "off".into(), ..origin() }, "NVLS: default there, off now"),
        ];
        for (other, part) in others {
            assert!(read(&text, &other).contains(part), "{part}");
        }
        assert!(read(&text[1..], &origin()).contains("no journal of myelon-tune"));
        assert!(read(&text.replace("\"schema\":2", "\"schema\":3"), &origin()).contains("3 is not the one known"));
    }
}

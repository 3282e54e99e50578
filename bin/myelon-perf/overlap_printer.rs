//! What rank 0 shows and stores of overlaps.

use std::fmt::Write as _;
use std::path::PathBuf;

use indicatif::ProgressBar;
use myelon_ccl::Result;
use myelon_ccl::measure::Stored;
use myelon_ccl::measure::overlap::{Overlap, Overlaps, TITLES, line};
use myelon_ccl::measure::text::{RankLine, preamble};

use crate::measure::Output;
use crate::progress::{print, progress};
use crate::request::SweepRequest;

/// A Markdown table on standard output, the progress on a terminal, and the file at the end.
pub(crate) struct OverlapPrinter {
    overlaps: Overlaps,
    progress: ProgressBar,
    json: Option<PathBuf>,
}

impl OverlapPrinter {
    /// Prints the header of a run that has no rows yet.
    pub(crate) fn start(request: &SweepRequest, ranks: &[RankLine], overlaps: Overlaps) -> Self {
        let mut settings = request.settings();
        let neighbour = format!("the neighbour, on every rank: {}", overlaps.neighbour);
        for line in overlaps.caution.iter().chain([&neighbour]) {
            let _ = write!(settings, "\n# {line}");
        }
        let entrants: usize = request.jobs.iter().map(|job| job.candidates.len() + request.against.len()).sum();
        let progress = progress((entrants * request.sizes.clone().count()) as u64);
        print(&progress, &(preamble(&overlaps.provenance, &settings, ranks) + TITLES));
        Self { overlaps, progress, json: request.json.clone() }
    }

    /// Shows what is about to be measured.
    pub(crate) fn announce(&self, case: String) {
        self.progress.set_message(case);
    }

    /// Prints one measurement.
    pub(crate) fn row(&mut self, overlap: Overlap) {
        print(&self.progress, &line(&overlap));
        self.overlaps.rows.push(overlap);
        self.progress.inc(1);
    }
}

impl Output for OverlapPrinter {
    fn verdict(&self) {
        self.progress.finish_and_clear();
        let wrong: u64 = self.overlaps.rows.iter().filter_map(|overlap| overlap.row.wrong).sum();
        let word = if wrong == 0 { "OK" } else { "FAILED" };
        let (memory, findings) = (self.overlaps.memory(), self.overlaps.findings());
        print(&self.progress, &format!("\n{memory}\n{findings}# wrong elements    : {wrong} {word}\n"));
    }

    fn measured(&self) -> usize {
        self.overlaps.rows.len()
    }

    fn store(&self) -> Result<()> {
        self.progress.finish_and_clear();
        self.json.as_ref().map_or(Ok(()), |path| self.overlaps.write(path))
    }
}

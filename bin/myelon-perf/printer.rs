//! What rank 0 shows and stores.

use std::path::PathBuf;

use indicatif::ProgressBar;
use myelon_ccl::Result;
use myelon_ccl::measure::text::{RankLine, TextTable};
use myelon_ccl::measure::{Baseline, Provenance, Results, Row, Stored, Summary, csv};

use crate::measure::Output;
use crate::progress::{print, progress};
use crate::request::SweepRequest;

/// The table on standard output, the progress on a terminal, and the files at the end.
pub(crate) struct Printer {
    table: TextTable,
    against: Vec<Baseline>,
    results: Results,
    progress: ProgressBar,
    json: Option<PathBuf>,
    csv: Option<PathBuf>,
    host_us: Option<Summary>,
}

impl Printer {
    /// Prints the header. `cases` is how many there will be.
    pub(crate) fn start(
        request: &SweepRequest,
        provenance: Provenance,
        ranks: &[RankLine],
        caution: Option<&str>,
        cases: u64,
    ) -> Self {
        let table = TextTable::new(&request.against, request.has_shapes());
        let mut settings = request.settings();
        if let Some(caution) = caution {
            settings += "\n# ";
            settings += caution;
        }
        let printer = Self {
            table,
            against: request.against.clone(),
            results: Results::new(provenance),
            progress: progress(cases),
            json: request.json.clone(),
            csv: request.csv.clone(),
            host_us: None,
        };
        print(&printer.progress, &printer.table.header(&printer.results.provenance, &settings, ranks));
        printer
    }

    /// Shows what is about to be measured.
    pub(crate) fn announce(&self, case: String) {
        self.progress.set_message(case);
    }

    /// Prints the rows of one case, baselines among them.
    pub(crate) fn rows(&mut self, rows: Vec<Row>) {
        let first = self.results.rows.len();
        self.results.rows.extend(rows);
        for index in first..self.results.rows.len() {
            let row = &self.results.rows[index];
            let ratios: Vec<_> =
                self.against.iter().map(|baseline| baseline.ratio(row, &self.results.rows[first..])).collect();
            let line = self.table.row(row, &ratios);
            print(&self.progress, &line);
        }
        self.progress.inc(1);
    }

    /// Notes what the host spent in calls, for the verdict.
    pub(crate) fn host_time(&mut self, host_us: Option<Summary>) {
        self.host_us = host_us;
    }
}

impl Output for Printer {
    fn verdict(&self) {
        self.progress.finish_and_clear();
        print(&self.progress, &self.table.footer());
        if let Some(us) = self.results.rows.last().and_then(|row| row.between_us) {
            print(&self.progress, &format!("# the small kernel behind each operation, alone : {us:.2} us\n"));
        }
        if let Some(Summary { p50, p99, .. }) = self.host_us {
            print(
                &self.progress,
                &format!(
                    "# host time of a call : {p50:.2} us, p99 {p99:.2} us (an operation; calls in a row, one launch each, rank 0)\n"
                ),
            );
        }
    }

    fn measured(&self) -> usize {
        self.results.rows.len()
    }

    /// Errors: those of [`Results::write`] and [`csv::write`]; the second file is tried all the same.
    fn store(&self) -> Result<()> {
        self.progress.finish_and_clear();
        let json = self.json.as_ref().map_or(Ok(()), |path| self.results.write(path));
        let csv = self.csv.as_ref().map_or(Ok(()), |path| csv::write(&self.results, path));
        json.and(csv)
    }
}

//! What rank 0 shows and stores of studies.

use std::fmt::Write as _;
use std::path::PathBuf;

use indicatif::ProgressBar;
use myelon_ccl::Result;
use myelon_ccl::measure::text::{RankLine, preamble};
use myelon_ccl::measure::{Provenance, Row, Stored};
use myelon_ccl::study::{Ablation, Finding, Grid, Group, Measured, Study, StudyRun};

use crate::measure::Output;
use crate::progress::{print, progress};
use crate::request::SweepRequest;
use crate::studies::StudyRequest;

/// A table a study on standard output, the progress on a terminal, and the file at the end.
pub(crate) struct StudyPrinter {
    ablation: Ablation,
    progress: ProgressBar,
    json: Option<PathBuf>,
    budget_s: u64,
    wrong: u64,
    interrupted: bool,
}

impl StudyPrinter {
    /// Prints the header.
    pub(crate) fn start(
        request: &SweepRequest,
        studies: &StudyRequest,
        provenance: Provenance,
        ranks: &[RankLine],
        caution: Option<&str>,
    ) -> Self {
        let budget_s = studies.budget.as_secs();
        let mut settings = format!(
            "{} {} ranks, {} studies in {budget_s} s, {} warm-ups a case",
            request.ranks,
            request.device,
            studies.studies.len(),
            request.warmup
        );
        for line in caution.iter().copied().chain(studies.left_out.iter().map(String::as_str)) {
            let left_out = if Some(line) == caution { "" } else { "left out: " };
            let _ = write!(settings, "\n# {left_out}{line}");
        }
        let progress = progress(studies.cases());
        print(&progress, &preamble(&provenance, &settings, ranks));
        let ablation = Ablation::new(provenance, request.ranks, caution);
        Self { ablation, progress, json: request.json.clone(), budget_s, wrong: 0, interrupted: false }
    }

    /// Shows what is about to be measured.
    pub(crate) fn announce(&self, case: String) {
        self.progress.set_message(case);
    }

    /// Prints what a study is about.
    pub(crate) fn begin(&mut self, study: &Study) {
        let Study { name, title, claim, .. } = study;
        // Until its end comes: a failure on the way cuts it as well.
        self.ablation.studies.push(StudyRun { name: name.clone(), cut: true, rows: Vec::new() });
        print(&self.progress, &format!("# {name}: {title}\n# claim: {}\n", claim.trim()));
    }

    /// Prints the rows of one case, the baseline's first; titles above the first of a study.
    pub(crate) fn rows(&mut self, group: &Group, rows: Vec<(String, Row)>) {
        let mut text = String::new();
        if self.ablation.studies.last().is_some_and(|study| study.rows.is_empty()) {
            let titles = line("size", "candidate", ["p50 (us)", "p99 (us)", "speed-up", "#wrong"]);
            let _ = write!(text, "#{}", &titles[1..]);
        }
        for (index, (label, row)) in rows.iter().enumerate() {
            let wrong = row.wrong.unwrap_or(0);
            self.wrong += wrong;
            let of = if group.title.is_empty() { label.clone() } else { format!("{}: {label}", group.title) };
            let speedup = if index == 0 { None } else { row.speedup_over(&rows[0].1) };
            let speedup = speedup.map_or("-".to_owned(), |speedup| format!("{speedup:.2}x"));
            let times = [row.time_us.p50, row.time_us.p99].map(|time| format!("{time:.2}"));
            text += &line(&row.bytes.to_string(), &of, [&times[0], &times[1], &speedup, &wrong.to_string()]);
        }
        print(&self.progress, &text);
        let measured = |(label, row)| Measured { group: group.title.clone(), label, row };
        if let Some(study) = self.ablation.studies.last_mut() {
            study.rows.extend(rows.into_iter().map(measured));
        }
        self.progress.inc(1);
    }

    /// Prints what was found, and what cut the study.
    pub(crate) fn end(&mut self, study: &Study, whole: bool, interrupted: bool) {
        let Some(run) = self.ablation.studies.last_mut() else { return };
        run.cut = !whole;
        self.interrupted = interrupted;
        let mut text = String::new();
        let meaningful = self.ablation.caution.is_none();
        for grid in
            study.groups.iter().filter_map(|group| Grid::of(group, self.ablation.ranks, run)).filter(|_| meaningful)
        {
            let of = if study.groups.len() > 1 { format!("{}: ", grid.group.title) } else { String::new() };
            let _ = writeln!(text, "# found: {of}{}", Finding::of(&grid, study.factor).to_string().replace("**", ""));
        }
        if interrupted {
            text += "# cut: interrupted\n";
        } else if !whole {
            let _ = writeln!(text, "# cut: the {} s are spent", self.budget_s);
        }
        print(&self.progress, &format!("{text}#\n"));
    }
}

impl Output for StudyPrinter {
    fn verdict(&self) {
        self.progress.finish_and_clear();
        let word = if self.wrong == 0 { "OK" } else { "FAILED" };
        let mut text = format!("# wrong elements    : {} {word}\n", self.wrong);
        let cut = self.ablation.cut();
        if !cut.is_empty() && !self.interrupted {
            let _ = writeln!(text, "# cut for time      : {}; run them again with a larger --budget", cut.join(", "));
        }
        print(&self.progress, &text);
    }

    fn measured(&self) -> usize {
        self.ablation.studies.iter().map(|study| study.rows.len()).sum()
    }

    fn store(&self) -> Result<()> {
        self.progress.finish_and_clear();
        self.json.as_ref().map_or(Ok(()), |path| self.ablation.write(path))
    }
}

/// A line of a study's table.
fn line(size: &str, candidate: &str, numbers: [&str; 4]) -> String {
    let [p50, p99, speedup, wrong] = numbers;
    format!(" {size:>12}  {candidate:<46}  {p50:>9}  {p99:>9}  {speedup:>8}  {wrong:>7}\n")
}

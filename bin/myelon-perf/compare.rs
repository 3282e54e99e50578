//! `myelon-perf compare`: a run against an earlier one, and `auto` against what was measured beside it.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use myelon_ccl::measure::compare::{Comparison, Percent};
use myelon_ccl::measure::shortfall::{self, Shortfall};
use myelon_ccl::measure::text::counted;
use myelon_ccl::measure::{Baseline, Provenance, Results, Stored};
use myelon_ccl::{Error, Result};

use crate::exit;

/// Which runs are held against each other.
#[derive(Debug, Args)]
#[command(after_help = "\
With two files, rows of equal case and candidate are held against each other. One counts as \
slower, or faster, where its p50 changed by more than
  - the threshold,
  - the scatter of the faster row: its p50 less its fastest repeat, and
  - the drift: what every baseline of the case became slower (or faster) by, where both runs have \
the same NCCL. Its code is the same, so the machine did it.
Past the threshold and not past the other two, it is noise. A row that is wrong is broken, and one that \
was wrong before is mended. Rows of baselines are shown and count for nothing. Runs of other GPUs, of \
another number of them or with another link are refused without --any-machine.

With one file, or with --auto-within, the time of `auto` is held against the fastest single \
variant of the run and against each baseline: measure with --variant all and \
--against nccl,nccl_symmetric.

Examples:
  myelon-perf compare results/2x-h200/graph-2.json new/graph-2.json
  myelon-perf compare new/graph-2.json --auto-within 3

Exit status: 0 nothing is worse; 1 a row of Myelon is slower or wrong, or auto is behind by \
more than --auto-within; 2 the files cannot be held against each other.")]
pub(crate) struct CompareArgs {
    /// The earlier run and the one to judge, or the latter alone: JSON files that --json wrote.
    #[arg(required = true, num_args = 1..=2, value_name = "RESULTS")]
    runs: Vec<PathBuf>,
    /// How much slower a row may be before it counts, in percent; 5 unless told.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    threshold: Option<Percent>,
    /// Fail where auto is slower than the fastest variant or a baseline by more than this, in percent.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    auto_within: Option<Percent>,
    /// Hold runs of different machines against each other, too.
    #[arg(long)]
    any_machine: bool,
    /// Show the rows that did not change, too.
    #[arg(long)]
    all: bool,
}

/// As `--threshold`, unless told.
const THRESHOLD: Percent = Percent(5.0);

/// Refuses an argument that is for two files where there is one.
fn is_of_two(args: &CompareArgs) -> Result<()> {
    let given = [("--threshold", args.threshold.is_some()), ("--any-machine", args.any_machine), ("--all", args.all)];
    let given: Vec<_> = given.into_iter().filter(|&(_, is_given)| is_given).map(|(argument, _)| argument).collect();
    let verb = if given.len() == 1 { "is" } else { "are" };
    match (&args.runs[..], given.is_empty()) {
        ([run], false) => Err(Error::invalid(format!(
            "{} {verb} for two files, and {} is one: name the earlier run before it, or use --auto-within alone",
            given.join(" and "),
            run.display()
        ))),
        _ => Ok(()),
    }
}

fn percent(text: &str) -> Result<Percent, Error> {
    let number = text.parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0);
    number.map(Percent).ok_or_else(|| Error::invalid("write a number of percent, 0 or more, such as 5"))
}

/// A run that is judged, and the one it is held against.
pub(crate) struct Judged {
    before: Option<Results>,
    run: Results,
    threshold: Percent,
    auto_within: Option<Percent>,
    all: bool,
}

impl Judged {
    /// Reads the files.
    ///
    /// Errors: an argument that is for two files where there is one; the first file that cannot be used; or one that says that
    /// nothing can be held against anything.
    pub(crate) fn check(args: &CompareArgs) -> Result<Self> {
        is_of_two(args)?;
        let runs = args.runs.iter().map(|path| Results::read(path)).collect::<Result<Vec<_>>>()?;
        let names = args.runs.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(" and ");
        let mut runs = runs.into_iter().rev();
        let run = runs.next().ok_or_else(|| Error::invalid("name a file that --json wrote"))?;
        let threshold = args.threshold.unwrap_or(THRESHOLD);
        let judged = Self { before: runs.next(), run, threshold, auto_within: args.auto_within, all: args.all };
        if let Some(before) = &judged.before {
            let comparison = Comparison::of(before, &judged.run);
            if comparison.is_of_hardware() && !args.any_machine {
                let [before, after] = comparison.provenances.map(Provenance::machine);
                return Err(Error::invalid(format!(
                    "{names} are of different machines, {before} and {after}: name runs of one machine, or add --any-machine"
                )));
            }
            if comparison.pairs.is_empty() {
                return Err(Error::invalid(format!(
                    "{names} have no row of Myelon in common: measure the same ranks, sizes, types and modes"
                )));
            }
        }
        if (judged.before.is_none() || judged.auto_within.is_some()) && Shortfall::of(&judged.run.rows).is_empty() {
            return Err(Error::invalid(format!("{names}: no right row of auto: measure with --variant all")));
        }
        if judged.auto_within.is_some() && !Shortfall::of(&judged.run.rows).iter().any(Shortfall::has_rival) {
            return Err(Error::invalid(format!(
                "{names}: nothing to hold auto against: measure with --variant all, or beside a baseline"
            )));
        }
        Ok(judged)
    }

    /// Prints what there is to say; the exit status is whether the run passes.
    pub(crate) fn print(self) -> ExitCode {
        let mut text = String::new();
        let mut passes = true;
        if let Some(before) = &self.before {
            let comparison = Comparison::of(before, &self.run);
            text.push_str(&comparison.text(self.threshold, self.all));
            passes &= !comparison.is_worse(self.threshold);
        }
        if self.before.is_none() || self.auto_within.is_some() {
            let shortfalls = Shortfall::of(&self.run.rows);
            text.push_str(&shortfall::text(&shortfalls, self.auto_within.unwrap_or(Percent(0.0))));
            passes &= self.auto_within.is_none_or(|within| !shortfalls.iter().any(|case| case.is_beyond(within)));
        }
        let wrong = self.run.rows.iter().filter(|row| row.is_wrong() && Baseline::of(row).is_none()).count();
        if wrong > 0 {
            let have = if wrong == 1 { "has" } else { "have" };
            text.push_str(&format!("\n{} {have} wrong elements\n", counted(wrong, "row")));
            passes = false;
        }
        crate::stdout::print(text.trim_start_matches('\n'));
        ExitCode::from(if passes { exit::OK } else { exit::WRONG })
    }
}

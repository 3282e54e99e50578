//! `myelon-perf`: measures all-reduce the way nccl-tests does, and turns stored results into tables and plots.

mod args;
mod job;
mod report;
mod request;
mod sweep;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;

use args::{Cli, Command};
use request::SweepRequest;

/// What a script can tell from the exit status; `--help` lists the same four.
mod exit {
    /// Every result was right, every file is up to date.
    pub(crate) const OK: u8 = 0;
    /// A result was wrong, or `report --check` found a stale file.
    pub(crate) const WRONG: u8 = 1;
    /// The request cannot be served; nothing was launched and no file was touched.
    pub(crate) const USAGE: u8 = 2;
    /// Something failed on the way.
    pub(crate) const FAILED: u8 = 3;
}

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) => {
            // A reader that closes the pipe early has seen what it wanted.
            let _ = error.print();
            return ExitCode::from(exit::OK);
        }
        Err(error) => return fail(exit::USAGE, &one_line(&error.render().to_string())),
    };
    match cli.command {
        Some(Command::Report(args)) => match report::Report::prepare(&args) {
            Ok(report) if args.check => report.check(),
            Ok(report) => report.write().unwrap_or_else(|error| fail(exit::FAILED, &error.to_string())),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
        None => match SweepRequest::check(&cli.sweep, &sweep::Here) {
            Ok(request) => sweep::run(request).unwrap_or_else(|error| fail(exit::FAILED, &error.to_string())),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
    }
}

fn fail(code: u8, message: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "error: {message}");
    ExitCode::from(code)
}

/// clap's message on one line and without its usage summary, so that a log keeps it whole.
fn one_line(rendered: &str) -> String {
    let told = |line: &&str| !line.starts_with("Usage:") && !line.starts_with("For more information");
    let text: Vec<_> = rendered.lines().take_while(told).map(str::trim).collect();
    let paragraphs = text.split(|line| line.is_empty()).filter(|lines| !lines.is_empty()).map(|lines| lines.join(" "));
    let line = paragraphs.collect::<Vec<_>>().join("; ");
    line.strip_prefix("error: ").unwrap_or(&line).to_owned()
}

//! `myelon-perf`: measures all-reduce the way nccl-tests does, and turns stored results into tables and plots.

mod ablate;
mod against;
mod args;
mod bench;
mod beside;
mod candidate;
mod compare;
mod exchange;
mod here;
mod host;
mod job;
mod kernel;
mod launch;
mod machine;
mod measure;
mod neighbour;
mod overlap;
mod overlap_printer;
mod patterns;
mod place;
mod printer;
mod processes;
mod report;
mod request;
mod rival;
mod studies;
mod study_printer;
mod sweep;

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::Parser;
use clap::error::ErrorKind;
use myelon_ccl::{Error, Result};
use tracing_subscriber::EnvFilter;

use args::{Cli, Command, SweepArgs};
use here::Here;
use launch::Launch;
use request::SweepRequest;

/// What a script can tell from the exit status; `--help` lists the same four.
mod exit {
    /// Every result was right, every file is up to date.
    pub(crate) const OK: u8 = 0;
    /// A result was wrong, `compare` found a run worse, or `report --check` a stale file.
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
        Some(Command::Compare(args)) => match compare::Judged::check(&args) {
            Ok(judged) => judged.print(),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
        Some(Command::Neighbour(args)) => match log_to_stderr().and_then(|()| neighbour::Request::check(&args)) {
            Ok(request) => request.run().unwrap_or_else(|error| fail(exit::FAILED, &error.to_string())),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
        None => match prepare(&cli.sweep) {
            Ok(launch) => launch.run(),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
    }
}

/// Everything that can be refused before a rank starts.
fn prepare(args: &SweepArgs) -> Result<Launch> {
    log_to_stderr()?;
    let here = Here::look()?;
    Launch::prepare(SweepRequest::check(args, &here)?, &here)
}

/// Log lines go to standard error, as `MYELON_LOG` or else `RUST_LOG` filters them; warnings unless told.
fn log_to_stderr() -> Result<()> {
    let variables = ["MYELON_LOG", "RUST_LOG"];
    let set =
        variables.into_iter().find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let (name, text) = set.unwrap_or(("MYELON_LOG", "warn".to_owned()));
    let filter = EnvFilter::try_new(&text).map_err(|error| Error::Config {
        source_name: "environment".into(),
        key: name.into(),
        detail: format!("'{text}' is no filter ({error}): write a level such as info, or target=level pairs"),
    })?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .init();
    Ok(())
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

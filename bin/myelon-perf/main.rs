//! `myelon-perf`: measures all-reduce the way nccl-tests does, and turns stored results into tables and plots.

mod ablate;
mod against;
mod args;
mod beside;
// WHY: each program uses a part of it.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod compare;
mod host;
mod job;
mod kernel;
mod measure;
mod nccl_tests;
mod neighbour;
mod overlap;
mod overlap_printer;
mod patterns;
mod printer;
mod report;
mod request;
mod studies;
mod study_printer;
mod sweep;

use std::process::ExitCode;

use clap::CommandFactory;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use common::{
    bench, calls, candidate, exchange, gauge, here, launch, machine, placement, progress, shapes, stdout, values,
};
use myelon_ccl::table::LaneTable;
use myelon_ccl::{Communicator, Options, Result};

use args::{Cli, Command, SweepArgs};
use common::interrupt::Interrupt;
use common::program::{arguments, exit, fail, log_to_stderr};
use here::Here;
use launch::Ranks;
use measure::measure;
use request::SweepRequest;

fn main() -> ExitCode {
    let cli: Cli = match arguments(hint) {
        Ok(cli) => cli,
        Err(status) => return stdout::end(status, exit::FAILED),
    };
    stdout::end(run(cli), exit::FAILED)
}

fn run(cli: Cli) -> ExitCode {
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
            Ok((request, options, ranks, interrupt)) => ranks.run(&interrupt, |device, bootstrap| {
                measure(Communicator::connect(device, bootstrap, options.clone())?, &request, &interrupt)
            }),
            Err(error) => fail(exit::USAGE, &error.to_string()),
        },
    }
}

/// What clap cannot know of arguments that it refuses.
fn hint(error: &clap::Error) -> Option<String> {
    let text = |kind| match error.get(kind) {
        Some(ContextValue::String(text)) => Some(text.as_str()),
        _ => None,
    };
    let first = std::env::args().nth(1);
    let is_sweep = !Cli::command().get_subcommands().any(|command| Some(command.get_name()) == first.as_deref());
    match error.kind() {
        ErrorKind::UnknownArgument if is_sweep => {
            let flag = text(ContextKind::InvalidArg)?;
            Some(format!("unexpected argument '{flag}': nccl-tests' {flag} {}", nccl_tests::instead(flag)?))
        }
        // WHY: `--ablate FILE` is read as a subcommand behind an argument.
        ErrorKind::ArgumentConflict => {
            let (file, prior) = (text(ContextKind::InvalidSubcommand)?, error.get(ContextKind::PriorArg)?);
            let is_ablate = prior.to_string().contains("--ablate");
            is_ablate.then(|| format!("'{file}' is no subcommand: for a file of studies, write --ablate={file}"))
        }
        _ => None,
    }
}

/// Everything that can be refused before a rank starts.
fn prepare(args: &SweepArgs) -> Result<(SweepRequest, Options, Ranks, Interrupt)> {
    log_to_stderr()?;
    let here = Here::look()?;
    let request = SweepRequest::check(args, &here)?;
    let from_env = Options::from_env()?;
    let tables = from_env.table.iter().chain(LaneTable::all_embedded());
    let limits = request.limits(tables.filter(|table| table.device == request.device).map(|table| &**table));
    // What is measured is prepared case by case.
    let options = Options { limits: Some(limits), share_devices: request.shares_gpus, prepare: Vec::new(), ..from_env };
    let interrupt = Interrupt::listen()?;
    let ranks = Ranks::prepare(request.device, request.ranks, request.placement, &here)?;
    Ok((request, options, ranks, interrupt))
}

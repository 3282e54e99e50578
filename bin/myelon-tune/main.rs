//! `myelon-tune`: measures which variant and shape is fastest at each size on this machine, and writes a lane table of it.

mod args;
mod broadcast;
mod choices;
// WHY: each program uses a part of it.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod grid;
mod ground;
mod log;
mod request;
mod run;
mod screen;
mod search;
mod sections;
mod site;
mod space;

#[cfg(test)]
mod fake;

use std::process::ExitCode;

use common::{bench, candidate, exchange, gauge, here, machine, place, placement, progress, shapes, stdout, values};
use myelon_ccl::Result;

use args::Cli;
use common::interrupt::Interrupt;
use common::launch::Ranks;
use common::program::{arguments, exit, fail, log_to_stderr};
use here::Here;
use request::TuneRequest;

fn main() -> ExitCode {
    let cli: Cli = match arguments(|_| None) {
        Ok(cli) => cli,
        Err(status) => return stdout::end(status, exit::FAILED),
    };
    let status = match prepare(&cli) {
        Ok((request, ranks, interrupt)) => {
            ranks.run(&interrupt, |device, control| run::run(&device, &*control, &request, &interrupt))
        }
        Err(error) => fail(exit::USAGE, &error.to_string()),
    };
    stdout::end(status, exit::FAILED)
}

/// Everything that can be refused before a rank starts.
fn prepare(cli: &Cli) -> Result<(TuneRequest, Ranks, Interrupt)> {
    log_to_stderr()?;
    let here = Here::look()?;
    let request = TuneRequest::check(cli, &here)?;
    let interrupt = Interrupt::listen()?;
    let ranks = Ranks::prepare(request.device, request.ranks, request.placement, &here)?;
    Ok((request, ranks, interrupt))
}

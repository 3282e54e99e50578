//! `myelon-tune`: measures which variant and shape is fastest at each size on this machine, and writes a lane table of it.

mod args;
mod broadcast;
// WHY: each program uses a part of it.
#[allow(dead_code)]
#[path = "../common/mod.rs"]
mod common;
mod grid;
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
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use common::{bench, candidate, exchange, gauge, here, machine, place, placement, progress, shapes, values};
use myelon_ccl::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

use args::Cli;
use common::launch::Ranks;
use common::program::{arguments, exit, fail, log_to_stderr};
use here::Here;
use request::TuneRequest;

fn main() -> ExitCode {
    let cli: Cli = match arguments() {
        Ok(cli) => cli,
        Err(status) => return status,
    };
    match prepare(&cli) {
        Ok((request, ranks, interrupted)) => {
            ranks.run(|device, control| run::run(&device, &*control, &request, &interrupted))
        }
        Err(error) => fail(exit::USAGE, &error.to_string()),
    }
}

/// Everything that can be refused before a rank starts.
fn prepare(cli: &Cli) -> Result<(TuneRequest, Ranks, Arc<AtomicBool>)> {
    log_to_stderr()?;
    let here = Here::look()?;
    let request = TuneRequest::check(cli, &here)?;
    let interrupted = on_interrupt()?;
    let ranks = Ranks::prepare(request.device, request.ranks, request.placement, &here)?;
    Ok((request, ranks, interrupted))
}

/// Set by Ctrl-C or a launcher that ends its job; the second time ends the process at once.
fn on_interrupt() -> Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    for signal in [SIGINT, SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, exit::FAILED.into(), Arc::clone(&flag))
            .and_then(|_| signal_hook::flag::register(signal, Arc::clone(&flag)))
            .map_err(|error| Error::io("listening to signals", error))?;
    }
    Ok(flag)
}

//! Data-parallel training with Myelon: the program.

mod args;
mod ranks;

use std::process::ExitCode;

use clap::Parser;

use args::Args;

fn main() -> ExitCode {
    let args = Args::parse();
    match ranks::run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("ddp-mlp: {error}");
            ExitCode::FAILURE
        }
    }
}

//! How a program begins and ends: its log, its exit status, and what it says of a mistake.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{Arg, Command, Parser};
use myelon_ccl::{LogFilter, Result};
use tracing_subscriber::EnvFilter;

use super::stdout;

/// What a script can tell from the exit status; `--help` lists the same four.
pub(crate) mod exit {
    /// Every result was right, every file is up to date.
    pub(crate) const OK: u8 = 0;
    /// A result was wrong, or `report --check` found a stale file.
    pub(crate) const WRONG: u8 = 1;
    /// The request cannot be served; nothing was launched and no file was touched.
    pub(crate) const USAGE: u8 = 2;
    /// Something failed on the way.
    pub(crate) const FAILED: u8 = 3;
}

/// Warnings. WHY: not of ranks that stop for a peer's failure, which is told at the end, once.
const DEFAULT_LOG: &str = "warn,myelon_ccl::watch=error";

/// The arguments, or the exit status of a program that was asked for its help or whose arguments cannot be used. `hint` may say better
/// than clap what is wrong.
pub(crate) fn arguments<T: Parser>(hint: impl Fn(&clap::Error) -> Option<String>) -> Result<T, ExitCode> {
    let matches = with_negative_numbers(T::command()).try_get_matches();
    let parsed = matches.and_then(|matches| T::from_arg_matches(&matches));
    parsed.map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => {
            stdout::heed(error.print());
            ExitCode::from(exit::OK)
        }
        _ => fail(exit::USAGE, &hint(&error).unwrap_or_else(|| one_line(&error.render().to_string()))),
    })
}

/// A negative number is a wrong value of the argument before it, and no argument of its own.
fn with_negative_numbers(command: Command) -> Command {
    let allow = |arg: Arg| if arg.get_action().takes_values() { arg.allow_negative_numbers(true) } else { arg };
    command.mut_args(allow).mut_subcommands(with_negative_numbers)
}

/// Log lines go to standard error, as `MYELON_LOG` or else `RUST_LOG` filters them; warnings unless told.
pub(crate) fn log_to_stderr() -> Result<()> {
    let asked = LogFilter::from_env(DEFAULT_LOG)?;
    let filter = EnvFilter::try_new(asked.directives()).map_err(|error| asked.refused(error))?;
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        // WHY: it would say on standard error that standard error is full, and panic there.
        .log_internal_errors(false)
        .init();
    Ok(())
}

/// Says what went wrong; the exit status to end with.
pub(crate) fn fail(code: u8, message: &str) -> ExitCode {
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

/// Lines of a command's help that go on in the next one: clap breaks lines, as wide as the terminal is.
#[cfg(test)]
pub(crate) fn broken_lines(command: &Command) -> Vec<String> {
    let indent = |line: &str| line.len() - line.trim_start().len();
    let goes_on = |line: &str, next: &str| {
        let is_of_both = !next.trim().is_empty() && indent(line) == indent(next) && !next.trim().starts_with("- ");
        line.len() > 70 && is_of_both && !line.ends_with('.') && !line.contains("myelon-perf ")
    };
    let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let lines: Vec<_> = help.lines().collect();
    let own = lines.windows(2).filter(|pair| goes_on(pair[0], pair[1])).map(|pair| pair[0].to_owned());
    own.chain(command.get_subcommands().flat_map(broken_lines)).collect()
}

//! Log lines go to standard error, as `MYELON_LOG` or else `RUST_LOG` filters them; warnings unless told.

use std::io::IsTerminal;
use std::sync::Once;

use myelon::{LogFilter, Result};
use tracing_subscriber::EnvFilter;

/// Begins to log, once a process. A program of Rust that has this library loaded has a log of its own beside it.
///
/// Errors: [`myelon::Error::Config`] for a filter that cannot be read.
pub(crate) fn start() -> Result<()> {
    static ONCE: Once = Once::new();
    let asked = LogFilter::from_env("warn")?;
    let filter = EnvFilter::try_new(asked.directives()).map_err(|error| asked.refused(error))?;
    ONCE.call_once(|| {
        tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            // WHY: it would say on standard error that standard error is full, and panic there.
            .log_internal_errors(false)
            .init();
    });
    Ok(())
}

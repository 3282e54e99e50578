//! Log lines go to standard error, as `MYELON_LOG` or else `RUST_LOG` filters them; warnings unless told.

use std::io::IsTerminal;
use std::sync::Once;

use myelon::{Error, Result};
use tracing_subscriber::EnvFilter;

/// Begins to log, once a process. A program of Rust that has this library loaded has a log of its own beside it.
///
/// Errors: [`Error::Config`] for a filter that cannot be read.
pub(crate) fn start() -> Result<()> {
    static ONCE: Once = Once::new();
    let variables = ["MYELON_LOG", "RUST_LOG"];
    let set =
        variables.into_iter().find_map(|name| Some((name, std::env::var(name).ok().filter(|text| !text.is_empty())?)));
    let (name, text) = set.unwrap_or(("MYELON_LOG", "warn".to_owned()));
    let filter = EnvFilter::try_new(&text).map_err(|error| Error::Config {
        source_name: "environment".into(),
        key: name.into(),
        detail: format!("'{text}' is no filter ({error}): write a level such as info, or target=level pairs"),
    })?;
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

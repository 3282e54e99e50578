//! What the host and its environment say of the device.

use std::{env, fs};

use super::compiler::{Sanitizer, defines_of};
use crate::error::{Error, Result};

/// What is wrong with `MYELON_CPU_DELAYS`, `MYELON_CPU_SANITIZE` and `MYELON_CPU_DEFINES`, each for itself.
pub fn wrong_variables() -> Vec<Error> {
    [delays().err(), sanitizer().err(), defines().err()].into_iter().flatten().collect()
}

/// A variable that is set to more than blanks.
pub(super) fn variable(name: &str) -> Option<String> {
    env::var(name).ok().filter(|value| !value.trim().is_empty())
}

/// `MYELON_CPU_DELAYS`.
pub(super) fn delays() -> Result<u64> {
    parse_delays(&env::var("MYELON_CPU_DELAYS").unwrap_or_default())
}

/// `MYELON_CPU_SANITIZE`.
pub(super) fn sanitizer() -> Result<Option<Sanitizer>> {
    let name = "MYELON_CPU_SANITIZE";
    variable(name).map(|text| text.parse().map_err(|error| misconfigured(name, &error))).transpose()
}

/// `MYELON_CPU_DEFINES`, as options of the compiler.
pub(super) fn defines() -> Result<Vec<String>> {
    let name = "MYELON_CPU_DEFINES";
    variable(name).map_or(Ok(Vec::new()), |text| defines_of(&text).map_err(|error| misconfigured(name, &error)))
}

fn misconfigured(variable: &str, error: &Error) -> Error {
    Error::Config { source_name: "environment".into(), key: variable.into(), detail: error.to_string() }
}

/// Seed in `MYELON_CPU_DELAYS`; zero where it is empty.
pub(super) fn parse_delays(text: &str) -> Result<u64> {
    if text.trim().is_empty() {
        return Ok(0);
    }
    text.trim().parse().map_err(|error| Error::Config {
        source_name: "environment".into(),
        key: "MYELON_CPU_DELAYS".into(),
        detail: format!("{error}: set it to a seed from 1 to {}, or unset it", u64::MAX),
    })
}

/// The processor by the name Linux gives it.
pub(crate) fn processor_name() -> Option<String> {
    let facts = fs::read_to_string("/proc/cpuinfo").ok()?;
    let (_, name) = facts.lines().find(|line| line.starts_with("model name"))?.split_once(':')?;
    Some(name.trim().to_owned())
}

//! What the host and its environment say of the device.

use std::fs;

use crate::error::{Error, Result};

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

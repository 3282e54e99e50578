//! What is wrong with a machine, in words, with the fix.

use std::fmt;

use myelon_ccl::Error;
use serde::Serialize;

/// How much a finding matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    /// Good to know.
    Note,
    /// Works, but slower or with less than it could.
    Warning,
    /// All-reduce does not work here as it was asked for.
    Wrong,
}

/// One thing about this machine that its user should know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Finding {
    pub(crate) level: Level,
    /// The part of the examination it belongs to.
    pub(crate) about: &'static str,
    pub(crate) what: String,
    /// What to do; none where nothing has to be done. What is wrong has one.
    pub(crate) fix: Option<String>,
}

impl Finding {
    pub(crate) fn new(level: Level, about: &'static str, what: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { level, about, what: what.into(), fix: Some(fix.into()) }
    }

    /// An error of the library: of a variable, which is to be corrected, or of something else, with its fix.
    pub(crate) fn of_error(level: Level, about: &'static str, error: &Error, fix: &str) -> Self {
        let fix = match error {
            Error::Config { source_name, key, .. } if source_name == "environment" => {
                format!("correct {key}, or unset it")
            }
            _ => fix.to_owned(),
        };
        Self::new(level, about, error.to_string(), fix)
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Wrong => "wrong",
        };
        write!(f, "{level:<8} {}: {}", self.about, self.what)?;
        self.fix.as_ref().map_or(Ok(()), |fix| write!(f, "; {fix}"))
    }
}

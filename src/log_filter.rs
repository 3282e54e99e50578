//! What the environment says is to be logged, for programs that write the log.

use std::fmt;

use crate::error::{Error, Result};

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// What is to be logged, as directives of `tracing_subscriber::EnvFilter`: a level, or pairs of target and level.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogFilter {
    variable: &'static str,
    directives: String,
}

impl LogFilter {
    /// `MYELON_LOG`, or where it is unset `RUST_LOG`, or where neither is set `default`. `warning` is `warn`.
    ///
    /// Errors: [`Error::Config`] for a word in `MYELON_LOG` that is neither a level nor a target of Myelon.
    pub fn from_env(default: &str) -> Result<Self> {
        Self::heard(&|name| std::env::var(name).ok(), default)
    }

    /// The directives, with commas between them.
    pub fn directives(&self) -> &str {
        &self.directives
    }

    /// The error that names the variable, of directives that were refused for this reason.
    pub fn refused(&self, why: impl fmt::Display) -> Error {
        let detail = format!(
            "'{}' is no filter ({why}): write one of {}, or target=level pairs",
            self.directives,
            LEVELS.join(", ")
        );
        Error::Config { source_name: "environment".into(), key: self.variable.into(), detail }
    }

    fn heard(variable: &dyn Fn(&str) -> Option<String>, default: &str) -> Result<Self> {
        let set = |name| Some((name, variable(name).filter(|text| !text.is_empty())?));
        let (variable, text) =
            ["MYELON_LOG", "RUST_LOG"].into_iter().find_map(set).unwrap_or(("MYELON_LOG", default.to_owned()));
        let directives: Vec<_> = text.split(',').map(with_known_level).collect();
        let filter = Self { variable, directives: directives.join(",") };
        // WHY: a filter takes any other word for a target, and then logs nothing else. In `RUST_LOG` it may be one of the
        // program's.
        match directives.iter().find(|word| variable == "MYELON_LOG" && !is_level_or_target(word)) {
            Some(word) => Err(filter.refused(format_args!("'{word}' is no level"))),
            None => Ok(filter),
        }
    }
}

/// The directive with `warn` for `warning`, which is what other programs call it.
fn with_known_level(directive: &str) -> String {
    let directive = directive.trim();
    let (target, level) = directive.rsplit_once('=').map_or(("", directive), |(target, level)| (target, level));
    if !level.eq_ignore_ascii_case("warning") {
        return directive.to_owned();
    }
    if target.is_empty() { "warn".to_owned() } else { format!("{target}=warn") }
}

fn is_level_or_target(word: &str) -> bool {
    let is_level =
        LEVELS.iter().any(|level| word.eq_ignore_ascii_case(level)) || matches!(word.as_bytes(), [b'0'..=b'5']);
    word.is_empty() || is_level || word.starts_with("myelon") || word.contains(['=', '[', ':'])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(pairs: &[(&str, &str)]) -> Result<String> {
        let lookup = |name: &str| pairs.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
        LogFilter::heard(&lookup, "warn").map(|filter| filter.directives)
    }

    #[test]
    fn levels_and_targets_are_taken() {
        for (text, expected) in [
            ("", "warn"),
            ("warning", "warn"),
            ("Warning", "warn"),
            ("INFO", "INFO"),
            ("3", "3"),
            ("myelon_ccl", "myelon_ccl"),
            ("off, myelon_ccl::comm=warning", "off,myelon_ccl::comm=warn"),
            ("hyper=info,[span]", "hyper=info,[span]"),
        ] {
            assert_eq!(heard(&[("MYELON_LOG", text)]).unwrap(), expected);
        }
        assert_eq!(heard(&[("RUST_LOG", "my_program,warning")]).unwrap(), "my_program,warn");
        assert_eq!(heard(&[("RUST_LOG", "debug"), ("MYELON_LOG", "info")]).unwrap(), "info");
    }

    #[test]
    fn a_misspelt_level_is_told_with_those_there_are() {
        for text in ["verbose", "myelon_ccl=info,wran"] {
            let error = heard(&[("MYELON_LOG", text)]).unwrap_err().to_string();
            let word = text.rsplit(',').next().unwrap();
            assert!(error.contains("MYELON_LOG") && error.contains(&format!("'{word}' is no level")), "{error}");
            assert!(error.contains("off, error, warn, info, debug, trace"), "{error}");
        }
    }
}

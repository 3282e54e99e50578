//! What all stored files have in common: the number of their form, the way they are read, and a line for each row.

use std::path::Path;

use serde::Serialize;
use serde::de::{Deserialize, DeserializeOwned};

use crate::error::{Error, Result};
use crate::measure::kind::{Kind, kind_of};
use crate::measure::output;

/// A run as a JSON file: read and written alike, whatever it holds.
pub trait Stored: DeserializeOwned {
    /// Number of the form. A change that an old reader would get wrong takes the next one.
    const SCHEMA: u32;
    /// What such a file is, behind "not".
    const WHAT: &str;
    /// The arguments of `myelon-perf` that write it.
    const WRITER: &str;

    /// What no run can give, behind its place in the file.
    fn check(&self) -> Result<(), (String, String)>;

    /// The members of the file behind its schema: a line each, and one for each row.
    ///
    /// Errors: [`Error::InvalidArgument`] for a value that JSON has no form for.
    fn body(&self) -> Result<String>;

    /// Reads a file that [`Stored::write`] made, or one edited by hand.
    ///
    /// Errors: [`Error::Io`] if the file cannot be read; else those of [`Stored::parse`].
    fn read(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).map_err(|error| Error::at_path("cannot read", path, error))?;
        Self::parse(&text, &path.display().to_string())
    }

    /// As [`Stored::read`], of a text; `source_name` is for errors.
    ///
    /// Errors: [`Error::Config`] with file and place if it is not JSON, has another schema, an unknown or missing field, or
    /// numbers no run can give; [`Error::InvalidArgument`] for a stored file of another kind, with what takes it.
    fn parse(text: &str, source_name: &str) -> Result<Self> {
        let config = |key: String, detail: String| Error::Config { source_name: source_name.to_owned(), key, detail };
        // WHY: the schema first, alone: another schema's file would fail over whichever field happens to differ.
        let Header { schema } = decode::<Self, _>(text, source_name)?;
        if schema != Self::SCHEMA {
            let known = Self::SCHEMA;
            let detail =
                format!("{schema} is not the one known, {known}: measure again, or use the version that wrote it");
            return Err(config("schema".to_owned(), detail));
        }
        let run: Self = decode::<Self, _>(text, source_name)?;
        run.check().map_err(|(place, detail)| config(place, detail))?;
        Ok(run)
    }

    /// The file's text, a line a row, so that a diff shows which measurements changed.
    ///
    /// Errors: [`Error::InvalidArgument`] for numbers that [`Stored::parse`] would refuse.
    fn to_json(&self) -> Result<String> {
        self.check().map_err(|(place, detail)| Error::invalid(format!("{place}: {detail}")))?;
        Ok(format!("{{\"schema\":{},\n{}}}\n", Self::SCHEMA, self.body()?))
    }

    /// Replaces `path` at once: a reader sees the old file or the new one.
    ///
    /// Errors: as [`Stored::to_json`] and [`output::replace`].
    fn write(&self, path: &Path) -> Result<()> {
        output::replace(path, &self.to_json()?)
    }
}

#[derive(serde::Deserialize)]
struct Header {
    schema: u32,
}

fn decode<'a, T: Stored, V: Deserialize<'a>>(text: &'a str, source_name: &str) -> Result<V> {
    serde_json::from_str(text).map_err(|error| match kind_of(text) {
        Some(Kind { what, taken_by }) if what != T::WHAT => Error::invalid(format!(
            "{source_name} is {what}, not {}: name a file that {} wrote; this one is for {taken_by}",
            T::WHAT,
            T::WRITER
        )),
        _ => Error::Config {
            source_name: source_name.to_owned(),
            key: format!("line {}", error.line()),
            detail: format!("not {} ({error}): name a file that {} wrote", T::WHAT, T::WRITER),
        },
    })
}

/// A value on one line.
///
/// Errors: [`Error::InvalidArgument`] for a value that JSON has no form for.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> Result<String> {
    serde_json::to_string(value).map_err(|error| Error::invalid(format!("cannot be written as JSON: {error}")))
}

/// An array whose elements, JSON themselves, have a line each.
pub(crate) fn lines(elements: impl Iterator<Item = Result<String>>) -> Result<String> {
    let elements = elements.map(|element| element.map(|element| format!("\n{element}")));
    Ok(format!("[{}\n]", elements.collect::<Result<Vec<_>>>()?.join(",")))
}

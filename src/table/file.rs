//! A lane table as TOML: one row a line, so that a diff shows which sizes changed.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use toml::{Spanned, Table, Value};

use super::class::{Buffers, DTypeClass, OperatorClass};
use super::lane_table::{LaneTable, Measured, Row, Section};
use crate::device::DeviceKind;
use crate::error::{Error, Result};
use crate::measure::{Bytes, Provenance};
use crate::types::{Collective, DType, ReduceOp, WorldSize};
use crate::variant::{Choice, Manifest, Shape};

/// Number of the form. A change that an old reader would get wrong takes the next one.
const SCHEMA: u32 = 1;

const TITLE: &str = "\
# Which variant `auto` takes, and in which shape: a lane table, written by myelon-tune.
# A row is for messages from `from` up to, not including, `to` bytes; the last one has no end. It was measured at `at` bytes:
# p50 of the slowest rank in microseconds, the fastest of the others, and that one's time over this one's.
";

/// What a file says besides its sections.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(rename = "schema")]
    _schema: u32,
    device: DeviceKind,
    commit: String,
    complete: bool,
    provenance: Provenance,
    #[serde(default)]
    section: Vec<Spanned<RawSection>>,
}

pub(super) struct Head {
    pub(super) device: DeviceKind,
    pub(super) commit: String,
    pub(super) complete: bool,
    pub(super) provenance: Provenance,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSection {
    ranks: WorldSize,
    dtypes: DTypeClass,
    operators: OperatorClass,
    buffers: Buffers,
    dtype: DType,
    op: ReduceOp,
    rows: Vec<Spanned<RawRow>>,
}

/// Key by key, so that each error has the line and the name of its own.
#[derive(Deserialize)]
struct RawRow(BTreeMap<String, Spanned<Value>>);

/// A text and where it came from, for errors.
struct Source<'a> {
    name: &'a str,
    text: &'a str,
}

pub(super) fn parse(name: &str, text: &str) -> Result<LaneTable> {
    let source = Source { name, text };
    // WHY: the schema first, alone: another schema's file would fail over whichever key happens to differ.
    #[derive(Deserialize)]
    struct Header {
        schema: Spanned<u32>,
    }
    let Header { schema } = source.decode(text)?;
    if *schema.get_ref() != SCHEMA {
        let detail = format!(
            "{} is not the one known, {SCHEMA}: tune again, or use the version that wrote it",
            schema.get_ref()
        );
        return Err(source.wrong(schema.span().start, "schema", detail));
    }
    let File { device, commit, complete, provenance, section, .. } = source.decode::<File>(text)?;
    let head = Head { device, commit, complete, provenance };
    let sections = section.into_iter().map(|section| source.section(section)).collect::<Result<Vec<_>>>()?;
    LaneTable::assemble(name, head, sections, text).map_err(|detail| source.wrong(0, "section", detail))
}

impl Source<'_> {
    fn wrong(&self, offset: usize, key: &str, detail: impl Into<String>) -> Error {
        let line =
            1 + self.text.as_bytes()[..offset.min(self.text.len())].iter().filter(|&&byte| byte == b'\n').count();
        Error::Config { source_name: self.name.to_owned(), key: format!("line {line}: {key}"), detail: detail.into() }
    }

    fn decode<T: DeserializeOwned>(&self, text: &str) -> Result<T> {
        toml::from_str(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            let start = self.text[..offset.min(self.text.len())].rfind('\n').map_or(0, |end| end + 1);
            let line = self.text[start..].lines().next().unwrap_or_default();
            // What is missing is on no line.
            let missing = error.message().strip_prefix("missing field `").and_then(|rest| rest.split('`').next());
            let named = line.split('=').next().unwrap_or_default().trim().trim_matches(['[', ']', '{', ' ']);
            let key = missing.unwrap_or(if named.is_empty() { "syntax" } else { named });
            self.wrong(offset, key, error.message())
        })
    }

    fn section(&self, section: Spanned<RawSection>) -> Result<Section> {
        let start = section.span().start;
        let RawSection { ranks, dtypes, operators, buffers, dtype, op, rows: raw } = section.into_inner();
        if DTypeClass::of(dtype, true) != dtypes {
            return Err(self.wrong(start, "dtype", format!("{dtype} is none of {dtypes}, which the section is for")));
        }
        let mut rows: Vec<Row> = Vec::with_capacity(raw.len());
        // Where the row before ends, and its line.
        let mut end: Option<u64> = Some(0);
        for row in raw {
            let at = row.span().start;
            let (row, to) = self.row(row)?;
            let Some(due) = end else {
                return Err(self.wrong(
                    at,
                    "from",
                    "a row before this one has no `to`, which is for the last one only",
                ));
            };
            if row.from != due {
                let (from, due) = (Bytes(row.from), Bytes(due));
                let what = if from > due { "nothing is for the sizes before" } else { "overlaps the row before" };
                return Err(self.wrong(at, "from", format!("{from} {what}: it has to be {due}, where that one ends")));
            }
            if to.is_some_and(|to| to <= row.from) {
                return Err(self.wrong(at, "to", format!("has to be more than from, {}", Bytes(row.from))));
            }
            end = to;
            rows.push(row);
        }
        if rows.is_empty() {
            return Err(self.wrong(start, "rows", "there is none: leave the section out"));
        }
        if let Some(end) = end {
            let detail = format!("nothing is for {} and more: the last row has no `to`", Bytes(end));
            return Err(self.wrong(start, "rows", detail));
        }
        Ok(Section { ranks, dtypes, operators, buffers, dtype, op, rows })
    }

    /// A row and where it ends.
    fn row(&self, row: Spanned<RawRow>) -> Result<(Row, Option<u64>)> {
        let start = row.span().start;
        let mut fields = Fields { source: self, start, rest: row.into_inner().0 };
        let (from, to): (Bytes, Option<Bytes>) = (fields.take("from")?, fields.take_if("to")?);
        let name: String = fields.take("variant")?;
        let measured = Measured {
            at: fields.take("at")?,
            p50_us: fields.time("p50_us")?.ok_or_else(|| fields.missing("p50_us"))?,
            runner_up: match (fields.take_if("runner_up")?, fields.time("margin")?) {
                (Some(name), Some(margin)) => Some((name, margin)),
                (None, None) => None,
                _ => return Err(self.wrong(start, "runner_up", "comes with a margin, and a margin with it")),
            },
            nccl_us: fields.time("nccl_us")?,
        };
        let variant = Manifest::embedded().get(&name);
        let variant = variant.map_err(|error| self.wrong(start, "variant", error.to_string()))?;
        if !variant.enabled {
            return Err(self.wrong(start, "variant", format!("{name} is disabled in the manifest")));
        }
        variant.implements(Collective::AllReduce).map_err(|error| self.wrong(start, "variant", error.to_string()))?;
        let shape = fields.shape()?;
        variant.takes_always(&shape).map_err(|error| self.wrong(start, &name, error.to_string()))?;
        Ok((Row { from: from.0, choice: Choice { shape, ..Choice::of(variant) }, measured }, to.map(|to| to.0)))
    }
}

/// What is left of a row's keys.
struct Fields<'a> {
    source: &'a Source<'a>,
    start: usize,
    rest: BTreeMap<String, Spanned<Value>>,
}

impl Fields<'_> {
    fn missing(&self, key: &str) -> Error {
        self.source.wrong(self.start, key, "is missing")
    }

    fn take<T: DeserializeOwned>(&mut self, key: &str) -> Result<T> {
        self.take_if(key)?.ok_or_else(|| self.missing(key))
    }

    fn take_if<T: DeserializeOwned>(&mut self, key: &str) -> Result<Option<T>> {
        let Some(value) = self.rest.remove(key) else { return Ok(None) };
        let start = value.span().start;
        value.into_inner().try_into().map(Some).map_err(|error| self.source.wrong(start, key, error.message()))
    }

    /// A positive number.
    fn time(&mut self, key: &str) -> Result<Option<f64>> {
        let Some(value) = self.rest.remove(key) else { return Ok(None) };
        let start = value.span().start;
        match value.into_inner() {
            Value::Float(number) if number.is_finite() && number > 0.0 => Ok(Some(number)),
            Value::Integer(number) if number > 0 => Ok(Some(number as f64)),
            other => Err(self.source.wrong(start, key, format!("{other} is not a positive number"))),
        }
    }

    /// The parameters, which are all that is left.
    fn shape(self) -> Result<Shape> {
        let mut shape = Shape::default();
        for (key, value) in self.rest {
            let start = value.span().start;
            let wrong = |detail: &str| self.source.wrong(start, &key, detail);
            let alone = Table::from_iter([(key.clone(), value.into_inner())]);
            let part = Shape::deserialize(Value::Table(alone)).map_err(|error| wrong(error.message()))?;
            if part == Shape::default() {
                return Err(wrong("no row has such a key, and no variant such a parameter"));
            }
            shape = part.or(&shape);
        }
        Ok(shape)
    }
}

/// The text that [`parse`] reads.
///
/// Errors: [`Error::InvalidArgument`] for a provenance that TOML has no form for.
pub(super) fn text(
    device: DeviceKind,
    commit: &str,
    complete: bool,
    provenance: &Provenance,
    sections: &[Section],
) -> Result<String> {
    let provenance =
        toml::to_string(provenance).map_err(|error| Error::invalid(format!("cannot be written as TOML: {error}")))?;
    let quoted = |text: &str| Value::from(text).to_string();
    let mut text = format!(
        "{TITLE}schema = {SCHEMA}\ndevice = \"{device}\"\ncommit = {}\ncomplete = {complete}\n\n[provenance]\n{provenance}",
        quoted(commit)
    );
    for Section { ranks, dtypes, operators, buffers, dtype, op, rows } in sections {
        let _ = write!(
            text,
            "\n[[section]]\nranks = {ranks}\ndtypes = \"{dtypes}\"\noperators = \"{operators}\"\nbuffers = \"{buffers}\"\n\
             dtype = \"{dtype}\"\nop = \"{op}\"\nrows = [\n"
        );
        for (index, row) in rows.iter().enumerate() {
            let Row { from, choice, measured: Measured { at, p50_us, runner_up, nccl_us } } = row;
            let _ = write!(text, "  {{ from = \"{}\"", Bytes(*from));
            if let Some(next) = rows.get(index + 1) {
                let _ = write!(text, ", to = \"{}\"", Bytes(next.from));
            }
            let _ = write!(text, ", variant = {}{}", quoted(&choice.variant.name), parameters(&choice.shape));
            let _ = write!(text, ", at = \"{at}\", p50_us = {p50_us:.3}");
            if let Some((name, margin)) = runner_up {
                let _ = write!(text, ", runner_up = {}, margin = {margin:.3}", quoted(name));
            }
            if let Some(nccl_us) = nccl_us {
                let _ = write!(text, ", nccl_us = {nccl_us:.3}");
            }
            text += " },\n";
        }
        text += "]\n";
    }
    Ok(text)
}

/// A shape as it displays itself, with values as TOML has them: only counts are numbers there.
fn parameters(shape: &Shape) -> String {
    let part = |part: &str| {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        let is_count = name != "chunk" && value.parse::<u32>().is_ok();
        if is_count { format!(", {name} = {value}") } else { format!(", {name} = \"{value}\"") }
    };
    shape.to_string().split_whitespace().map(part).collect()
}

#[cfg(test)]
mod tests;

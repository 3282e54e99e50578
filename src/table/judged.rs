//! How far a lane table is behind the best of everything that was measured: the stored form, and a table of it.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::class::Buffers;
use crate::error::Result;
use crate::measure::stored::{json, lines};
use crate::measure::text::counted;
use crate::measure::{Bytes, Provenance, Stored, markdown};
use crate::types::{DType, ReduceOp, WorldSize};

/// One run of `myelon-tune --judge`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judged {
    /// Number of the form.
    pub schema: u32,
    /// Where, when and with what the rows were measured.
    pub provenance: Provenance,
    /// Name of the table's file.
    pub table: String,
    /// Commit that the table names: of the sources that measured it.
    pub table_commit: String,
    /// Ranks.
    pub ranks: WorldSize,
    /// Whether every candidate was measured, in place of a search.
    pub exhaustive: bool,
    /// Whether it came to its end; a budget or an interruption may have cut it.
    pub complete: bool,
    /// By size and class, growing.
    pub rows: Vec<Judgement>,
    /// Where there is no time to compare. Absent in files older than this field, and where it is empty.
    #[serde(default)]
    pub out: Vec<Out>,
}

/// What a table takes at one size, and the best that was measured there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Judgement {
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Whose memory the operands are.
    pub buffers: Buffers,
    /// Size of the message.
    pub bytes: u64,
    /// Candidates that were measured there, other libraries left out.
    pub candidates: usize,
    /// What the table takes.
    pub taken: String,
    /// Its time: slowest rank, p50 over the repeats, microseconds.
    pub taken_us: f64,
    /// The fastest.
    pub best: String,
    /// Its time.
    pub best_us: f64,
}

/// A case at which what a table takes is of no use: wrong, stalled, or not possible. Further behind than anything.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Out {
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Whose memory the operands are.
    pub buffers: Buffers,
    /// Size of the message.
    pub bytes: u64,
    /// What the table takes.
    pub taken: String,
    /// What is wrong with it.
    pub why: String,
}

impl Judgement {
    /// Further behind the best than this is too far.
    pub const TOLERANCE: f64 = 1.03;

    /// The time of what is taken, as a multiple of the best one.
    pub fn ratio(&self) -> f64 {
        self.taken_us / self.best_us
    }

    /// By how much what is taken is slower, in percent.
    pub fn behind_percent(&self) -> f64 {
        (self.ratio() - 1.0) * 100.0
    }

    /// Whether that is too far.
    pub fn is_behind(&self) -> bool {
        self.ratio() > Self::TOLERANCE
    }
}

impl Judged {
    /// The largest part, in percent, by which what is taken is slower; 0 without rows.
    pub fn worst_percent(&self) -> f64 {
        self.rows.iter().map(Judgement::behind_percent).fold(0.0, f64::max)
    }
}

impl Stored for Judged {
    const SCHEMA: u32 = 1;
    const WHAT: &str = "a judgement of a lane table";
    const WRITER: &str = "myelon-tune --judge TABLE --json";

    fn check(&self) -> Result<(), (String, String)> {
        for (index, row) in self.rows.iter().enumerate() {
            let Judgement { taken_us, best_us, candidates, .. } = *row;
            let are_times = [taken_us, best_us].iter().all(|time| time.is_finite() && *time > 0.0);
            if !are_times || best_us > taken_us || candidates == 0 {
                let detail = format!("{best_us} us cannot be the best of {candidates} with {taken_us} us");
                return Err((format!("rows[{index}]"), detail));
            }
        }
        Ok(())
    }

    fn body(&self) -> Result<String> {
        let Self { provenance, table, table_commit, ranks, exhaustive, complete, rows, out, .. } = self;
        let out = if out.is_empty() { String::new() } else { format!(",\n\"out\":{}", lines(out.iter().map(json))?) };
        Ok(format!(
            "\"provenance\":{},\n\"table\":{},\n\"table_commit\":{},\n\"ranks\":{ranks},\n\"exhaustive\":{exhaustive},\n\
             \"complete\":{complete},\n\"rows\":{}{out}",
            json(provenance)?,
            json(table)?,
            json(table_commit)?,
            lines(rows.iter().map(json))?
        ))
    }
}

/// What a run of [`Judged`] showed as Markdown: where it was measured, and a line a row. Ends with a line end.
pub fn judged_table(judged: &Judged) -> String {
    let Judged { provenance, table, ranks, exhaustive, complete, rows, out, .. } = judged;
    // Where it lay on the machine that measured means nothing here.
    let table = table.rsplit('/').next().unwrap_or(table);
    let how = if *exhaustive { "every candidate" } else { "a search" };
    let cut = if *complete { "" } else { ", cut by its budget" };
    let outs = if out.is_empty() { String::new() } else { format!(", out at {}", counted(out.len(), "case")) };
    let mut text = format!(
        "`{table}` against {how} on {ranks} ranks{cut}: at most {:.1} % behind{outs}. {}\n",
        judged.worst_percent(),
        markdown::provenance(provenance)
    );
    text += "| size | type | buffers | candidates | the table takes | us | fastest | us | behind |\n";
    text += "|---:|:---|:---|---:|:---|---:|:---|---:|---:|\n";
    for row in rows {
        let Judgement { dtype, buffers, bytes, candidates, taken, taken_us, best, best_us, .. } = row;
        let _ = writeln!(
            text,
            "| {} | {dtype} | {buffers} | {candidates} | `{taken}` | {taken_us:.2} | `{best}` | {best_us:.2} | {:.1} % |",
            Bytes(*bytes),
            row.behind_percent()
        );
    }
    for Out { dtype, buffers, bytes, taken, .. } in out {
        let _ = writeln!(text, "| {} | {dtype} | {buffers} | | `{taken}` | out | | | |", Bytes(*bytes));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;

    fn judged() -> Judged {
        let row = Judgement {
            dtype: DType::F32,
            op: ReduceOp::Sum,
            buffers: Buffers::Plain,
            bytes: 4 << 20,
            candidates: 321,
            taken: "two_shot_push lanes=128 threads=256".into(),
            taken_us: 15.9,
            best: "two_shot_push lanes=64 threads=512".into(),
            best_us: 15.0,
        };
        let same = Judgement { bytes: 1 << 10, best: row.taken.clone(), best_us: row.taken_us, ..row.clone() };
        Judged {
            schema: Judged::SCHEMA,
            provenance: provenance(),
            table: "configs/lanes/h200-nvlink-2.toml".into(),
            table_commit: "1a2b".into(),
            ranks: WorldSize::new(2).unwrap(),
            exhaustive: true,
            complete: true,
            rows: vec![same, row],
            out: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_what_is_read() {
        let judged = judged();
        let text = judged.to_json().unwrap();
        assert_eq!(Judged::parse(&text, "j").unwrap(), judged);
        assert_eq!(crate::measure::kind::kind_of(&text).map(|kind| kind.what), Some(Judged::WHAT));
        assert_eq!(text.lines().filter(|line| line.contains("taken_us")).count(), 2, "a line a row");
        let wrong = text.replace("\"best_us\":15.0", "\"best_us\":99.0");
        let message = Judged::parse(&wrong, "j").unwrap_err().to_string();
        assert!(message.contains("rows[1]") && message.contains("99 us cannot be the best"), "{message}");
    }

    #[test]
    fn what_is_out_is_kept_and_said() {
        let out = Out {
            dtype: DType::F32,
            op: ReduceOp::Sum,
            buffers: Buffers::Plain,
            bytes: 2 << 10,
            taken: "ring lanes=8".into(),
            why: "7 wrong elements".into(),
        };
        let judged = Judged { out: vec![out], ..judged() };
        assert_eq!(Judged::parse(&judged.to_json().unwrap(), "j").unwrap(), judged);
        let text = judged_table(&judged);
        assert!(
            text.contains("at most 6.0 % behind, out at 1 case.") && text.contains("| `ring lanes=8` | out |"),
            "{text}"
        );
    }

    #[test]
    fn a_table_says_how_far_behind_it_is() {
        let (judged, rows) = (judged(), judged().rows);
        assert_eq!(rows.iter().map(Judgement::is_behind).collect::<Vec<_>>(), [false, true]);
        let text = judged_table(&judged);
        let expected = "`h200-nvlink-2.toml` against every candidate on 2 ranks: at most 6.0 % behind.";
        assert!(text.contains(expected), "{text}");
        assert!(text.contains("| 4M | f32 | plain | 321 |") && text.contains("| 6.0 % |\n"), "{text}");
        assert!(text.contains("| 1K |") && text.contains("| 0.0 % |\n"), "{text}");
    }
}

//! What a kernel that waits does to another kernel on its device: the stored form, and a table of it.

use std::fmt::{self, Write as _};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::measure::provenance::Provenance;
use crate::measure::stored::{Stored, json, lines};
use crate::types::{Wait, WorldSize};

/// Number of the form described here.
pub const SCHEMA: u32 = 1;

/// One run of `myelon-perf neighbour`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbours {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where, when and with what the rows were measured.
    pub provenance: Provenance,
    /// Measurements in the order they were finished.
    pub rows: Vec<Neighbour>,
}

/// A neighbour's time alone, and beside an all-reduce of rank 0 that waits for its peers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Ranks of the communicator.
    pub ranks: WorldSize,
    /// Variant that waits.
    pub variant: String,
    /// What its threads do between two polls.
    pub wait: Wait,
    /// CTAs that wait.
    pub lanes: u32,
    /// Threads a CTA.
    pub threads: u32,
    /// What the neighbour does.
    pub work: Work,
    /// Median over the repeats, microseconds.
    pub alone_us: f64,
    /// The same while the all-reduce waits.
    pub beside_us: f64,
}

/// What a neighbour spends its time on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Work {
    /// Multiplications and additions in registers.
    Compute,
    /// Loads from more memory than caches hold.
    Memory,
}

impl Work {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Compute, Self::Memory];
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Compute => "compute",
            Self::Memory => "memory",
        })
    }
}

impl Neighbour {
    /// How many times longer the neighbour takes beside the wait.
    pub fn slowdown(&self) -> f64 {
        self.beside_us / self.alone_us
    }

    fn check(&self) -> Result<(), String> {
        let times = [self.alone_us, self.beside_us];
        if times.iter().all(|time| time.is_finite() && *time > 0.0) {
            return Ok(());
        }
        Err(format!("times must be finite and above 0, not {} and {}", self.alone_us, self.beside_us))
    }
}

impl Stored for Neighbours {
    const SCHEMA: u32 = SCHEMA;
    const WHAT: &str = "a file of neighbours";
    const WRITER: &str = "neighbour --json";

    fn check(&self) -> Result<(), (String, String)> {
        let check =
            |(index, row): (usize, &Neighbour)| row.check().map_err(|detail| (format!("rows[{index}]"), detail));
        self.rows.iter().enumerate().try_for_each(check)
    }

    fn body(&self) -> Result<String> {
        Ok(format!("\"provenance\":{},\n\"rows\":{}", json(&self.provenance)?, lines(self.rows.iter().map(json))?))
    }
}

/// A Markdown table, a line a row, in their order; microseconds. Ends with a line end.
pub fn table(rows: &[Neighbour]) -> String {
    let mut text = "| ranks | variant | lanes x threads | wait | neighbour | alone | beside | slowdown |\n".to_owned();
    text.push_str("|---:|:---|---:|:---|:---|---:|---:|---:|\n");
    for row in rows {
        let Neighbour { ranks, variant, wait, lanes, threads, work, alone_us, beside_us } = row;
        let _ = writeln!(
            text,
            "| {ranks} | `{variant}` | {lanes} x {threads} | {wait} | {work} | {alone_us:.0} | {beside_us:.0} | {:.2}× |",
            row.slowdown()
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;

    fn row(wait: Wait, beside_us: f64) -> Neighbour {
        let ranks = WorldSize::new(4).unwrap();
        let (variant, work) = ("ring".to_owned(), Work::Compute);
        Neighbour { ranks, variant, wait, lanes: 64, threads: 512, work, alone_us: 8000.0, beside_us }
    }

    #[test]
    fn the_file_has_the_documented_fields_and_is_read_again() {
        let neighbours = Neighbours { schema: SCHEMA, provenance: provenance(), rows: vec![row(Wait::Spin, 12000.5)] };
        let text = neighbours.to_json().unwrap();
        let expected = r#"{"ranks":4,"variant":"ring","wait":"spin","lanes":64,"threads":512,"work":"compute","alone_us":8000.0,"beside_us":12000.5}"#;
        assert!(text.contains(expected), "{text}");
        assert_eq!(Neighbours::parse(&text, "x.json").unwrap(), neighbours);
        assert_eq!(crate::measure::kind::kind_of(&text).map(|kind| kind.what), Some(Neighbours::WHAT));
        for (bad, expected) in [
            (text.replace("\"schema\":1", "\"schema\":2"), "x.json: schema: 2 is not the one known, 1"),
            (text.replace("\"schema\":1", "\"schema\":2,\"new\":0"), "x.json: schema: 2 is not the one known, 1"),
            (text.replace("8000.0", "0.0"), "x.json: rows[0]: times must be"),
            (text.replace("compute", "sleep"), "x.json: line 4: not a file of neighbours"),
        ] {
            let message = Neighbours::parse(&bad, "x.json").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
        let never = Neighbours { rows: vec![row(Wait::Spin, f64::NAN)], ..neighbours };
        assert!(never.to_json().is_err());
    }

    #[test]
    fn a_table_has_a_line_a_row() {
        let text = table(&[row(Wait::Adaptive, 8080.0), row(Wait::Spin, 12000.0)]);
        let lines: Vec<_> = text.lines().skip(2).collect();
        assert_eq!(
            lines,
            [
                "| 4 | `ring` | 64 x 512 | adaptive | compute | 8000 | 8080 | 1.01× |",
                "| 4 | `ring` | 64 x 512 | spin | compute | 8000 | 12000 | 1.50× |"
            ]
        );
    }
}

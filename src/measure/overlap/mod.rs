//! What an all-reduce that runs and a kernel of somebody else's cost each other on one device: the stored form, how the times are
//! read off, and what is said of them.

mod text;

use std::ops::Range;

use serde::{Deserialize, Serialize};

pub use self::text::{TITLES, line, part};
use crate::error::Result;
use crate::measure::bandwidth::Bandwidth;
use crate::measure::provenance::Provenance;
use crate::measure::results::Row;
use crate::measure::size::Bytes;
use crate::measure::stats::Summary;
use crate::measure::stored::{Stored, json, lines};

/// Number of the form described here.
const SCHEMA: u32 = 1;

/// One run of `myelon-perf --overlap`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlaps {
    schema: u32,
    /// Where, when and with what the rows were measured.
    pub provenance: Provenance,
    /// Why the times mean nothing, if they do not: CPU ranks, or ranks that share GPUs.
    pub caution: Option<String>,
    /// What ran beside the all-reduces, on every rank: operation, size, library.
    pub neighbour: String,
    /// Bytes of device memory that Myelon's heap takes on rank 0.
    pub heap_bytes: u64,
    /// What NCCL takes there, once it has run; null without NCCL.
    pub nccl_memory: Option<NcclMemory>,
    /// Measurements in the order they were finished.
    pub rows: Vec<Overlap>,
}

/// Device memory of a rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NcclMemory {
    /// All that is gone since before its ranks connected, kernels and windows included.
    pub bytes: u64,
    /// Operands that are registered as symmetric windows.
    pub window_bytes: u64,
}

/// Times of one all-reduce and of one run of the neighbour, each alone and beside the other. The slowest rank's, microseconds.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Overlap {
    /// The all-reduce alone, one after another; its lanes are 0 where the library does not say.
    pub row: Row,
    /// The all-reduce while the neighbour runs.
    pub beside_us: Summary,
    /// The neighbour alone.
    pub neighbour_alone_us: Summary,
    /// The neighbour while all-reduces run, one after another.
    pub neighbour_beside_us: Summary,
}

/// Time of an operation within `span`, microseconds: the mean of those that ran then, the first and the last by their part in it.
/// None where operations do not cover the span.
///
/// Shape: `marks_ns` ascend; operation k, which follows the one before at once, lasts from mark k to mark k + 1. All are of one clock.
pub fn time_within(marks_ns: &[u64], span: Range<u64>) -> Option<f64> {
    let (first, last) = (*marks_ns.first()?, *marks_ns.last()?);
    if span.is_empty() || span.start < first || span.end > last {
        return None;
    }
    let part = |marks: &[u64]| {
        let within = marks[1].min(span.end).saturating_sub(marks[0].max(span.start));
        // An operation whose two marks are one instant has no part: the clock is too coarse to see it.
        if within == 0 { 0.0 } else { within as f64 / (marks[1] - marks[0]) as f64 }
    };
    let operations: f64 = marks_ns.windows(2).map(part).sum();
    Some((span.end - span.start) as f64 / 1e3 / operations)
}

impl Overlap {
    /// How many times longer the neighbour takes beside all-reduces.
    pub fn neighbour_slowdown(&self) -> f64 {
        self.neighbour_beside_us.p50 / self.neighbour_alone_us.p50
    }

    /// How many times longer an all-reduce takes beside the neighbour.
    pub fn slowdown(&self) -> f64 {
        self.beside_us.p50 / self.row.time_us.p50
    }

    /// Bus bandwidth of an all-reduce beside the neighbour, GB/s.
    pub fn busbw_beside_gbps(&self) -> f64 {
        Bandwidth::of_all_reduce(Bytes(self.row.bytes), self.beside_us.p50, self.row.ranks).busbw_gbps
    }

    /// Whether the neighbour loses less beside this than beside `other`, and this all-reduce takes no longer there. Neither is wrong.
    pub fn costs_less_than(&self, other: &Self) -> bool {
        let valid = !self.row.is_wrong() && !other.row.is_wrong();
        valid && self.neighbour_slowdown() < other.neighbour_slowdown() && self.beside_us.p50 <= other.beside_us.p50
    }

    fn check(&self) -> Result<(), String> {
        self.row.check()?;
        for Summary { p50, p99, min } in
            [self.row.time_us, self.beside_us, self.neighbour_alone_us, self.neighbour_beside_us]
        {
            if !(min > 0.0 && min <= p50 && p50 <= p99 && p99.is_finite()) {
                return Err(format!(
                    "times must be finite, above 0 and ascend from min to p50 to p99, not {min}, {p50}, {p99}"
                ));
            }
        }
        Ok(())
    }
}

impl Overlaps {
    /// A run in which nothing has been measured yet.
    pub fn new(
        provenance: Provenance,
        caution: Option<&str>,
        neighbour: &str,
        heap_bytes: u64,
        nccl_memory: Option<NcclMemory>,
    ) -> Self {
        let (caution, neighbour) = (caution.map(str::to_owned), neighbour.to_owned());
        Self { schema: SCHEMA, provenance, caution, neighbour, heap_bytes, nccl_memory, rows: Vec::new() }
    }
}

impl Stored for Overlaps {
    const SCHEMA: u32 = SCHEMA;
    const WHAT: &str = "a file of overlaps";
    const WRITER: &str = "--overlap --json";

    fn check(&self) -> Result<(), (String, String)> {
        let check = |(index, row): (usize, &Overlap)| row.check().map_err(|detail| (format!("rows[{index}]"), detail));
        self.rows.iter().enumerate().try_for_each(check)
    }

    fn body(&self) -> Result<String> {
        let Self { provenance, caution, neighbour, heap_bytes, nccl_memory, rows, .. } = self;
        let (provenance, caution, neighbour) = (json(provenance)?, json(caution)?, json(neighbour)?);
        let (nccl_memory, rows) = (json(nccl_memory)?, lines(rows.iter().map(json))?);
        Ok(format!(
            "\"provenance\":{provenance},\n\"caution\":{caution},\n\"neighbour\":{neighbour},\n\"heap_bytes\":{heap_bytes},\n\
             \"nccl_memory\":{nccl_memory},\n\"rows\":{rows}"
        ))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;

    fn summary(p50: f64) -> Summary {
        Summary { p50, p99: p50, min: p50 }
    }

    fn overlap(requested: &str, lanes: u32, beside_us: f64, neighbour_beside_us: f64) -> Overlap {
        let row =
            Row { lanes, threads: 512, graph: 0, time_us: summary(1000.0), ..row(2, 256 << 20, requested, 1000.0) };
        let (neighbour_alone_us, neighbour_beside_us) = (summary(1600.0), summary(neighbour_beside_us));
        Overlap { row, beside_us: summary(beside_us), neighbour_alone_us, neighbour_beside_us }
    }

    /// Two shapes of `ring` and NCCL, over two ranks.
    pub(crate) fn overlaps() -> Overlaps {
        let memory = NcclMemory { bytes: (900 << 20) - 1, window_bytes: 512 << 20 };
        let mut rows = vec![
            overlap("ring", 16, 1250.0, 1760.0),
            overlap("ring", 128, 1100.0, 4800.0),
            overlap("nccl", 0, 1250.0, 2000.0),
        ];
        (rows[1].row.slots, rows[1].row.chunk) = (2, 256 << 10);
        Overlaps { rows, ..Overlaps::new(provenance(), None, "bf16 product", 140 << 20, Some(memory)) }
    }

    #[test]
    fn operations_count_by_their_part_in_the_span() {
        let marks = [1000, 2000, 4000, 8000];
        for (span, expected) in [
            (1000..8000, Some(7.0 / 3.0)),
            (1500..2000, Some(1.0)),
            (1500..3000, Some(1.5)),
            (4000..5000, Some(4.0)),
            (999..2000, None),
            (1000..8001, None),
            (2000..2000, None),
        ] {
            assert_eq!(time_within(&marks, span.clone()), expected, "{span:?}");
        }
        assert_eq!(time_within(&[1000, 1000, 2000], 1000..2000), Some(1.0), "an operation that cannot be seen");
        assert_eq!(time_within(&[], 0..1), None);
    }

    proptest! {
        /// A mean of times is none that no operation took.
        #[test]
        fn a_time_lies_between_the_shortest_and_the_longest(
            lengths in proptest::collection::vec(1u64..1 << 20, 1..20), start in 0.0f64..1.0, end in 0.0f64..1.0,
        ) {
            let mut marks = vec![5];
            for length in &lengths {
                marks.push(marks[marks.len() - 1] + length);
            }
            let whole = (marks[marks.len() - 1] - 5) as f64;
            let at = |part: f64| 5 + (whole * part) as u64;
            let span = at(start.min(end))..at(start.max(end));
            match time_within(&marks, span.clone()) {
                Some(time_us) => {
                    let (shortest, longest) = (lengths.iter().min().unwrap(), lengths.iter().max().unwrap());
                    prop_assert!(*shortest as f64 * 0.999 <= time_us * 1e3 && time_us * 1e3 <= *longest as f64 * 1.001);
                }
                None => prop_assert!(span.is_empty()),
            }
        }
    }

    #[test]
    fn the_file_has_the_documented_fields_and_is_read_again() {
        let overlaps = overlaps();
        let text = overlaps.to_json().unwrap();
        assert_eq!(crate::measure::kind::kind_of(&text).map(|kind| kind.what), Some(Overlaps::WHAT));
        let expected = r#""beside_us":{"p50":1250.0,"p99":1250.0,"min":1250.0},"neighbour_alone_us":{"p50":1600.0,"p99":1600.0,"min":1600.0},"neighbour_beside_us":{"p50":1760.0,"p99":1760.0,"min":1760.0}}"#;
        assert!(text.starts_with("{\"schema\":1,\n\"provenance\":{") && text.contains(expected), "{text}");
        let head = "\"caution\":null,\n\"neighbour\":\"bf16 product\",\n\"heap_bytes\":146800640,\n\
                    \"nccl_memory\":{\"bytes\":943718399,\"window_bytes\":536870912},\n\"rows\":[\n{\"row\":{";
        assert!(text.contains(head), "{text}");
        assert_eq!(Overlaps::parse(&text, "x.json").unwrap(), overlaps);
        for (bad, expected) in [
            (text.replace("\"schema\":1", "\"schema\":2"), "x.json: schema: 2 is not the one known, 1"),
            (text.replace("1760.0", "0.0"), "x.json: rows[0]: times must be"),
            (text.replace("\"min\":4800.0", "\"min\":4801.0"), "x.json: rows[1]: times must be"),
            (text.replace("neighbour_alone", "neighbor_alone"), "x.json: line 8: not a file of overlaps"),
        ] {
            let message = Overlaps::parse(&bad, "x.json").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }
}

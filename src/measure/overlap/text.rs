//! What is said of overlaps: a table, what the libraries hold, and what costs a neighbour less than NCCL.

use std::fmt::Write as _;

use super::{NcclMemory, Overlap, Overlaps};
use crate::measure::against::Baseline;
use crate::measure::markdown;
use crate::measure::results::Row;
use crate::measure::size::Bytes;

impl Overlaps {
    /// What the libraries hold of a rank's device memory, as a sentence.
    pub fn memory(&self) -> String {
        let mib = |bytes: u64| bytes.div_ceil(1 << 20);
        let nccl = self.nccl_memory.map(|NcclMemory { bytes, window_bytes }| match window_bytes {
            0 => format!(", NCCL {} MiB", mib(bytes)),
            _ => format!(", NCCL {} MiB of which {} MiB are windows", mib(bytes), mib(window_bytes)),
        });
        format!("Device memory of a rank: Myelon's heap {} MiB{}.", mib(self.heap_bytes), nccl.unwrap_or_default())
    }

    /// For each library beside which it was measured: which rows cost the neighbour less and take no longer, a line each. Ends with a
    /// line end; empty without such a library, and where times mean nothing.
    pub fn findings(&self) -> String {
        let mut text = String::new();
        for other in self.rows.iter().filter(|_| self.caution.is_none()) {
            let Some(baseline) = Baseline::of(&other.row) else { continue };
            let is_ours = |it: &&Overlap| Baseline::of(&it.row).is_none() && it.row.case() == other.row.case();
            let better = self.rows.iter().filter(is_ours).filter(|it| it.costs_less_than(other));
            let names: Vec<_> = better.map(|it| format!("`{}`{}", it.row.variant, shape(&it.row))).collect();
            let names = if names.is_empty() { "nothing".to_owned() } else { names.join("; ") };
            let (size, ranks) = (Bytes(other.row.bytes).human(), other.row.ranks);
            let _ = writeln!(
                text,
                "- {ranks} ranks, {size}: less slowdown than with {} in no more time beside: {names}.",
                baseline.label()
            );
        }
        text
    }
}

/// One run, for a page: where it was measured, its table, and what follows. Begins with an empty line, ends with a line end.
pub fn part(run: &Overlaps) -> String {
    let mut text = format!("\n{}The neighbour: {}.\n", markdown::provenance(&run.provenance), run.neighbour);
    if let Some(caution) = &run.caution {
        let _ = writeln!(text, "\n> **Caution:** {caution}. Nothing is concluded from them.");
    }
    let _ = write!(text, "\n{TITLES}");
    run.rows.iter().for_each(|row| text.push_str(&line(row)));
    let _ = writeln!(text, "\n{}", run.memory());
    let findings = run.findings();
    if findings.is_empty() { text } else { text + "\n" + &findings }
}

/// The first two lines of a Markdown table whose others are [`line()`]s. Times in microseconds, bandwidths in GB/s.
pub const TITLES: &str = "\
| ranks | size | all-reduce | SMs | neighbour alone | beside | slowdown | all-reduce alone | beside | slowdown | busbw alone | beside |
|---:|---:|:---|---:|---:|---:|---:|---:|---:|---:|---:|---:|
";

/// A row of the table. Ends with a line end.
pub fn line(overlap: &Overlap) -> String {
    let Overlap { row, beside_us, neighbour_alone_us, neighbour_beside_us } = overlap;
    let name = match Baseline::of(row) {
        Some(baseline) => baseline.label().to_owned(),
        None => format!("`{}`{}", row.variant, shape(row)),
    };
    let name = if row.is_wrong() { format!("{name} **wrong**") } else { name };
    let sms = if row.lanes == 0 { "-".to_owned() } else { row.lanes.to_string() };
    format!(
        "| {} | {} | {name} | {sms} | {:.0} | {:.0} | {:.2}× | {:.0} | {:.0} | {:.2}× | {:.0} | {:.0} |\n",
        row.ranks,
        Bytes(row.bytes).human(),
        neighbour_alone_us.p50,
        neighbour_beside_us.p50,
        overlap.neighbour_slowdown(),
        row.time_us.p50,
        beside_us.p50,
        overlap.slowdown(),
        row.busbw_gbps,
        overlap.busbw_beside_gbps()
    )
}

/// Lanes, threads and slots as a suffix; empty where they are not known.
fn shape(row: &Row) -> String {
    let Row { lanes, threads, slots, chunk, .. } = *row;
    match (lanes, slots) {
        (0, _) => String::new(),
        (_, 0) => format!(" {lanes} x {threads}"),
        _ => format!(" {lanes} x {threads}, {slots} slots of {}", Bytes(chunk).human()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::overlaps;
    use super::*;

    #[test]
    fn a_table_has_a_line_a_row() {
        let overlaps = overlaps();
        let lines: String = overlaps.rows.iter().map(line).collect();
        assert_eq!(
            lines,
            "| 2 | 256 MiB | `ring` 16 x 512 | 16 | 1600 | 1760 | 1.10× | 1000 | 1250 | 1.25× | 268 | 215 |\n\
             | 2 | 256 MiB | `ring` 128 x 512, 2 slots of 256 KiB | 128 | 1600 | 4800 | 3.00× | 1000 | 1100 | 1.10× | 268 | 244 |\n\
             | 2 | 256 MiB | NCCL | - | 1600 | 2000 | 1.25× | 1000 | 1250 | 1.25× | 268 | 215 |\n"
        );
        assert!(TITLES.lines().chain(lines.lines()).all(|line| line.matches('|').count() == 13));
    }

    #[test]
    fn what_the_libraries_hold_is_a_sentence() {
        let said = "Device memory of a rank: Myelon's heap 140 MiB, NCCL 900 MiB of which 512 MiB are windows.";
        assert_eq!(overlaps().memory(), said);
        let alone = Overlaps { nccl_memory: None, ..overlaps() };
        assert_eq!(alone.memory(), "Device memory of a rank: Myelon's heap 140 MiB.");
    }

    #[test]
    fn what_costs_less_than_a_library_is_told() {
        let mut overlaps = overlaps();
        let told = |overlaps: &Overlaps| overlaps.findings();
        let better = "- 2 ranks, 256 MiB: less slowdown than with NCCL in no more time beside: `ring` 16 x 512.\n";
        assert_eq!(told(&overlaps), better);
        overlaps.rows[0].row.wrong = Some(1);
        assert!(told(&overlaps).ends_with("beside: nothing.\n"));
        overlaps.caution = Some("the times mean nothing".into());
        assert_eq!(told(&overlaps), "");
    }

    #[test]
    fn conclusions_are_drawn_where_times_mean_something() {
        let text = part(&overlaps());
        for expected in [
            "sources `1a2b3c4d`.\nThe neighbour: bf16 product.\n\n| ranks |",
            "| NCCL | - |",
            "\n\nDevice memory of a rank: Myelon's heap 140 MiB, NCCL 900 MiB of which 512 MiB are windows.\n\n- 2 ranks, 256 MiB: less",
        ] {
            assert!(text.contains(expected), "'{expected}' is missing from: {text}");
        }
        let text = part(&Overlaps { caution: Some("the times mean nothing".into()), ..overlaps() });
        assert!(text.contains("> **Caution:** the times mean nothing.") && !text.contains("less slowdown"), "{text}");
    }
}

//! Latency tables for the README: Myelon beside NCCL, a table a world size.

use std::fmt::Write as _;

use crate::measure::against::{Baseline, Choice, Line, Standing};
use crate::measure::provenance::Provenance;
use crate::measure::results::{Results, Row};
use crate::types::WorldSize;

/// One table a series, each below the sentence that says what it shows. Ends with a line end.
pub fn tables(results: &Results) -> String {
    let tables: Vec<_> =
        Standing::of(&results.rows).iter().map(|standing| table(&results.provenance, standing)).collect();
    tables.join("\n")
}

/// One sentence on the machine and the software, for beside a plot.
pub fn provenance(provenance: &Provenance) -> String {
    let Provenance { date, version, source_hash, driver, cuda, .. } = provenance;
    let day = date.strftime("%Y-%m-%d");
    let machine = provenance.machine();
    let software = if provenance.gpus == 0 {
        String::new()
    } else {
        format!("; driver {driver}, CUDA {cuda}, {}", provenance.libraries())
    };
    format!("Measured on {day} on {machine}{software}; Myelon {version}, sources `{source_hash}`.\n")
}

/// Caption and table of one series: a line a size, microseconds, and how many times faster Myelon is than the fastest baseline.
///
/// A wrong result shows as **wrong** in place of its time; a faster baseline shows as a ratio below 1.
pub fn table(provenance: &Provenance, standing: &Standing<'_>) -> String {
    let series = standing.series;
    let against: Vec<_> = Baseline::ALL.into_iter().filter(|&baseline| standing.has(baseline)).collect();
    let mut text = format!("**{}, {}**: ", ranks(provenance, series.ranks), series.what());
    let _ = write!(text, "p50 of the slowest rank in µs; {}", series.mode());
    if !against.is_empty() {
        let _ = write!(text, "; {}", libraries(provenance, &against));
    }
    if standing.choice == Choice::Fastest {
        text.push_str("; the fastest variant measured at each size");
    }
    if standing.lines.iter().any(has_unverified) {
        text.push_str("; not all results were verified");
    }
    text.push_str(".\n\n| size | Myelon | variant |");
    for baseline in &against {
        let _ = write!(text, " {} |", baseline.label());
    }
    text.push_str(if against.is_empty() { "\n" } else { " ratio |\n" });
    text.push_str("|---:|---:|:---|");
    text.push_str(&"---:|".repeat(against.len() + usize::from(!against.is_empty())));
    text.push('\n');
    for line in &standing.lines {
        let variant = line.ours.map_or("-".to_owned(), |row| format!("`{}`", row.variant));
        let _ = write!(text, "| {} | {} | {variant} |", line.bytes.human(), time(line.ours));
        for &baseline in &against {
            let _ = write!(text, " {} |", time(line.baseline(baseline)));
        }
        if !against.is_empty() {
            let ratio = line.ratio().map_or("-".to_owned(), |ratio| format!("{ratio:.2}×"));
            let _ = write!(text, " {ratio} |");
        }
        text.push('\n');
    }
    text
}

/// Those of the libraries that a table has columns of.
fn libraries(provenance: &Provenance, against: &[Baseline]) -> String {
    let nccl = against.iter().any(|baseline| Baseline::OF_NCCL.contains(baseline)).then(|| provenance.nccl_state());
    let peers = against.iter().filter_map(|baseline| provenance.peers.get(baseline.name()).cloned());
    nccl.into_iter().chain(peers).collect::<Vec<_>>().join("; ")
}

fn ranks(provenance: &Provenance, ranks: WorldSize) -> String {
    if ranks.get() <= provenance.gpus { format!("{ranks} × {}", provenance.gpu) } else { provenance.describe(ranks) }
}

fn has_unverified(line: &Line<'_>) -> bool {
    line.ours.into_iter().chain(line.baselines.into_iter().flatten()).any(|row| row.wrong.is_none())
}

/// A time in three significant digits, which is what repeats on another day can confirm.
pub(crate) fn time(row: Option<&Row>) -> String {
    let Some(row) = row else { return "-".to_owned() };
    if row.is_wrong() {
        return "**wrong**".to_owned();
    }
    match row.time_us.p50 {
        p50 @ ..9.995 => format!("{p50:.2}"),
        p50 @ ..99.95 => format!("{p50:.1}"),
        p50 => format!("{p50:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance as test_provenance;
    use crate::measure::results::tests::row;

    fn results(rows: Vec<Row>) -> Results {
        Results { rows, ..Results::new(test_provenance()) }
    }

    #[test]
    fn a_table_compares_and_names_nccl() {
        let ours = Row { variant: "one_shot_push".into(), ..row(8, 1024, "auto", 2.222) };
        let wrong = Row { wrong: Some(1), ..row(8, 4096, "auto", 2.0) };
        let rows = vec![
            wrong,
            ours,
            row(8, 1024, "nccl", 15.2),
            row(8, 1024, "nccl_symmetric", 4.444),
            row(8, 4096, "nccl", 1360.0),
        ];
        let golden = "\
**8 × NVIDIA H200, f32 sum**: p50 of the slowest rank in µs; graph replay, 20 operations a graph, out of place; NCCL 2.28.9, NVLS off.

| size | Myelon | variant | NCCL | NCCL symmetric | ratio |
|---:|---:|:---|---:|---:|---:|
| 1 KiB | 2.22 | `one_shot_push` | 15.2 | 4.44 | 2.00× |
| 4 KiB | **wrong** | `auto` | 1360 | - | - |
";
        assert_eq!(tables(&results(rows)), golden);
    }

    #[test]
    fn a_caption_names_the_libraries_of_its_table_alone() {
        let rows = ["auto", "nccl"].map(|requested| row(2, 64, requested, 1.0));
        let mut results = results([&rows[..], &[row(4, 64, "auto", 1.0), row(4, 64, "mscclpp", 2.0)]].concat());
        results.provenance.peers.insert("mscclpp".into(), "MSCCL++ 0.9.0, NVLS off".into());
        let text = tables(&results);
        let captions: Vec<_> = text.lines().filter_map(|line| line.split_once("out of place; ")).collect();
        assert_eq!(
            captions.iter().map(|caption| caption.1).collect::<Vec<_>>(),
            ["MSCCL++ 0.9.0, NVLS off.", "NCCL 2.28.9, NVLS off."]
        );
    }

    #[test]
    fn without_a_baseline_there_is_no_ratio() {
        let mut results = results(vec![Row { wrong: None, ..row(2, 1024, "ring", 9.996) }]);
        results.provenance.gpus = 0;
        let text = tables(&results);
        assert!(text.contains("**2 CPU ranks, f32 sum**") && !text.contains("NCCL"), "{text}");
        assert!(text.contains("the fastest variant") && text.contains("not all results were verified"), "{text}");
        assert!(
            text.contains("\n| size | Myelon | variant |\n|---:|---:|:---|\n| 1 KiB | 10.0 | `ring` |\n"),
            "{text}"
        );
    }

    #[test]
    fn tables_are_apart_by_an_empty_line() {
        let text = tables(&results(vec![row(2, 64, "auto", 1.0), row(8, 64, "auto", 1.0)]));
        assert_eq!(text.matches("**:").count(), 2);
        assert!(text.contains("|\n\n**2 × "), "{text}");
    }

    #[test]
    fn provenance_is_a_sentence() {
        let expected = "Measured on 2026-11-20 on 8x NVIDIA H200, NV18; driver 580.159, CUDA 13.0, NCCL 2.28.9, NVLS off; Myelon 0.1.0, sources `1a2b3c4d`.\n";
        assert_eq!(provenance(&test_provenance()), expected);
    }
}

//! Rows as comma-separated values, for spreadsheets and plotting scripts.

use std::path::Path;

use crate::error::{Error, Result};
use crate::measure::against::Baseline;
use crate::measure::output;
use crate::measure::results::Results;

/// The columns, in order: the JSON's fields. Behind them is a ratio for each [`Baseline`] that has rows.
const COLUMNS: [&str; 33] = [
    "collective",
    "ranks",
    "bytes",
    "dtype",
    "op",
    "requested",
    "variant",
    "lanes",
    "threads",
    "chunk",
    "stages",
    "stage_packs",
    "producer_warps",
    "slots",
    "copied",
    "wait",
    "sync",
    "places",
    "metadata",
    "launch",
    "output",
    "in_place",
    "registered",
    "graph",
    "batch",
    "p50_us",
    "p99_us",
    "min_us",
    "between_us",
    "host_us",
    "algbw_gbps",
    "busbw_gbps",
    "wrong",
];

/// One header line and one line a row; what is not known is empty. Numbers are exact, ratios as in [`Baseline::ratio`].
///
/// Errors: [`Error::Io`] only if memory runs out in the writer.
pub fn render(results: &Results) -> Result<String> {
    let failed = |error: ::csv::Error| Error::io("cannot write CSV", std::io::Error::other(error));
    let mut writer = ::csv::Writer::from_writer(Vec::new());
    let against = Baseline::among(&results.rows);
    let ratios = against.iter().map(|baseline| format!("vs_{baseline}"));
    writer.write_record(COLUMNS.map(str::to_owned).into_iter().chain(ratios)).map_err(failed)?;
    for row in &results.rows {
        let optional = |number: Option<f64>| number.map_or(String::new(), |number| number.to_string());
        let record: [String; COLUMNS.len()] = [
            row.collective.to_string(),
            row.ranks.to_string(),
            row.bytes.to_string(),
            row.dtype.to_string(),
            row.operator().to_owned(),
            row.requested.clone(),
            row.variant.clone(),
            row.lanes.to_string(),
            row.threads.to_string(),
            row.chunk.to_string(),
            row.stages.to_string(),
            row.stage_packs.to_string(),
            row.producer_warps.to_string(),
            row.slots.to_string(),
            row.copied.to_string(),
            row.wait.map_or(String::new(), |wait| wait.to_string()),
            row.sync.map_or(String::new(), |sync| sync.to_string()),
            row.places.map_or(String::new(), |places| places.to_string()),
            row.metadata.map_or(String::new(), |metadata| metadata.to_string()),
            row.launch.map_or(String::new(), |launch| launch.to_string()),
            row.output.map_or(String::new(), |output| output.to_string()),
            row.in_place.to_string(),
            row.registered.to_string(),
            row.graph.to_string(),
            row.batch.to_string(),
            row.time_us.p50.to_string(),
            row.time_us.p99.to_string(),
            row.time_us.min.to_string(),
            optional(row.between_us),
            optional(row.host_us),
            row.algbw_gbps.to_string(),
            row.busbw_gbps.to_string(),
            row.wrong.map_or(String::new(), |wrong| wrong.to_string()),
        ];
        let ratios = against.iter().map(|baseline| optional(baseline.ratio(row, &results.rows)));
        writer.write_record(record.into_iter().chain(ratios)).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
    String::from_utf8(bytes).map_err(|error| Error::io("cannot write CSV", std::io::Error::other(error)))
}

/// Replaces `path` at once by [`render`]'s text.
///
/// Errors: as [`output::replace`].
pub fn write(results: &Results, path: &Path) -> Result<()> {
    output::replace(path, &render(results)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::Row;
    use crate::measure::results::tests::row;
    use crate::types::{Collective, Wait};

    #[test]
    fn rows_are_flat_and_quoted_where_needed() {
        let mut results = Results::new(provenance());
        let (stages, wait) = (3, Some(Wait::Adaptive));
        let odd = Row {
            variant: "a,b".into(),
            lanes: 4,
            threads: 256,
            stages,
            wait,
            host_us: Some(2.5),
            ..row(2, 1000, "auto", 2.0)
        };
        results.rows = vec![odd, Row { wrong: None, ..row(2, 1000, "nccl", 5.0) }];
        let text = render(&results).unwrap();
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines[0], format!("{},vs_nccl", COLUMNS.join(",")));
        assert_eq!(
            lines[1],
            r#"all_reduce,2,1000,f32,sum,auto,"a,b",4,256,0,3,0,0,0,0,adaptive,,,,,,false,false,20,0,2,3,1,,2.5,0.5,0.5,0,2.5"#
        );
        assert_eq!(
            lines[2],
            "all_reduce,2,1000,f32,sum,nccl,nccl,0,0,0,0,0,0,0,0,,,,,,,false,false,20,0,5,7.5,2.5,,,0.2,0.2,,1"
        );
        assert_eq!(lines.len(), 3);
        results.rows = vec![Row { collective: Collective::AllGather, ..row(2, 1000, "auto", 2.0) }];
        assert!(render(&results).unwrap().lines().nth(1).unwrap().starts_with("all_gather,2,1000,f32,none,auto,"));
    }
}

//! The stored form of a benchmark run: one JSON file, with where it was taken.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::measure::bandwidth::Bandwidth;
use crate::measure::case::{Case, Series};
use crate::measure::provenance::Provenance;
use crate::measure::size::Bytes;
use crate::measure::stats::Summary;
use crate::measure::stored::{Stored, json, lines};
use crate::types::{Collective, DType, Launching, Metadata, Output, Places, ReduceOp, SyncPolicy, Wait, WorldSize};

/// Number of the form described here. A change that an old reader would get wrong takes the next one.
pub const SCHEMA: u32 = 1;

/// One run of the benchmark.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Results {
    /// [`SCHEMA`].
    pub schema: u32,
    /// Where, when and with what the rows were measured.
    pub provenance: Provenance,
    /// Measurements in the order they were finished.
    pub rows: Vec<Row>,
}

/// One candidate's time for one case.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// What the ranks did; an all-reduce in files older than this field.
    #[serde(default)]
    pub collective: Collective,
    /// Ranks that took part.
    pub ranks: WorldSize,
    /// Message size, of all parts together where the collective has parts.
    pub bytes: u64,
    /// Element type.
    pub dtype: DType,
    /// Operator.
    pub op: ReduceOp,
    /// Candidate as it was asked for: `auto`, a variant's name, or a baseline's.
    pub requested: String,
    /// Variant that ran; differs from `requested` where that says `auto`.
    pub variant: String,
    /// CTAs that ran; 0 where a baseline chose for itself.
    pub lanes: u32,
    /// Threads a CTA; 0 as for `lanes`.
    pub threads: u32,
    /// Bytes a lane moves per step; 0 where the variant has no steps, and in files older than this field.
    #[serde(default)]
    pub chunk: u64,
    /// Stages of a pipeline; 0 as for `chunk`.
    #[serde(default)]
    pub stages: u32,
    /// Packs of a stage for each thread that is not of a producer warp; 0 as for `chunk`.
    #[serde(default)]
    pub stage_packs: u32,
    /// Warps that fill stages; 0 as for `chunk`.
    #[serde(default)]
    pub producer_warps: u32,
    /// Slots of a ring; 0 as for `chunk`.
    #[serde(default)]
    pub slots: u32,
    /// Sixteenths of a message that copies carry beside a kernel; 0 as for `chunk`.
    #[serde(default)]
    pub copied: u32,
    /// What a thread does between two polls; null as `chunk` is 0, and for a baseline.
    #[serde(default)]
    pub wait: Option<Wait>,
    /// How many barriers of the CTA there are; null as for `wait`.
    #[serde(default)]
    pub sync: Option<SyncPolicy>,
    /// Where fetched packs lie in shared memory; null as for `wait`.
    #[serde(default)]
    pub places: Option<Places>,
    /// How consumer warps learn which piece lies in a stage; null as for `wait`.
    #[serde(default)]
    pub metadata: Option<Metadata>,
    /// How the steps of a ring are launched; null as for `wait`.
    #[serde(default)]
    pub launch: Option<Launching>,
    /// How results got into the output; null as for `wait`.
    #[serde(default)]
    pub output: Option<Output>,
    /// Whether each rank's result replaced its operand.
    pub in_place: bool,
    /// Whether results went into a window that all ranks registered; false in files older than this field, and of no meaning for
    /// baselines, which have their own.
    #[serde(default)]
    pub registered: bool,
    /// Operations in each replayed graph; 0 for host launches. Above 1, times are of the replays' means.
    pub graph: u32,
    /// Operations in each call of the host's; 0 where each was a call of its own, and in files older than this field. Above 1,
    /// times are of the batches' means.
    #[serde(default)]
    pub batch: u32,
    /// Slowest rank's time over the repeats, microseconds an operation.
    pub time_us: Summary,
    /// With a small kernel behind each operation, as a program has them: p50 of such kernels alone, one after another, microseconds
    /// each. `time_us` includes it. Null without, and in files older than this field.
    #[serde(default)]
    pub between_us: Option<f64>,
    /// What rank 0's host spends in a call, microseconds an operation; null where it was not taken, and in files older than
    /// this field.
    #[serde(default)]
    pub host_us: Option<f64>,
    /// [`Bandwidth::algbw_gbps`] of the p50.
    pub algbw_gbps: f64,
    /// [`Bandwidth::busbw_gbps`] of the p50.
    pub busbw_gbps: f64,
    /// Wrong elements over all ranks; null where results were not verified.
    pub wrong: Option<u64>,
}

impl Row {
    /// A row with its bandwidths filled in; both names alike, no lanes known: set what is.
    pub fn measured(case: Case, requested: &str, time_us: Summary, wrong: Option<u64>) -> Self {
        let Case { series, bytes } = case;
        let bandwidth = Bandwidth::of(series.collective, bytes, time_us.p50, series.ranks);
        Self {
            collective: series.collective,
            ranks: series.ranks,
            bytes: bytes.0,
            dtype: series.dtype,
            op: series.op,
            requested: requested.to_owned(),
            variant: requested.to_owned(),
            lanes: 0,
            threads: 0,
            chunk: 0,
            stages: 0,
            stage_packs: 0,
            producer_warps: 0,
            slots: 0,
            copied: 0,
            wait: None,
            sync: None,
            places: None,
            metadata: None,
            launch: None,
            output: None,
            in_place: series.in_place,
            registered: series.registered,
            graph: series.graph,
            batch: series.batch,
            time_us,
            between_us: None,
            host_us: None,
            algbw_gbps: bandwidth.algbw_gbps,
            busbw_gbps: bandwidth.busbw_gbps,
            wrong,
        }
    }

    /// What was measured, apart from the candidate and its time.
    pub fn case(&self) -> Case {
        let &Self { collective, ranks, dtype, op, in_place, registered, graph, batch, bytes, .. } = self;
        let between = self.between_us.is_some();
        Series { collective, ranks, dtype, op, in_place, registered, graph, batch, between }.at(Bytes(bytes))
    }

    /// The operator's name, or `none` where the collective has none, as nccl-tests prints it.
    pub fn operator(&self) -> &'static str {
        if self.collective.has_operator() { self.op.name() } else { "none" }
    }

    /// Whether verification found a wrong element. A time of such a row means nothing.
    pub fn is_wrong(&self) -> bool {
        self.wrong.is_some_and(|wrong| wrong > 0)
    }

    /// How far the repeats lie apart: p50 less the fastest. Not p99, which one interruption in twenty repeats sets.
    pub fn scatter_us(&self) -> f64 {
        self.time_us.p50 - self.time_us.min
    }

    /// How many times faster this is than `other`; above 1 it wins. None where either was wrong, and for a time of zero.
    pub fn speedup_over(&self, other: &Self) -> Option<f64> {
        let valid = !self.is_wrong() && !other.is_wrong() && self.time_us.p50 > 0.0;
        valid.then(|| other.time_us.p50 / self.time_us.p50)
    }

    /// What no run can give, in words that follow the row's place.
    pub(crate) fn check(&self) -> Result<(), String> {
        let numbers = [self.time_us.p50, self.time_us.p99, self.time_us.min, self.algbw_gbps, self.busbw_gbps];
        if numbers.into_iter().chain(self.host_us).any(|number| !number.is_finite() || number < 0.0) {
            return Err("times and bandwidths must be finite and not negative".to_owned());
        }
        let Summary { p50, p99, min } = self.time_us;
        if min > p50 || p50 > p99 {
            return Err(format!("time_us must ascend from min to p50 to p99, not {min}, {p50}, {p99}"));
        }
        Ok(())
    }
}

impl Results {
    /// An empty run.
    pub fn new(provenance: Provenance) -> Self {
        Self { schema: SCHEMA, provenance, rows: Vec::new() }
    }
}

impl Stored for Results {
    const SCHEMA: u32 = SCHEMA;
    const WHAT: &str = "a results file";
    const WRITER: &str = "--json";

    fn check(&self) -> Result<(), (String, String)> {
        let check = |(index, row): (usize, &Row)| row.check().map_err(|detail| (format!("rows[{index}]"), detail));
        self.rows.iter().enumerate().try_for_each(check)
    }

    fn body(&self) -> Result<String> {
        Ok(format!("\"provenance\":{},\n\"rows\":{}", json(&self.provenance)?, lines(self.rows.iter().map(json))?))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;

    /// A correct row that took `p50` microseconds for f32 sums out of place, 20 to a graph.
    pub(crate) fn row(ranks: u32, bytes: u64, requested: &str, p50: f64) -> Row {
        let ranks = WorldSize::new(ranks).unwrap();
        let series = Series {
            collective: Collective::AllReduce,
            ranks,
            dtype: DType::F32,
            op: ReduceOp::Sum,
            in_place: false,
            registered: false,
            graph: 20,
            batch: 0,
            between: false,
        };
        let time_us = Summary { p50, p99: p50 * 1.5, min: p50 * 0.5 };
        Row::measured(series.at(Bytes(bytes)), requested, time_us, Some(0))
    }

    #[test]
    fn the_file_has_the_documented_fields() {
        let mut results = Results::new(provenance());
        let (chunk, slots, wait) = (4096, 4, Some(Wait::Spin));
        let ran =
            Row { variant: "ring".into(), lanes: 16, threads: 512, chunk, slots, wait, ..row(8, 1024, "auto", 4.0) };
        let ran = Row { host_us: Some(2.5), ..ran };
        results.rows = vec![ran, Row { wrong: None, ..row(8, 1024, "nccl", 8.0) }];
        assert_eq!(
            results.to_json().unwrap(),
            r#"{"schema":1,
"provenance":{"date":"2026-11-20T10:00:00Z","version":"0.1.0","source_hash":"1a2b3c4d","gpu":"NVIDIA H200","gpus":8,"link":"NV18","driver":"580.159","cuda":"13.0","nccl":"2.28.9","nvls":"off","cpu":"Test CPU"},
"rows":[
{"collective":"all_reduce","ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"auto","variant":"ring","lanes":16,"threads":512,"chunk":4096,"stages":0,"stage_packs":0,"producer_warps":0,"slots":4,"copied":0,"wait":"spin","sync":null,"places":null,"metadata":null,"launch":null,"output":null,"in_place":false,"registered":false,"graph":20,"batch":0,"time_us":{"p50":4.0,"p99":6.0,"min":2.0},"between_us":null,"host_us":2.5,"algbw_gbps":0.256,"busbw_gbps":0.448,"wrong":0},
{"collective":"all_reduce","ranks":8,"bytes":1024,"dtype":"f32","op":"sum","requested":"nccl","variant":"nccl","lanes":0,"threads":0,"chunk":0,"stages":0,"stage_packs":0,"producer_warps":0,"slots":0,"copied":0,"wait":null,"sync":null,"places":null,"metadata":null,"launch":null,"output":null,"in_place":false,"registered":false,"graph":20,"batch":0,"time_us":{"p50":8.0,"p99":12.0,"min":4.0},"between_us":null,"host_us":null,"algbw_gbps":0.128,"busbw_gbps":0.224,"wrong":null}
]}
"#
        );
    }

    #[test]
    fn files_round_trip() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run.json");
        let mut results = Results::new(Provenance::of_this_host("0"));
        results.write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results, "without rows");
        results.rows = vec![row(2, 1, "auto", 1.0 / 3.0)];
        results.write(&path).unwrap();
        assert_eq!(Results::read(&path).unwrap(), results);
    }

    #[test]
    fn files_older_than_a_shape_are_read() {
        let mut results = Results::new(provenance());
        results.rows = vec![row(2, 1, "auto", 1.0)];
        let text = results.to_json().unwrap();
        let shape = "\"chunk\":0,\"stages\":0,\"stage_packs\":0,\"producer_warps\":0,\"slots\":0,\"copied\":0,\"wait\":null,\
                     \"sync\":null,\"places\":null,\"metadata\":null,\"launch\":null,\"output\":null,";
        let mut older = text.clone();
        for part in
            ["\"collective\":\"all_reduce\",", shape, "\"registered\":false,", "\"batch\":0,", "\"host_us\":null,"]
        {
            assert!(older.contains(part), "{part}");
            older = older.replace(part, "");
        }
        assert_eq!(Results::parse(&older, "x.json").unwrap(), results);
    }

    #[test]
    fn bad_files_are_named_with_the_place() {
        let mut results = Results::new(provenance());
        results.rows = vec![row(2, 1024, "auto", 1.0)];
        let good = results.to_json().unwrap();
        assert!(Results::parse(&good, "x.json").is_ok());
        for (bad, expected) in [
            (good.replace("\"schema\":1", "\"schema\":2"), "x.json: schema: 2 is not the one known, 1"),
            (good.replace("\"schema\":1", "\"schema\":2,\"new\":0"), "x.json: schema: 2 is not the one known, 1"),
            (good.replace("\"gpus\":8", "\"gpuz\":8"), "x.json: line 2: not a results file (unknown field `gpuz`"),
            (good.replace("\"f32\"", "\"f31\""), "unknown data type 'f31'"),
            (good.replace("\"ranks\":2", "\"ranks\":9"), "a world of 9 ranks"),
            (good.replace("\"p50\":1.0", "\"p50\":7.0"), "x.json: rows[0]: time_us must ascend"),
            (good.replace("\"min\":0.5", "\"min\":-0.5"), "x.json: rows[0]: times and bandwidths"),
            (good.replace("\"host_us\":null", "\"host_us\":-1"), "x.json: rows[0]: times and bandwidths"),
            ("[]".to_owned(), "not a results file"),
            (String::new(), "not a results file"),
        ] {
            let message = Results::parse(&bad, "x.json").unwrap_err().to_string();
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn numbers_no_reader_takes_are_not_written() {
        let mut results = Results::new(provenance());
        results.rows = vec![row(2, 1024, "auto", f64::NAN)];
        assert!(results.to_json().unwrap_err().to_string().contains("rows[0]"));
    }
}

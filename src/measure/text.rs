//! nccl-tests' table: a header that names machine and ranks, then a line a measurement as it is finished.

use std::fmt::{self, Write as _};

use crate::measure::against::Baseline;
use crate::measure::provenance::Provenance;
use crate::measure::results::Row;
use crate::measure::size::Bytes;

/// `1 row`, or `2 rows`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// One rank's line in the header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RankLine {
    /// The rank.
    pub rank: u32,
    /// Process it runs in.
    pub process: u32,
    /// Host it runs on.
    pub host: String,
    /// Device by number, name and identity.
    pub device: String,
}

/// Prints header, rows and footer of one run; every part is text that ends with a line end, for rank 0 to print.
#[derive(Clone, Debug, Default)]
pub struct TextTable {
    against: Vec<Baseline>,
    shapes: bool,
    rows: u64,
    wrong: u64,
    unverified: u64,
    /// Of each candidate: the sum over its right rows, and their number.
    busbw: Vec<(String, f64, u64)>,
}

impl TextTable {
    /// A table with a ratio column for each of these baselines, and with `shapes` every row's parameters at its end.
    pub fn new(against: &[Baseline], shapes: bool) -> Self {
        Self { against: against.to_vec(), shapes, ..Self::default() }
    }

    /// The [`preamble`] and column titles, every line behind a `#`.
    pub fn header(&self, provenance: &Provenance, settings: &str, ranks: &[RankLine]) -> String {
        let mut text = preamble(provenance, settings, ranks);
        let units = ["(B)", "(elements)", "", "", "", "", "(us)", "(us)", "(GB/s)", "(GB/s)"];
        let titles = ["size", "count", "type", "redop", "variant", "lanes", "p50", "p99", "algbw", "busbw"];
        let ratios: Vec<_> = self.against.iter().copied().map(ratio_title).collect();
        let titles =
            Columns { fixed: titles.map(str::to_owned), against: &self.against, ratios: &ratios, wrong: "#wrong" };
        let blank = vec![String::new(); ratios.len()];
        let units = Columns { fixed: units.map(str::to_owned), against: &self.against, ratios: &blank, wrong: "" };
        let _ = writeln!(text, "#{}\n#{}", titles.to_string().trim_end(), units.to_string().trim_end());
        text
    }

    /// One measurement. `ratios` belong to the baselines this table was made with, in order; see [`Baseline::ratio`].
    pub fn row(&mut self, row: &Row, ratios: &[Option<f64>]) -> String {
        self.rows += 1;
        match row.wrong {
            Some(wrong) => self.wrong += wrong,
            None => self.unverified += 1,
        }
        if !row.is_wrong() {
            let known = self.busbw.iter().position(|(requested, ..)| *requested == row.requested);
            let place = known.unwrap_or_else(|| {
                self.busbw.push((row.requested.clone(), 0.0, 0));
                self.busbw.len() - 1
            });
            let (_, sum, rows) = &mut self.busbw[place];
            *sum += row.busbw_gbps;
            *rows += 1;
        }
        let fixed = [
            row.bytes.to_string(),
            row.case().bytes.elements(row.dtype).to_string(),
            row.dtype.to_string(),
            row.operator().to_owned(),
            row.variant.clone(),
            if row.lanes == 0 { "-".to_owned() } else { row.lanes.to_string() },
            fixed_width(row.time_us.p50),
            fixed_width(row.time_us.p99),
            fixed_width(row.algbw_gbps),
            fixed_width(row.busbw_gbps),
        ];
        let ratio = |index| ratios.get(index).copied().flatten().map_or("-".to_owned(), |ratio| format!("{ratio:.2}x"));
        let ratios: Vec<_> = (0..self.against.len()).map(ratio).collect();
        let wrong = row.wrong.map_or("N/A".to_owned(), |wrong| wrong.to_string());
        let shape = if self.shapes { shape(row) } else { String::new() };
        format!(" {}{shape}\n", Columns { fixed, against: &self.against, ratios: &ratios, wrong: &wrong })
    }

    /// Verdict over the rows printed so far, and the average over the right ones of each candidate.
    pub fn footer(&self) -> String {
        let verdict = match (self.wrong, self.unverified) {
            (0, 0) => "OK".to_owned(),
            (0, unverified) => format!("OK, but {unverified} of {} measurements were not verified", self.rows),
            _ => "FAILED".to_owned(),
        };
        let average = |&(_, sum, rows): &(String, f64, u64)| fixed_width(sum / rows as f64);
        let averages = match &self.busbw[..] {
            [] => fixed_width(0.0),
            [alone] => average(alone),
            several => {
                let each: Vec<_> = several.iter().map(|it| format!("{} {}", it.0, average(it).trim())).collect();
                each.join(", ")
            }
        };
        format!("# wrong elements    : {} {verdict}\n# avg bus bandwidth : {averages}\n", self.wrong)
    }

    /// Wrong elements over the rows printed so far; the exit status depends on it.
    pub fn wrong(&self) -> u64 {
        self.wrong
    }
}

/// Provenance, settings and ranks, every line behind a `#`.
pub fn preamble(provenance: &Provenance, settings: &str, ranks: &[RankLine]) -> String {
    let Provenance { date, version, source_hash, driver, cuda, cpu, .. } = provenance;
    let mut text = format!("# myelon-perf {version} (sources {source_hash}), {date}\n");
    let _ =
        writeln!(text, "# {}; driver {driver}, CUDA {cuda}, {}; {cpu}", provenance.machine(), provenance.libraries());
    let _ = writeln!(text, "# {settings}");
    let _ = writeln!(text, "#\n# using devices");
    for RankLine { rank, process, host, device } in ranks {
        let _ = writeln!(text, "#  rank {rank:>2}  pid {process:>7} on {host:>10}  device {device}");
    }
    text.push_str("#\n");
    text
}

/// One line of the table, aligned.
struct Columns<'a> {
    fixed: [String; 10],
    against: &'a [Baseline],
    ratios: &'a [String],
    wrong: &'a str,
}

impl fmt::Display for Columns<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [size, count, dtype, op, variant, lanes, p50, p99, algbw, busbw] = &self.fixed;
        write!(f, "{size:>12}  {count:>12}  {dtype:>6}  {op:>6}  {variant:>20}  {lanes:>5}")?;
        write!(f, "  {p50:>8}  {p99:>8}  {algbw:>7}  {busbw:>7}")?;
        for (ratio, baseline) in self.ratios.iter().zip(self.against) {
            write!(f, "  {ratio:>width$}", width = ratio_title(*baseline).len().max(8))?;
        }
        write!(f, "  {:>7}", self.wrong)
    }
}

/// What a row has besides lanes: `name=value` with a space before each.
fn shape(row: &Row) -> String {
    let parts = [
        ("threads", (row.threads > 0).then(|| row.threads.to_string())),
        ("chunk", (row.chunk > 0).then(|| Bytes(row.chunk).to_string())),
        ("stages", (row.stages > 0).then(|| row.stages.to_string())),
        ("stage_packs", (row.stage_packs > 0).then(|| row.stage_packs.to_string())),
        ("producer_warps", (row.producer_warps > 0).then(|| row.producer_warps.to_string())),
        ("slots", (row.slots > 0).then(|| row.slots.to_string())),
        ("copied", (row.copied > 0).then(|| row.copied.to_string())),
        ("wait", row.wait.map(|wait| wait.to_string())),
        ("sync", row.sync.map(|sync| sync.to_string())),
        ("places", row.places.map(|places| places.to_string())),
        ("metadata", row.metadata.map(|metadata| metadata.to_string())),
        ("launch", row.launch.map(|launch| launch.to_string())),
        ("output", row.output.map(|output| output.to_string())),
    ];
    let parts = parts.into_iter().filter_map(|(name, value)| Some(format!(" {name}={}", value?)));
    parts.collect()
}

fn ratio_title(baseline: Baseline) -> String {
    format!("vs {baseline}")
}

/// A number in at most seven characters up to 9999999, with as many decimals as that leaves, two at most.
fn fixed_width(number: f64) -> String {
    match number {
        ..9999.995 => format!("{number:.2}"),
        ..99999.95 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;
    use crate::types::Wait;

    #[test]
    fn the_whole_table() {
        let against = [Baseline::Nccl];
        let mut table = TextTable::new(&against, false);
        let rank = |rank| RankLine {
            rank,
            process: 4711,
            host: "node".into(),
            device: format!("{rank} NVIDIA H200 [0000:1b:00.0]"),
        };
        let mut text = table.header(&provenance(), "5 warm-ups, 20 repeats", &[rank(0), rank(1)]);
        let ours = Row { variant: "one_shot_push".into(), lanes: 8, ..row(8, 1024, "auto", 2.22) };
        let nccl = Row { wrong: None, ..row(8, 1024, "nccl", 15.2) };
        let slow = Row { wrong: Some(12), ..row(8, 1 << 30, "ring", 123_456.7) };
        let rows = [ours, nccl, slow];
        for row in &rows {
            text += &table.row(row, &against.map(|baseline| baseline.ratio(row, &rows)));
        }
        text += &table.footer();
        assert_eq!(table.wrong(), 12);
        let golden = "\
# myelon-perf 0.1.0 (sources 1a2b3c4d), 2026-11-20T10:00:00Z
# 8x NVIDIA H200, NV18; driver 580.159, CUDA 13.0, NCCL 2.28.9, NVLS off; Test CPU
# 5 warm-ups, 20 repeats
#
# using devices
#  rank  0  pid    4711 on       node  device 0 NVIDIA H200 [0000:1b:00.0]
#  rank  1  pid    4711 on       node  device 1 NVIDIA H200 [0000:1b:00.0]
#
#        size         count    type   redop               variant  lanes       p50       p99    algbw    busbw   vs nccl   #wrong
#         (B)    (elements)                                                   (us)      (us)   (GB/s)   (GB/s)
         1024           256     f32     sum         one_shot_push      8      2.22      3.33     0.46     0.81     6.85x        0
         1024           256     f32     sum                  nccl      -     15.20     22.80     0.07     0.12     1.00x      N/A
   1073741824     268435456     f32     sum                  ring      -    123457    185185     8.70    15.22         -       12
# wrong elements    : 12 FAILED
# avg bus bandwidth : auto 0.81, nccl 0.12
";
        assert_eq!(text, golden, "\n{text}");
    }

    #[test]
    fn an_unverified_run_says_so() {
        let mut table = TextTable::new(&[], false);
        assert!(table.footer().contains(": 0 OK\n"));
        table.row(&Row { wrong: None, ..row(2, 64, "auto", 1.0) }, &[]);
        assert!(table.footer().contains("0 OK, but 1 of 1 measurements were not verified"));
    }

    #[test]
    fn shapes_stand_behind_a_row_where_they_are_asked_for() {
        let ours = Row { threads: 512, chunk: 65536, slots: 4, wait: Some(Wait::Spin), ..row(2, 64, "ring", 1.0) };
        let line = |shapes, row: &Row| TextTable::new(&[], shapes).row(row, &[]);
        assert!(line(true, &ours).ends_with(" 0 threads=512 chunk=64K slots=4 wait=spin\n"), "{}", line(true, &ours));
        assert!(line(false, &ours).ends_with(" 0\n"));
        assert!(line(true, &row(2, 64, "nccl", 1.0)).ends_with(" 0\n"));
    }

    #[test]
    fn numbers_fit_their_columns() {
        let widths = [
            (0.0, "0.00"),
            (9999.99, "9999.99"),
            (9999.999, "10000.0"),
            (99_999.96, "100000"),
            (9_999_999.0, "9999999"),
        ];
        for (number, text) in widths {
            assert_eq!(fixed_width(number), text);
        }
    }
}

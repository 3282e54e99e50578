//! Stored all-reduces as one page for a browser: curves with values under the pointer, filters, tables. Nothing is loaded from
//! elsewhere, so it works from a file, in an e-mail, and in ten years.
//!
//! What is shown of a row is decided here: which candidate stands for whom, how it is called, and what the hardware allows. The
//! scripts know sizes, times and curves alone.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::error::{Error, Result};
use crate::measure::against::{AUTO, Baseline};
use crate::measure::ceiling::{Floor, LinkRate, link_rate};
use crate::measure::markdown;
use crate::measure::provenance::Provenance;
use crate::measure::results::{Results, Row};
use crate::measure::size::Bytes;
use crate::measure::stored::json;
use crate::types::{Collective, WorldSize};

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("page.css");
/// In the order in which they need each other.
const SCRIPTS: [&str; 3] = [include_str!("axis.js"), include_str!("chart.js"), include_str!("page.js")];

/// One machine's results as the scripts read them.
#[derive(Serialize)]
struct Machine<'a> {
    name: String,
    about: String,
    baselines: String,
    link: Option<LinkRate>,
    floor: Option<FloorTimes>,
    rows: Vec<Entry<'a>>,
}

/// The floor at each power of two that was measured around, by number of ranks.
#[derive(Serialize)]
struct FloorTimes {
    source: &'static str,
    times_us: BTreeMap<u32, Vec<(u64, f64)>>,
}

/// A row, and what the page calls it.
#[derive(Serialize)]
struct Entry<'a> {
    #[serde(flatten)]
    row: &'a Row,
    label: &'a str,
    kind: Kind,
    /// How operations were issued.
    mode: String,
    is_wrong: bool,
}

/// Whose time it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Kind {
    /// Myelon's, as users get it.
    Auto,
    /// Myelon's, one variant asked for by name.
    Variant,
    /// A baseline's.
    Baseline,
}

impl<'a> Entry<'a> {
    fn of(row: &'a Row) -> Self {
        let (label, kind) = match Baseline::of(row) {
            Some(baseline) => (baseline.label(), Kind::Baseline),
            None if row.requested == AUTO => ("Myelon", Kind::Auto),
            None => (row.requested.as_str(), Kind::Variant),
        };
        Self { row, label, kind, mode: row.case().series.mode(), is_wrong: row.is_wrong() }
    }
}

impl<'a> Machine<'a> {
    fn of(results: &'a Results, link: Option<&LinkRate>) -> Self {
        let provenance = &results.provenance;
        Self {
            name: provenance.machine(),
            about: about(provenance),
            baselines: if provenance.gpus == 0 { String::new() } else { provenance.libraries() },
            link: link.cloned().or_else(|| link_rate(provenance)),
            floor: Floor::of(provenance).map(|floor| FloorTimes::of(floor, &results.rows)),
            rows: results.rows.iter().filter(|row| is_shown(row)).map(Entry::of).collect(),
        }
    }
}

/// Whether a page has rows of this collective: the floor is of all-reduces.
pub fn takes(row: &Row) -> bool {
    row.collective == Collective::AllReduce
}

/// What a page is of, and has a place on logarithmic axes.
fn is_shown(row: &Row) -> bool {
    takes(row) && row.bytes > 0 && row.time_us.p50 > 0.0
}

/// The sentence of the README, and whether the times mean anything.
fn about(provenance: &Provenance) -> String {
    let sentence = markdown::provenance(provenance).replace('`', "");
    let caution =
        if provenance.gpus == 0 { " These are the real kernels on the CPU; the times mean nothing." } else { "" };
    format!("{}{caution}", sentence.trim_end())
}

impl FloorTimes {
    fn of(floor: Floor, rows: &[Row]) -> Self {
        let mut sizes: BTreeMap<WorldSize, BTreeSet<u64>> = BTreeMap::new();
        for row in rows.iter().filter(|row| is_shown(row)) {
            sizes.entry(row.ranks).or_default().insert(row.bytes);
        }
        let points = |(ranks, sizes): (WorldSize, BTreeSet<u64>)| {
            let (first, last) = (sizes.first().copied().unwrap_or(1), sizes.last().copied().unwrap_or(1));
            let between = (0..64).map(|power| 1_u64 << power).filter(|size| (first..last).contains(size));
            let sizes: BTreeSet<u64> = [first, last].into_iter().chain(between).collect();
            (ranks.get(), sizes.into_iter().map(|size| (size, floor.time_us(ranks, Bytes(size)))).collect())
        };
        Self { source: Floor::SOURCE, times_us: sizes.into_iter().map(points).collect() }
    }
}

/// The page of these machines, in their order. `link` stands for the nominal rate of all, where it is given.
///
/// Errors: [`Error::InvalidArgument`] if there is no row to show.
pub fn page(machines: &[Results], link: Option<&LinkRate>) -> Result<String> {
    let machines: Vec<_> = machines.iter().map(|results| Machine::of(results, link)).collect();
    let machines: Vec<_> = machines.into_iter().filter(|machine| !machine.rows.is_empty()).collect();
    if machines.is_empty() {
        return Err(Error::invalid("no rows of all-reduces to show: measure some first"));
    }
    // An end tag in a name would end the element that holds the data.
    let data = json(&machines)?.replace('<', "\\u003c");
    // The data last: nothing in it is taken for a place to fill.
    Ok(PAGE.replace("{{style}}", STYLE).replace("{{script}}", &SCRIPTS.join("\n")).replacen("{{data}}", &data, 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;

    fn shown(rows: Vec<Row>) -> String {
        page(&[Results { rows, ..Results::new(provenance()) }], None).unwrap()
    }

    /// What the scripts would read.
    fn data(page: &str) -> serde_json::Value {
        let (_, rest) = page.split_once("<script type=\"application/json\" id=\"data\">").unwrap();
        serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
    }

    #[test]
    fn every_row_is_there_under_its_name() {
        let wrong = Row { wrong: Some(1), ..row(2, 1024, "ring", 9.0) };
        let page = shown(vec![row(2, 1024, "auto", 2.0), wrong, row(2, 1024, "nccl_symmetric", 3.0)]);
        let data = data(&page);
        assert_eq!((&data[0]["name"], &data[0]["link"]["gbps"]), (&"8x NVIDIA H200, NV18".into(), &450.0.into()));
        let rows = data[0]["rows"].as_array().unwrap();
        let words =
            |row: &serde_json::Value| [&row["label"], &row["kind"]].map(|word| word.as_str().unwrap().to_owned());
        let names: Vec<_> = rows.iter().map(words).collect();
        assert_eq!(names, [["Myelon", "auto"], ["ring", "variant"], ["NCCL symmetric", "baseline"]]);
        assert_eq!((&rows[1]["is_wrong"], &rows[0]["time_us"]["p50"]), (&true.into(), &2.0.into()));
    }

    #[test]
    fn nothing_is_loaded_and_no_place_is_left_unfilled() {
        let page = shown(vec![row(2, 1024, "auto", 2.0)]);
        for outside in ["src=", "href=", "@import", "url(", "fetch(", "https:"] {
            assert!(!page.contains(outside), "{outside}");
        }
        // The name of SVG's elements, which is no address.
        assert_eq!(page.matches("http").count(), page.matches("http://www.w3.org/2000/svg").count());
        assert!(!page.contains("{{"));
    }

    #[test]
    fn times_of_the_cpu_are_said_to_mean_nothing() {
        let about = |gpus| about(&Provenance { gpus, ..provenance() });
        assert!(about(0).ends_with("the times mean nothing.") && about(8).ends_with("sources 1a2b3c4d."));
    }

    #[test]
    fn names_cannot_end_the_data() {
        let mut results = Results { rows: vec![row(2, 64, "auto", 1.0)], ..Results::new(provenance()) };
        results.provenance.gpu = "</script><b>{{style}}".into();
        let page = page(&[results], None).unwrap();
        assert!(!page.contains("</script><b>"));
        assert_eq!(data(&page)[0]["name"], "8x </script><b>{{style}}, NV18");
    }

    #[test]
    fn the_floor_has_the_ends_and_what_lies_between() {
        let page = shown(vec![row(2, 3000, "auto", 2.0), row(2, 9000, "auto", 3.0), row(4, 64, "auto", 3.0)]);
        let times = &data(&page)[0]["floor"]["times_us"];
        let sizes = |ranks: &str| {
            times[ranks].as_array().unwrap().iter().map(|point| point[0].as_u64().unwrap()).collect::<Vec<_>>()
        };
        assert_eq!((sizes("2"), sizes("4")), (vec![3000, 4096, 8192, 9000], vec![64]));
    }

    #[test]
    fn rows_of_other_collectives_have_no_place() {
        let other = Row { collective: Collective::AllGather, ..row(2, 64, "auto", 1.0) };
        let page_of = |rows| page(&[Results { rows, ..Results::new(provenance()) }], None);
        let both = page_of(vec![other.clone(), row(2, 64, "auto", 1.0)]).unwrap();
        assert_eq!(data(&both)[0]["rows"].as_array().unwrap().len(), 1);
        assert!(page_of(vec![other]).unwrap_err().to_string().contains("no rows of all-reduces"));
    }

    #[test]
    fn a_rate_that_is_given_replaces_the_data_sheets() {
        let rate = LinkRate { gbps: 100.0, source: "given".into() };
        let results = Results { rows: vec![row(2, 64, "auto", 1.0)], ..Results::new(provenance()) };
        assert_eq!(data(&page(&[results], Some(&rate)).unwrap())[0]["link"]["gbps"], 100.0);
        assert!(page(&[Results::new(provenance())], None).unwrap_err().to_string().contains("no rows"));
    }
}

//! One picture of a machine: time and bus bandwidth over the message size, both logarithmic, a row of panels a world size.
//!
//! WHY: written here and not by a plotting crate, because the picture has to follow the reader's light or dark theme: that
//! takes a style sheet with a media query, where such crates write one colour into every element.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::error::{Error, Result};
use crate::measure::against::{Baseline, Standing};
use crate::measure::case::Series;
use crate::measure::mark::Mark;
use crate::measure::provenance::Provenance;
use crate::measure::results::{Results, Row};
use crate::measure::scale::LogAxis;
use crate::measure::size::Bytes;
use crate::types::Collective;

const WIDTH: f64 = 960.0;
const HEADING: f64 = 104.0;
const PANEL: Panel = Panel { width: 412.0, height: 214.0, left: 48.0, pitch_x: 472.0, top: 34.0, pitch_y: 292.0 };

/// Measures of the grid of panels, in the picture's units.
struct Panel {
    width: f64,
    height: f64,
    left: f64,
    pitch_x: f64,
    top: f64,
    pitch_y: f64,
}

/// Colours and fonts of text, grid and the curves of this picture, for a light theme and a dark one.
///
/// The background is painted too: a page that ignores the reader's theme would leave light text on white otherwise.
pub(crate) const STYLE: &str = "
text { font: 12px Inter, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif; fill: #57606a }
.title { font-size: 19px; font-weight: 600; fill: #1f2328 }
.panel { font-size: 13px; font-weight: 600; fill: #1f2328 }
.hint { font-weight: 400; fill: #6e7781 }
.legend { font-size: 13px; fill: #1f2328 }
.tick { font-size: 11px }
.card { fill: #ffffff; stroke: #d0d7de }
.grid { stroke: #d8dee4; stroke-width: 1; fill: none }
.line { fill: none; stroke-width: 2; stroke-linejoin: round; stroke-linecap: round }
.mark { stroke: #ffffff; stroke-width: 1.2 }
.myelon.line { stroke: #d4380d; stroke-width: 3 } .myelon.mark { fill: #d4380d }
.nccl.line { stroke: #6e7781 } .nccl.mark { fill: #6e7781 }
.nccl_symmetric.line { stroke: #1a73c8 } .nccl_symmetric.mark { fill: #1a73c8 }
@media (prefers-color-scheme: dark) {
text { fill: #9198a1 }
.title, .panel, .legend { fill: #e6edf3 }
.hint { fill: #8b949e }
.card { fill: #0d1117; stroke: #30363d }
.grid { stroke: #262c36 }
.mark { stroke: #0d1117 }
.myelon.line { stroke: #ff7a45 } .myelon.mark { fill: #ff7a45 }
.nccl.line { stroke: #9198a1 } .nccl.mark { fill: #9198a1 }
.nccl_symmetric.line { stroke: #58a6ff } .nccl_symmetric.mark { fill: #58a6ff }
}
";

/// Of the curves that few pictures have.
const PEERS: &str = "
.mscclpp.line { stroke: #8250df } .mscclpp.mark { fill: #8250df }
.torch_symm_mem.line { stroke: #1a7f37 } .torch_symm_mem.mark { fill: #1a7f37 }
@media (prefers-color-scheme: dark) {
.mscclpp.line { stroke: #bc8cff } .mscclpp.mark { fill: #bc8cff }
.torch_symm_mem.line { stroke: #56d364 } .torch_symm_mem.mark { fill: #56d364 }
}
";

/// A complete SVG file, without scripts, fonts or anything else to load.
///
/// Of several types, operators and modes it shows the one with the most sizes measured, at every world size; wrong
/// results are left out, and so are sizes of 0.
///
/// Errors: [`Error::InvalidArgument`] if there is no row to show.
pub fn plot(results: &Results) -> Result<String> {
    let standings = of_one_kind(Standing::of(&results.rows));
    let first = standings.first().ok_or_else(|| Error::invalid("no rows to plot: measure something first"))?;
    let height = HEADING + PANEL.pitch_y * standings.len() as f64;
    let has_peers = Baseline::among(&results.rows).iter().any(|baseline| !baseline.is_of_nccl());
    let peers = if has_peers { PEERS } else { "" };
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title\">\n<style>{STYLE}{peers}</style>\n"
    );
    heading(&mut svg, &results.provenance, first.series, &standings, height);
    for (row, standing) in standings.iter().enumerate() {
        let top = HEADING + PANEL.pitch_y * row as f64 + PANEL.top;
        let ranks = results.provenance.describe(standing.series.ranks);
        let time = Quantity { title: "time, µs", hint: "lower is better", of: |row| row.time_us.p50 };
        panel(&mut svg, PANEL.left, top, &ranks, &time, standing);
        let busbw = Quantity { title: "bus bandwidth, GB/s", hint: "higher is better", of: |row| row.busbw_gbps };
        panel(&mut svg, PANEL.left + PANEL.pitch_x, top, &ranks, &busbw, standing);
    }
    svg.push_str("</svg>\n");
    Ok(svg)
}

/// What a panel shows of a row.
struct Quantity {
    title: &'static str,
    hint: &'static str,
    of: fn(&Row) -> f64,
}

/// A curve: its class in the style sheet, its name, and its points by ascending size.
struct Curve<'a> {
    class: &'static str,
    label: &'static str,
    rows: Vec<&'a Row>,
}

/// Baselines first, so that Myelon is drawn over them.
fn curves<'a>(standing: &Standing<'a>) -> Vec<Curve<'a>> {
    let right = |row: &&Row| !row.is_wrong() && row.bytes > 0 && row.time_us.p50 > 0.0;
    let of = |baseline: Baseline| Curve {
        class: baseline.name(),
        label: baseline.label(),
        rows: standing.lines.iter().filter_map(|line| line.baselines[baseline as usize]).filter(right).collect(),
    };
    let ours = standing.lines.iter().filter_map(|line| line.ours).filter(right).collect();
    let mut curves: Vec<_> = Baseline::ALL.into_iter().map(of).collect();
    curves.push(Curve { class: "myelon", label: "Myelon", rows: ours });
    curves.retain(|curve| !curve.rows.is_empty());
    curves
}

/// The standings that differ in nothing but the ranks, of the kind with the most lines; the first kind of equal ones.
fn of_one_kind(standings: Vec<Standing<'_>>) -> Vec<Standing<'_>> {
    let kind = |Series { collective, dtype, op, in_place, registered, graph, batch, between, .. }| {
        (collective, dtype, op, in_place, registered, graph, batch, between)
    };
    let mut lines = BTreeMap::new();
    for standing in &standings {
        *lines.entry(kind(standing.series)).or_insert(0) += standing.lines.len();
    }
    let most = lines.into_iter().rev().max_by_key(|&(_, count)| count).map(|(kind, _)| kind);
    standings.into_iter().filter(|standing| Some(kind(standing.series)) == most).collect()
}

fn heading(svg: &mut String, provenance: &Provenance, series: Series, standings: &[Standing<'_>], height: f64) {
    let title = match series.collective {
        Collective::AllReduce => format!("All-reduce, {}", series.what()),
        _ => series.what(),
    };
    let software = if provenance.gpus == 0 { String::new() } else { format!(" · {}", provenance.nccl_state()) };
    let day = provenance.date.strftime("%Y-%m-%d");
    let about = format!("{}{software} · p50 of the slowest rank, {} · {day}", provenance.machine(), series.mode());
    card(svg, [WIDTH, height], [24, 38, 60], &title, &about);
    let peers = escape(&provenance.peers_state());
    if !peers.is_empty() {
        let _ = writeln!(svg, "<text x=\"{}\" y=\"38\" text-anchor=\"end\">{peers}</text>", WIDTH - 24.0);
    }
    let mut shown: Vec<(&str, &str)> = Vec::new();
    for curve in standings.iter().flat_map(curves) {
        if !shown.contains(&(curve.class, curve.label)) {
            shown.push((curve.class, curve.label));
        }
    }
    // Myelon, drawn last, is named first.
    shown.sort_by_key(|&(class, _)| class != "myelon");
    let mut x = 24.0;
    for (class, label) in shown {
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"M{x} 84h26\"/>{}", mark(class, x + 13.0, 84.0));
        let _ = writeln!(svg, "<text class=\"legend\" x=\"{}\" y=\"88.5\">{label}</text>", x + 34.0);
        x += 66.0 + 7.2 * label.len() as f64;
    }
}

fn panel(svg: &mut String, left: f64, top: f64, ranks: &str, quantity: &Quantity, standing: &Standing<'_>) {
    let (right, bottom) = (left + PANEL.width, top + PANEL.height);
    let Quantity { title, hint, of } = quantity;
    let _ = writeln!(
        svg,
        "<text class=\"panel\" x=\"{left}\" y=\"{}\">{ranks}: {title} <tspan class=\"hint\" dx=\"4\">{hint}</tspan></text>",
        top - 12.0
    );
    let curves = curves(standing);
    let rows = || curves.iter().flat_map(|curve| curve.rows.iter().copied()).filter(|row| of(row) > 0.0);
    let x_axis = LogAxis::holding(rows().map(|row| row.bytes as f64), 1.0, left + 10.0, right - 10.0);
    let y_axis = LogAxis::holding(rows().map(of), 1.3, bottom, top);
    let (Some(x_axis), Some(y_axis)) = (x_axis, y_axis) else {
        let _ = writeln!(svg, "<text x=\"{left}\" y=\"{}\">nothing to show</text>", top + 20.0);
        return;
    };
    for tick in y_axis.decimal_ticks(8) {
        let y = y_axis.position(tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {y:.1}H{right}\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{}</text>",
            left - 7.0,
            y + 4.0,
            plain(tick)
        );
    }
    for tick in x_axis.binary_ticks(7) {
        let x = x_axis.position(tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{x:.1} {top}V{}\"/>", bottom + 5.0);
        let label = Bytes(tick as u64).human();
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{label}</text>",
            bottom + 20.0
        );
    }
    let _ = writeln!(svg, "<path class=\"grid\" d=\"M{left} {bottom}H{right}\"/>");
    for Curve { class, rows, .. } in &curves {
        let points: Vec<_> = rows.iter().filter(|row| of(row) > 0.0).collect();
        let place = |row: &Row| (x_axis.position(row.bytes as f64), y_axis.position(of(row)));
        let mut path = String::new();
        for (index, row) in points.iter().enumerate() {
            let (x, y) = place(row);
            let _ = write!(path, "{}{x:.1} {y:.1}", if index == 0 { 'M' } else { 'L' });
        }
        let _ = writeln!(svg, "<path class=\"line {class}\" d=\"{path}\"/>");
        for row in points {
            let (x, y) = place(row);
            let _ = writeln!(svg, "{}", mark(class, x, y));
        }
    }
}

/// A point of a curve. Shapes differ, so that the curves stay apart without colour.
fn mark(class: &str, x: f64, y: f64) -> String {
    let shape = match class {
        "nccl" => Mark::Square,
        "nccl_symmetric" => Mark::Diamond,
        "mscclpp" => Mark::Triangle,
        "torch_symm_mem" => Mark::Inverted,
        _ => Mark::Circle,
    };
    shape.at(class, x, y)
}

/// A tick's number with no more digits than it has, and few enough for the margin: `0.05`, `2`, `3000`, `10k`, `1M`.
fn plain(tick: f64) -> String {
    let digits = (-tick.log10().floor()).max(0.0) as usize;
    match tick {
        1e6.. => format!("{:.0}M", tick / 1e6),
        1e4.. => format!("{:.0}k", tick / 1e3),
        _ => format!("{tick:.digits$}"),
    }
}

/// The frame of a plot of this `[width, height]`, with its title and the line about it; `at` is where they stand: the left edge of
/// both, then the base line of each.
pub(crate) fn card(svg: &mut String, [width, height]: [f64; 2], at: [u32; 3], title: &str, about: &str) {
    let (title, about, [x, title_y, about_y]) = (escape(title), escape(about), at);
    let (width, height) = (width - 1.0, height - 1.0);
    let _ = writeln!(svg, "<title id=\"title\">{title}: {about}</title>");
    let _ = writeln!(svg, "<rect class=\"card\" x=\"0.5\" y=\"0.5\" width=\"{width}\" height=\"{height}\" rx=\"8\"/>");
    let _ = writeln!(
        svg,
        "<text class=\"title\" x=\"{x}\" y=\"{title_y}\">{title}</text>\n<text x=\"{x}\" y=\"{about_y}\">{about}</text>"
    );
}

pub(crate) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::tests::row;
    use crate::types::DType;

    fn plotted(rows: Vec<Row>) -> String {
        plot(&Results { rows, ..Results::new(provenance()) }).unwrap()
    }

    #[test]
    fn every_right_point_is_drawn_in_both_panels() {
        let wrong = Row { wrong: Some(1), ..row(8, 4096, "nccl", 9.0) };
        let rows = vec![row(8, 1024, "auto", 2.0), row(8, 4096, "auto", 3.0), row(8, 1024, "nccl", 9.0), wrong];
        let svg = plotted(rows);
        // Two points and one, in two panels, and one mark each in the legend.
        assert_eq!((svg.matches("<circle").count(), svg.matches("<rect class=\"mark nccl\"").count()), (5, 3));
        assert!(
            svg.contains(">1 KiB<")
                && svg.contains(">4 KiB<")
                && svg.contains("8 GPUs: time")
                && svg.contains("NVLS off")
        );
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn peers_have_curves_and_words_where_they_were_measured() {
        let rows = vec![row(2, 64, "auto", 1.0), row(2, 64, "mscclpp", 2.0), row(2, 64, "torch_symm_mem", 3.0)];
        let mut results = Results { rows, ..Results::new(provenance()) };
        results.provenance.peers.insert("mscclpp".into(), "MSCCL++ 0.9.0, NVLS off".into());
        let svg = plot(&results).unwrap();
        assert!(svg.contains(">MSCCL++ 0.9.0, NVLS off<") && svg.contains(".mscclpp.line"));
        assert_eq!(
            (svg.matches("class=\"mark mscclpp\"").count(), svg.matches("mark torch_symm_mem\"").count()),
            (3, 3)
        );
        assert!(!plotted(vec![row(2, 64, "auto", 1.0), row(2, 64, "nccl", 2.0)]).contains("mscclpp"));
    }

    #[test]
    fn registered_rows_are_of_another_kind() {
        let registered = Row { registered: true, ..row(2, 64, "auto", 1.0) };
        let svg = plotted(vec![registered, row(2, 64, "auto", 2.0), row(2, 128, "auto", 3.0)]);
        assert_eq!(svg.matches("2 GPUs: time").count(), 1, "{svg}");
    }

    #[test]
    fn each_world_size_has_its_row_and_other_kinds_stay_out() {
        let half = Row { dtype: DType::F16, ..row(4, 1024, "auto", 2.0) };
        let svg = plotted(vec![half, row(8, 1024, "auto", 2.0), row(2, 1024, "auto", 2.0), row(2, 2048, "auto", 2.0)]);
        assert!(svg.contains("8 GPUs: time") && svg.contains("2 GPUs: time") && !svg.contains("4 GPUs"));
        assert!(svg.contains("All-reduce, f32 sum<"));
    }

    #[test]
    fn a_world_of_one_has_no_bandwidth_to_show() {
        let svg = plotted(vec![row(1, 1024, "auto", 2.0)]);
        assert_eq!(svg.matches("nothing to show").count(), 1);
    }

    #[test]
    fn names_cannot_break_the_file() {
        let mut results = Results { rows: vec![row(2, 64, "auto", 1.0)], ..Results::new(provenance()) };
        results.provenance.gpu = "<A&B>".into();
        assert!(plot(&results).unwrap().contains("&lt;A&amp;B&gt;"));
        results.rows.clear();
        assert!(plot(&results).unwrap_err().to_string().contains("no rows"));
    }

    #[test]
    fn ticks_are_plain_numbers() {
        let ticks = [0.05, 0.5, 2.0, 3000.0, 10_000.0, 300_000.0, 1e6].map(plain);
        assert_eq!(ticks, ["0.05", "0.5", "2", "3000", "10k", "300k", "1M"]);
    }
}

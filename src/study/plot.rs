//! A small picture of a study: speed-up over the baseline by message size, a line a candidate, a panel a group.

use std::fmt::Write as _;

use super::ablation::Machine;
use super::grid::Grid;
use super::studies::Study;
use crate::measure::mark::Mark;
use crate::measure::scale::LogAxis;
use crate::measure::svg::{STYLE, card, escape};

const WIDTH: f64 = 760.0;
const HEADING: f64 = 76.0;
/// Room of a panel, its plot, and what is right of that for names.
const PITCH: f64 = 262.0;
const LEFT: f64 = 56.0;
const RIGHT: f64 = 500.0;
const PLOT: f64 = 196.0;
const NAMES: f64 = 520.0;

/// Colours of the lines, for a light theme and a dark one; they repeat, with other marks, where there are more lines.
const COLOURS: [(&str, &str); 6] = [
    ("#d4380d", "#ff7a45"),
    ("#1a73c8", "#58a6ff"),
    ("#2d8a4e", "#56d364"),
    ("#8250df", "#bc8cff"),
    ("#9a6700", "#d9a441"),
    ("#6e7781", "#9198a1"),
];
const MARKS: [Mark; 4] = [Mark::Circle, Mark::Square, Mark::Diamond, Mark::Triangle];

/// A complete SVG file: the study over the most ranks of the first machine that measured it; none if no machine did.
pub fn plot(study: &Study, machines: &[Machine]) -> Option<String> {
    let (machine, ranks, run) = machines.iter().find_map(|machine| {
        let ranks = machine.worlds(&study.name).into_iter().next_back()?;
        Some((machine, ranks, machine.run(&study.name, ranks)?))
    })?;
    let grids: Vec<_> = study.groups.iter().filter_map(|group| Grid::of(group, ranks, run)).collect();
    let height = HEADING + PITCH * grids.len() as f64;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" role=\"img\" aria-labelledby=\"title\">\n<style>{STYLE}{}</style>\n",
        colours()
    );
    let provenance = machine.provenance();
    let day = provenance.date.strftime("%Y-%m-%d");
    let mut about = format!(
        "{} of {} · speed-up over the baseline by message size · {day}",
        provenance.describe(ranks),
        provenance.machine()
    );
    if let Some(caution) = machine.caution() {
        about = format!("{about} · {caution}");
    }
    card(&mut svg, [WIDTH, height], [20, 32, 52], &study.title, &about);
    for (index, grid) in grids.iter().enumerate() {
        panel(&mut svg, HEADING + PITCH * index as f64 + 24.0, grid);
    }
    svg.push_str("</svg>\n");
    Some(svg)
}

/// A rule a line for each theme.
fn colours() -> String {
    let rule = |index: usize, colour: &str| {
        format!(".c{index}.line {{ stroke: {colour} }} .c{index}.mark {{ fill: {colour} }}\n")
    };
    let light: String = COLOURS.iter().enumerate().map(|(index, (light, _))| rule(index, light)).collect();
    let dark: String = COLOURS.iter().enumerate().map(|(index, (_, dark))| rule(index, dark)).collect();
    format!(
        "{light}.one {{ stroke: #6e7781; stroke-dasharray: 4 4 }}\n@media (prefers-color-scheme: dark) {{\n{dark}}}\n"
    )
}

fn panel(svg: &mut String, top: f64, grid: &Grid<'_>) {
    let bottom = top + PLOT;
    let baseline = escape(&grid.group.baseline.label);
    let title = escape(&grid.group.title);
    let title = if title.is_empty() { String::new() } else { format!("{title}: ") };
    let _ = writeln!(
        svg,
        "<text class=\"panel\" x=\"20\" y=\"{:.1}\">{title}times as fast as {baseline} <tspan class=\"hint\" dx=\"4\">higher is better</tspan></text>",
        top - 10.0
    );
    let sizes: Vec<_> = grid.group.sizes.iter().map(|size| size.0 as f64).collect();
    let speedups = || (0..grid.lines.len()).flat_map(|line| (0..sizes.len()).map(move |column| (line, column)));
    let values: Vec<_> = speedups().filter_map(|(line, column)| grid.speedup(line, column)).collect();
    let Some(x_axis) =
        LogAxis::holding(sizes.iter().copied(), 1.0, LEFT + 24.0, RIGHT - 24.0).filter(|_| !values.is_empty())
    else {
        let _ = writeln!(svg, "<text x=\"{LEFT}\" y=\"{:.1}\">nothing to show</text>", top + 20.0);
        return;
    };
    let ticks = ticks(&values);
    let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
    let height = |value: f64| bottom - (value - low) / (high - low) * PLOT;
    for &tick in &ticks {
        let y = height(tick);
        let _ = writeln!(svg, "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>");
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"end\">{tick:.2}×</text>",
            LEFT - 7.0,
            y + 4.0
        );
    }
    let _ = writeln!(svg, "<path class=\"grid one\" d=\"M{LEFT} {:.1}H{RIGHT}\"/>", height(1.0));
    for (size, label) in sizes.iter().zip(&grid.group.sizes) {
        let x = x_axis.position(*size);
        let _ = writeln!(
            svg,
            "<text class=\"tick\" x=\"{x:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{}</text>",
            bottom + 18.0,
            label.human()
        );
    }
    for (index, line) in grid.lines.iter().enumerate().skip(1) {
        let (class, mark) = (format!("c{}", (index - 1) % COLOURS.len()), MARKS[(index - 1) % MARKS.len()]);
        let place =
            |(column, &size): (usize, &f64)| Some((x_axis.position(size), height(grid.speedup(index, column)?)));
        let points: Vec<_> = sizes.iter().enumerate().filter_map(place).collect();
        let path: Vec<_> = points.iter().map(|(x, y)| format!("{x:.1} {y:.1}")).collect();
        if !path.is_empty() {
            let _ = writeln!(svg, "<path class=\"line {class}\" d=\"M{}\"/>", path.join("L"));
        }
        for (x, y) in points {
            let _ = writeln!(svg, "{}", mark.at(&class, x, y));
        }
        let y = top + 8.0 + 20.0 * (index - 1) as f64;
        let _ = writeln!(svg, "{}", mark.at(&class, NAMES, y));
        let _ = writeln!(svg, "<text x=\"{}\" y=\"{:.1}\">{}</text>", NAMES + 12.0, y + 4.0, escape(line.label));
    }
}

/// Round values that hold these and 1, ascending: two at least, seven at most.
fn ticks(values: &[f64]) -> Vec<f64> {
    let low = values.iter().copied().fold(0.95, f64::min);
    let high = values.iter().copied().fold(1.05, f64::max);
    let steps = (-2..4).flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * 10f64.powi(power)));
    let ends = |step: f64| ((low / step).floor() as i64, (high / step).ceil() as i64);
    let step = steps.filter(|&step| step >= 0.05).find(|&step| ends(step).1 - ends(step).0 <= 6).unwrap_or(high);
    let (first, last) = ends(step);
    (first..=last).map(|tick| tick as f64 * step).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ablation::tests::run;
    use super::super::studies::tests::small;
    use super::*;

    #[test]
    fn every_candidate_has_its_line_and_name() {
        let run = run(4, &[[10.0, 20.0], [4.0, 30.0], [6.0, 19.0], [20.0, 40.0]]);
        let svg = plot(&small(), &Machine::of(vec![run])).unwrap();
        assert_eq!(svg.matches("class=\"line c").count(), 3);
        assert_eq!(svg.matches("<circle").count(), 3, "two points and a name");
        for part in
            [">2 slots<", ">8 lanes<", ">64 KiB<", "4 GPUs of 8x NVIDIA H200", "times as fast as signals", "2.50"]
        {
            assert!(svg.contains(part), "{part}");
        }
        assert!(!svg.contains("NaN") && !svg.contains("inf"));
    }

    #[test]
    fn a_study_that_no_machine_measured_has_no_picture() {
        assert!(plot(&small(), &[]).is_none());
        assert!(plot(&Study { name: "other".into(), ..small() }, &Machine::of(vec![run(2, &[[1.0, 1.0]])])).is_none());
        let alone = plot(&small(), &Machine::of(vec![run(2, &[[1.0, 1.0]])])).unwrap();
        assert!(alone.contains("nothing to show"));
    }

    #[test]
    fn ticks_are_few_and_hold_everything() {
        for values in [vec![1.0], vec![0.3, 0.99], vec![1.01, 5.2], vec![0.001], vec![90.0, 0.5]] {
            let ticks = ticks(&values);
            assert!((2..=7).contains(&ticks.len()) && ticks.is_sorted(), "{values:?}: {ticks:?}");
            let (low, high) = (ticks[0], ticks[ticks.len() - 1]);
            assert!(values.iter().chain(&[1.0]).all(|value| (low..=high).contains(value)), "{values:?}: {ticks:?}");
        }
    }
}

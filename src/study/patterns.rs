//! The page of patterns: what is claimed of each, what was measured, and what follows.

use std::fmt::Write as _;

use super::ablation::Machine;
use super::finding::{Finding, TOLERANCE, holds};
use super::grid::{Grid, Line};
use super::studies::{Group, Study};
use crate::measure::markdown;
use crate::measure::neighbour::{self, Neighbours};
use crate::measure::overlap::{self, Overlaps};
use crate::types::WorldSize;

/// Where the plots lie, seen from the page: `NAME.svg` each.
pub const PLOTS: &str = "plots/patterns";

const INTRO: &str = "\
# Patterns

Patterns of all-reduce kernels, what is claimed of each, and what was measured to see whether it holds here. This page is generated:
[configs/studies.toml](../configs/studies.toml) has the claims, the candidates and the reasons, `myelon-perf --ablate --json FILE`
measures them, `myelon-perf report --patterns` writes the page. Words are those of [the glossary](GLOSSARY.md).

A study holds candidates against a baseline of its own. All run in the same processes and take turns within each repeat, so that a
drift of clocks meets them alike. Every result was verified, and a wrong one has no time. Times are p50 of the slowest rank in
microseconds an operation, for f32 sums out of place; each table says how the operations were issued. Behind a time stands how
many times faster it is than the baseline of its table, the first line.
";

const NEIGHBOURS: &str = "
<a id=\"neighbour\"></a>

## What a wait does to a neighbour

An all-reduce whose peers are late polls for them. Beside it, on the same GPU, runs a kernel of somebody else's: one that computes in
registers, or one that loads from memory. `myelon-perf neighbour` measures that kernel alone and beside the wait, for each wait
policy; medians, microseconds. The wait is cold by then: `adaptive` sleeps 512 ns between polls, `yield` 32 ns, `spin` does not.
";

const OVERLAPS: &str = "
<a id=\"overlap\"></a>

## What a running all-reduce costs a neighbour

All-reduces run one after another on every rank, and beside them, on another stream, what a model would compute: a large product of
matrices. `myelon-perf --overlap` measures both alone and beside the other; p50 of the slowest rank, microseconds and GB/s. SMs is how
many have a CTA of the all-reduce at most: its lanes; NCCL does not say. An all-reduce counts by its part in the neighbour's time.
";

/// The page: an introduction with where it was measured, a summary, and a part a study. Ends with a line end.
///
/// From times that mean nothing (CPU ranks, shared GPUs) it draws no conclusion, and says so.
pub fn patterns(studies: &[Study], machines: &[Machine], neighbours: &[Neighbours], overlaps: &[Overlaps]) -> String {
    let percent = TOLERANCE * 100.0;
    let mut text = INTRO.to_owned();
    let _ = write!(
        text,
        "\nA pattern **pays** at a size where its best candidate is at least {percent:.0} % faster than the baseline. A claim **holds** \
         where that\ncandidate is as fast as the claim says, {percent:.0} % of tolerance allowed. Candidates in *italics* lack the \
         pattern: they are there to\ncompare, and nothing is concluded from them.\n\n"
    );
    text.push_str(&provenances(machines));
    text.push_str("\n## Summary\n\n| pattern | claimed | the claim | best that it does |\n|:---|---:|:---|:---|\n");
    for study in studies {
        let Study { name, title, .. } = study;
        let claimed = study.factor.map_or("faster".to_owned(), |factor| format!("{factor}×"));
        let (word, best) = summary(study, machines);
        let _ = writeln!(text, "| [{title}](#{name}) | {claimed} | {word} | {best} |");
    }
    for study in studies {
        text.push_str(&part(study, machines));
    }
    if !neighbours.is_empty() {
        text.push_str(NEIGHBOURS);
    }
    for run in neighbours {
        let _ = write!(text, "\n{}\n{}", markdown::provenance(&run.provenance), neighbour::table(&run.rows));
    }
    if !overlaps.is_empty() {
        text.push_str(OVERLAPS);
    }
    for run in overlaps {
        text.push_str(&overlap::part(run));
    }
    text
}

/// A sentence a run, those that are alike once, and what is wrong with them.
fn provenances(machines: &[Machine]) -> String {
    if machines.is_empty() {
        return "No study has been measured yet.\n".to_owned();
    }
    let mut text = String::new();
    for machine in machines {
        let mut said: Vec<String> = machine.provenances().map(markdown::provenance).collect();
        said.dedup();
        text.push_str(&said.concat());
        if let Some(caution) = machine.caution() {
            let _ = writeln!(text, "\n> **Caution:** {caution}. Nothing is concluded from them.");
        }
    }
    text
}

/// The grids of a study on one machine: largest world first, groups in their order.
fn grids<'a>(study: &'a Study, machine: &'a Machine) -> Vec<Grid<'a>> {
    let worlds = machine.worlds(&study.name).into_iter().rev();
    let runs = worlds.filter_map(|ranks| Some((ranks, machine.run(&study.name, ranks)?)));
    runs.flat_map(|(ranks, run)| study.groups.iter().filter_map(move |group| Grid::of(group, ranks, run))).collect()
}

/// Whether the claim holds, and the largest speed-up, over all machines whose times mean something.
fn summary(study: &Study, machines: &[Machine]) -> (String, String) {
    let mut findings = Vec::new();
    for machine in machines.iter().filter(|machine| machine.caution().is_none()) {
        for grid in grids(study, machine) {
            findings.push((grid.ranks, grid.group, Finding::of(&grid, study.factor)));
        }
    }
    let points = findings
        .iter()
        .flat_map(|(ranks, group, finding)| finding.points.iter().map(move |point| (*ranks, *group, point)));
    let best = points.max_by(|(_, _, a), (_, _, b)| a.speedup.total_cmp(&b.speedup));
    let best = best.map_or("-".to_owned(), |(ranks, group, point)| {
        let of = if study.groups.len() > 1 { format!("{}: ", group.title) } else { String::new() };
        format!("{:.2}× ({of}{}, {}, {})", point.speedup, point.label, point.bytes.human(), in_ranks(ranks))
    });
    let findings: Vec<_> = findings.into_iter().map(|(_, _, finding)| finding).collect();
    (holds(&findings).map_or("not measured".to_owned(), |word| format!("**{word}**")), best)
}

/// One study: claim, what was found, why, plot and tables.
fn part(study: &Study, machines: &[Machine]) -> String {
    let Study { name, title, claim, because, .. } = study;
    let measured: Vec<_> = machines.iter().filter(|machine| !machine.worlds(name).is_empty()).collect();
    let mut text = format!("\n<a id=\"{name}\"></a>\n\n## {title}\n\n**Claim.** {}\n\n**Found.** ", claim.trim());
    if measured.is_empty() {
        text.push_str("Not measured.\n");
    }
    for (index, machine) in measured.iter().enumerate() {
        let place = machine.provenance().machine();
        let separator = if index == 0 { "" } else { "\n" };
        match machine.caution() {
            Some(_) => {
                let _ = writeln!(text, "{separator}Nothing on {place}: these times mean nothing.");
            }
            None => {
                let _ = writeln!(text, "{separator}On {place}:\n");
                for grid in grids(study, machine) {
                    let of = if study.groups.len() > 1 { format!("{}, ", grid.group.title) } else { String::new() };
                    let finding = Finding::of(&grid, study.factor);
                    let _ = writeln!(text, "- {of}{}: {finding}", in_ranks(grid.ranks));
                }
            }
        }
    }
    let _ = writeln!(text, "\n**Why.** {}", because.trim());
    if !measured.is_empty() {
        let _ = writeln!(text, "\n![Speed-up over the baseline by message size: {title}]({PLOTS}/{name}.svg)");
    }
    for machine in &measured {
        let place = if machines.len() > 1 { format!(", {}", machine.provenance().machine()) } else { String::new() };
        for grid in grids(study, machine) {
            let of = if study.groups.len() > 1 { format!("{}, ", grid.group.title) } else { String::new() };
            let _ = writeln!(text, "\n**{of}{}**{place}: {}.\n", in_ranks(grid.ranks), issue(grid.group));
            text.push_str(&table(&grid));
            text.push_str(&host_table(&grid));
        }
        let cut = |ranks: &WorldSize| machine.run(name, *ranks).is_some_and(|run| run.cut);
        for ranks in machine.worlds(name).into_iter().filter(cut) {
            let _ = writeln!(text, "\nOver {} the run ended before all of this study was measured.", in_ranks(ranks));
        }
    }
    text
}

/// A line a candidate, a column a size.
fn table(grid: &Grid<'_>) -> String {
    let mut text = String::from("| µs |");
    for size in &grid.group.sizes {
        let _ = write!(text, " {} |", size.human());
    }
    let _ = writeln!(text, "\n|:---|{}", "---:|".repeat(grid.group.sizes.len()));
    for (index, line) in grid.lines.iter().enumerate() {
        let _ = write!(text, "| {} |", name(line));
        for (column, row) in line.rows.iter().enumerate() {
            let ratio = grid.speedup(index, column).map_or(String::new(), |speedup| format!(" ({speedup:.2}×)"));
            let _ = write!(text, " {}{ratio} |", markdown::time(*row));
        }
        text.push('\n');
    }
    text
}

/// What the host spends, where the candidates differ in how they are issued: a graph pays it once, at its capture.
fn host_table(grid: &Grid<'_>) -> String {
    let issued = grid.group.baseline.issue();
    let is_told = |line: &&Line<'_>| line.rows.iter().flatten().any(|row| row.graph == 0 && row.host_us.is_some());
    let lines: Vec<_> = grid.lines.iter().filter(is_told).collect();
    if lines.is_empty() || grid.group.entrants().all(|candidate| candidate.issue() == issued) {
        return String::new();
    }
    let mut text = String::from("\n| host µs an operation |");
    for size in &grid.group.sizes {
        let _ = write!(text, " {} |", size.human());
    }
    let _ = writeln!(text, "\n|:---|{}", "---:|".repeat(grid.group.sizes.len()));
    for line in lines {
        let _ = write!(text, "| {} |", name(line));
        for row in &line.rows {
            let spent = row.and_then(|row| row.host_us).map_or("-".to_owned(), |spent| format!("{spent:.2}"));
            let _ = write!(text, " {spent} |");
        }
        text.push('\n');
    }
    text
}

fn name(line: &Line<'_>) -> String {
    match line.candidate {
        Some(candidate) if candidate.aside => format!("*{}*", line.label),
        _ => line.label.to_owned(),
    }
}

/// How a group's operations were issued; each candidate in its own way is said as that.
fn issue(group: &Group) -> String {
    match group.baseline.issue() {
        alike if group.entrants().any(|candidate| candidate.issue() != alike) => "issued as each line says".to_owned(),
        (0, 0) => "launched one by one".to_owned(),
        (0, batch) => format!("{batch} operations a call"),
        (1, _) => "1 operation a graph".to_owned(),
        (graph, _) => format!("{graph} operations a graph"),
    }
}

fn in_ranks(ranks: WorldSize) -> String {
    format!("{ranks} rank{}", if ranks.get() == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::super::ablation::tests::run;
    use super::super::studies::tests::small;
    use super::*;

    #[test]
    fn the_part_of_a_study() {
        let mut four = run(4, &[[10.0, 20.0], [4.0, 30.0], [6.0, 19.0], [20.0, 40.0]]);
        four.studies[0].rows[4].row.wrong = Some(1);
        let two = run(2, &[[8.0, 9.0], [8.1, 9.0]]);
        let golden = "
<a id=\"slots\"></a>

## Slots

**Claim.** Slots double the speed.

**Found.** On 8x NVIDIA H200, NV18:

- 4 ranks: the claim **holds only at 64 KiB**. It pays at 64 KiB (2 slots, 2.50×), 1 MiB (4 slots, 1.05×).
- 2 ranks: the claim **fails**. It does not pay at 64 KiB (2 slots, 0.99×), 1 MiB (2 slots, 1.00×).

**Why.** Of credits.

![Speed-up over the baseline by message size: Slots](plots/patterns/slots.svg)

**4 ranks**: 20 operations a graph.

| µs | 64 KiB | 1 MiB |
|:---|---:|---:|
| signals | 10.0 | 20.0 |
| 2 slots | 4.00 (2.50×) | 30.0 (0.67×) |
| 4 slots | **wrong** | 19.0 (1.05×) |
| *8 lanes* | 20.0 (0.50×) | 40.0 (0.50×) |

**2 ranks**: 20 operations a graph.

| µs | 64 KiB | 1 MiB |
|:---|---:|---:|
| signals | 8.00 | 9.00 |
| 2 slots | 8.10 (0.99×) | 9.00 (1.00×) |
| 4 slots | - | - |
| *8 lanes* | - | - |
";
        let text = part(&small(), &Machine::of(vec![two, four]));
        assert_eq!(text, golden, "\n{text}");
    }

    #[test]
    fn the_page_sums_up_and_names_its_sources() {
        let machines = Machine::of(vec![run(2, &[[10.0, 20.0], [4.0, 30.0]]), run(4, &[[10.0, 20.0], [5.0, 5.0]])]);
        let other = Study { name: "other".into(), title: "Other".into(), factor: None, ..small() };
        let page = patterns(&[small(), other], &machines, &[], &[]);
        assert!(
            page.contains("| [Slots](#slots) | 2× | **holds in part** | 4.00× (2 slots, 1 MiB, 4 ranks) |"),
            "{page}"
        );
        assert!(page.contains("| [Other](#other) | faster | not measured | - |"), "{page}");
        assert!(page.contains("**Found.** Not measured.\n\n**Why.** Of credits.\n"), "{page}");
        assert_eq!(page.matches("Measured on 2026-11-20").count(), 1, "equal sentences once");
        assert!(page.contains("NCCL 2.28.9, NVLS off") && !page.contains("Caution"), "{page}");
        let empty = patterns(&[small()], &[], &[], &[]);
        assert!(empty.contains("No study has been measured yet.\n") && !empty.contains("neighbour"), "{empty}");
    }

    #[test]
    fn what_the_host_spends_is_told_where_issue_differs() {
        let mut study = small();
        study.groups[0].baseline.graph = 0;
        let mut run = run(2, &[[10.0, 20.0], [4.0, 30.0]]);
        for (measured, host_us) in run.studies[0].rows.iter_mut().take(2).zip([2.5, 3.0]) {
            (measured.row.graph, measured.row.host_us) = (0, Some(host_us));
        }
        let text = part(&study, &Machine::of(vec![run]));
        let expected = "| host µs an operation | 64 KiB | 1 MiB |\n|:---|---:|---:|\n| signals | 2.50 | 3.00 |\n";
        assert!(text.contains(expected), "{text}");
    }

    #[test]
    fn nothing_is_concluded_from_times_that_mean_nothing() {
        let mut run = run(2, &[[10.0, 20.0], [4.0, 30.0]]);
        run.caution = Some("the times mean nothing".into());
        run.studies[0].cut = true;
        let page = patterns(&[small()], &Machine::of(vec![run]), &[], &[]);
        assert!(page.contains("> **Caution:** the times mean nothing. Nothing is concluded from them."), "{page}");
        assert!(page.contains("| not measured | - |") && !page.contains("It pays"), "{page}");
        assert!(page.contains("Over 2 ranks the run ended before"), "{page}");
    }
}

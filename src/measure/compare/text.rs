//! A comparison as text for a terminal or a log.

use std::fmt::Write as _;

use crate::measure::case::Series;
use crate::measure::compare::{Comparison, Pair, Percent, Verdict};
use crate::measure::provenance::Provenance;
use crate::measure::text::counted;

impl Comparison<'_> {
    /// The whole comparison as text that ends with a line end. With `all`, rows that are the same, too.
    pub fn text(&self, threshold: Percent, all: bool) -> String {
        let mut text = String::new();
        for (title, provenance) in ["before", "after"].into_iter().zip(self.provenances) {
            let Provenance { date, version, .. } = provenance;
            let _ = writeln!(text, "{title:<7} {date}  {}; Myelon {version}", provenance.machine());
        }
        for (name, before, after) in self.differences() {
            let _ = writeln!(text, "differs {name}: {before} before, {after} after");
        }
        if self.is_of_machines() {
            text.push_str("note    machine, driver or libraries differ: a change here need not be one of Myelon\n");
        }
        let shown = |pair: &&Pair<'_>| all || pair.verdict(threshold) != Verdict::Same;
        let (ours, theirs) = (self.pairs.iter().filter(shown), self.controls.iter().filter(shown));
        let mut last = None;
        for (pair, is_control) in ours.map(|pair| (pair, false)).chain(theirs.map(|pair| (pair, true))) {
            let series = pair.before.case().series;
            if last != Some((series, is_control)) {
                last = Some((series, is_control));
                text.push_str(&heading(series, is_control));
            }
            text.push_str(&line(pair, threshold));
        }
        for (which, rows) in [("before", &self.only_before), ("after", &self.only_after)] {
            if !rows.is_empty() {
                let _ = writeln!(text, "\nonly {which}: {}", rows.len());
            }
            for row in rows {
                let case = row.case();
                let _ = writeln!(text, "  {} at {} ({})", row.requested, case.bytes, case.series);
            }
        }
        let verdicts =
            [Verdict::Broken, Verdict::Slower, Verdict::Noise, Verdict::Same, Verdict::Faster, Verdict::Mended];
        let counts = verdicts.map(|verdict| format!("{} {}", self.count(verdict, threshold), verdict.name()));
        let rows = counted(self.pairs.len(), "row");
        let _ = writeln!(text, "\n{rows} of Myelon at {} %: {}", threshold.0, counts.join(", "));
        text
    }
}

fn heading(series: Series, is_control: bool) -> String {
    let what = if is_control { "controls (they count for nothing)" } else { "Myelon" };
    let titles = ["size", "before us", "after us", "change", "scatter", "drift"];
    let [size, before, after, change, scatter, drift] = titles;
    format!(
        "\n{what}: {series}\n{size:>8}  {:<22}  {before:>10}  {after:>10}  {change:>8}  {scatter:>8}  {drift:>7}  verdict\n",
        "candidate"
    )
}

fn line(pair: &Pair<'_>, threshold: Percent) -> String {
    let (before, after) = (pair.before, pair.after);
    let faster = if pair.ratio() >= 1.0 { before } else { after };
    let scatter = 100.0 * faster.scatter_us() / faster.time_us.p50;
    let candidate = match (before.variant == after.variant, before.variant == before.requested) {
        (_, true) if before.variant == after.variant => before.requested.clone(),
        (true, _) => format!("{} ({})", before.requested, before.variant),
        (false, _) => format!("{} ({} to {})", before.requested, before.variant, after.variant),
    };
    format!(
        "{:>8}  {candidate:<22}  {:>10.2}  {:>10.2}  {:>+7.1}%  {:>7.1}%  {:>+6.1}%  {}\n",
        before.case().bytes.to_string(),
        before.time_us.p50,
        after.time_us.p50,
        Percent::of_ratio(pair.ratio()).0,
        scatter,
        Percent::of_ratio(pair.drift).0,
        pair.verdict(threshold).name()
    )
}

#[cfg(test)]
mod tests {
    use crate::measure::compare::Comparison;
    use crate::measure::compare::tests::{FIVE, run, steady};
    use crate::measure::results::tests::row;

    #[test]
    fn the_text_says_what_differs_and_what_changed() {
        let before = run(vec![
            steady(1024, "auto", 10.0, 0.1),
            steady(2048, "auto", 10.0, 0.1),
            steady(1024, "nccl", 20.0, 0.1),
        ]);
        let mut after =
            run(vec![steady(1024, "auto", 12.0, 0.1), steady(2048, "auto", 10.0, 0.1), row(2, 64, "ring", 1.0)]);
        after.provenance.driver = "590.1".into();
        let comparison = Comparison::of(&before, &after);
        let text = comparison.text(FIVE, false);
        for part in [
            "differs driver: 580.159 before, 590.1 after",
            "need not be one of Myelon",
            "Myelon: 2 ranks, f32 sum, graph replay",
            "only before: 1\n  nccl at 1K",
            "only after: 1\n  ring at 64 ",
            "2 rows of Myelon at 5 %: 0 broken, 1 slower, 0 noise, 1 same, 0 faster, 0 mended\n",
        ] {
            assert!(text.contains(part), "'{part}' is missing from: {text}");
        }
        let changed = text.lines().find(|line| line.ends_with("slower")).unwrap();
        let words: Vec<_> = changed.split_whitespace().collect();
        assert_eq!(words, ["1K", "auto", "10.00", "12.00", "+20.0%", "1.0%", "+0.0%", "slower"]);
        assert!(!text.contains(" 2K ") && comparison.text(FIVE, true).contains(" 2K "));
    }
}

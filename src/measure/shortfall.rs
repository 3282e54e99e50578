//! Where `auto` is slower than it need be: than the best single variant of the same run, or than a baseline.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::measure::against::{AUTO, Baseline};
use crate::measure::case::Case;
use crate::measure::compare::{Percent, is_beyond};
use crate::measure::results::Row;

/// What `auto` is held against in one case.
#[derive(Clone, Copy, Debug)]
pub struct Shortfall<'a> {
    /// What the lane table chose.
    pub auto: &'a Row,
    /// The fastest right row of a variant that was asked for by name.
    pub best: Option<&'a Row>,
    /// The fastest right row of each baseline, as in [`Baseline::ALL`].
    pub baselines: [Option<&'a Row>; Baseline::ALL.len()],
}

impl<'a> Shortfall<'a> {
    /// Every case with a right row of `auto`, in order.
    pub fn of(rows: &'a [Row]) -> Vec<Self> {
        let mut cases: BTreeMap<Case, Vec<&Row>> = BTreeMap::new();
        for row in rows.iter().filter(|row| !row.is_wrong()) {
            cases.entry(row.case()).or_default().push(row);
        }
        let of_case = |rows: Vec<&'a Row>| {
            let fastest = |wanted: &dyn Fn(&Row) -> bool| {
                let wanted = rows.iter().copied().filter(|row| wanted(row));
                wanted.min_by(|one, other| one.time_us.p50.total_cmp(&other.time_us.p50))
            };
            Some(Self {
                auto: fastest(&|row| row.requested == AUTO)?,
                best: fastest(&|row| row.requested != AUTO && Baseline::of(row).is_none()),
                baselines: Baseline::ALL.map(|baseline| fastest(&|row| Baseline::of(row) == Some(baseline))),
            })
        };
        cases.into_values().filter_map(of_case).collect()
    }

    /// Whether `auto` is behind any of them by more than `within`, and by more than that one scattered.
    pub fn is_beyond(&self, within: Percent) -> bool {
        self.rivals().any(|rival| is_beyond(rival, self.auto, within))
    }

    /// Whether there is anything to hold it against.
    pub fn has_rival(&self) -> bool {
        self.rivals().next().is_some()
    }

    fn rivals(&self) -> impl Iterator<Item = &'a Row> {
        self.best.into_iter().chain(self.baselines.into_iter().flatten())
    }
}

/// A table a series, a line a case: `auto`, then what it is slower by than each other. Marked where that is beyond `within`.
/// Ends with a line end.
pub fn text(shortfalls: &[Shortfall<'_>], within: Percent) -> String {
    let mut text = String::new();
    let mut last = None;
    let measured = |baseline: &Baseline| shortfalls.iter().any(|it| it.baselines[*baseline as usize].is_some());
    let shown: Vec<_> = Baseline::ALL.into_iter().filter(measured).collect();
    let column = |baseline: Baseline, text: &str| format!("  {text:<width$}", width = baseline.label().len().max(20));
    for shortfall in shortfalls {
        let &Shortfall { auto, best, baselines } = shortfall;
        let case = auto.case();
        if last.replace(case.series) != Some(case.series) {
            let baselines: String = shown.iter().map(|&baseline| column(baseline, baseline.label())).collect();
            let title =
                format!("{:>8}  {:>10}  {:<20}  {:<33}{baselines}", "size", "auto us", "variant", "best variant");
            let _ = writeln!(text, "\nauto: {}\n{}", case.series, title.trim_end());
        }
        let best = format!("{} {}", cell(auto, best, within), best.map_or("", |row| &row.requested));
        let of = |baseline: Baseline| column(baseline, &cell(auto, baselines[baseline as usize], within));
        let baselines: String = shown.iter().copied().map(of).collect();
        let (size, p50, variant) = (case.bytes.to_string(), auto.time_us.p50, &auto.variant);
        let line = format!("{size:>8}  {p50:>10.2}  {variant:<20}  {best:<33}{baselines}");
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let behind = shortfalls.iter().filter(|shortfall| shortfall.is_beyond(within)).count();
    let _ = writeln!(text, "\nauto is behind by more than {} % in {behind} of {} cases", within.0, shortfalls.len());
    text
}

/// The rival's time, and what `auto` takes longer; `!` where that is too long.
fn cell(auto: &Row, rival: Option<&Row>, within: Percent) -> String {
    let Some(rival) = rival else { return "-".to_owned() };
    let mark = if is_beyond(rival, auto, within) { '!' } else { ' ' };
    let behind = (auto.time_us.p50 / rival.time_us.p50 - 1.0) * 100.0;
    format!("{:.2} {behind:+.1}%{mark}", rival.time_us.p50)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::results::tests::row;
    use crate::measure::stats::Summary;

    fn steady(bytes: u64, requested: &str, p50: f64) -> Row {
        let time_us = Summary { p50, p99: p50 * 2.0, min: p50 * 0.99 };
        Row { time_us, ..row(2, bytes, requested, p50) }
    }

    #[test]
    fn auto_is_held_against_the_best_variant_and_every_baseline() {
        let wrong = Row { wrong: Some(1), ..steady(64, "broken", 1.0) };
        let rows = [
            steady(64, "auto", 10.0),
            wrong,
            steady(64, "ring", 9.5),
            steady(64, "slow", 20.0),
            steady(64, "nccl", 11.0),
            steady(128, "ring", 1.0),
        ];
        let [only] = Shortfall::of(&rows).try_into().unwrap();
        assert_eq!(only.best.unwrap().requested, "ring");
        assert_eq!(only.baselines.map(|row| row.map(|row| row.time_us.p50)), [Some(11.0), None, None, None]);
        assert!(only.is_beyond(Percent(3.0)) && !only.is_beyond(Percent(6.0)));
        let text = text(&[only], Percent(3.0));
        assert!(text.contains("9.50 +5.3%! ring") && text.contains("11.00 -9.1%"), "{text}");
        assert!(text.contains("by more than 3 % in 1 of 1 cases"), "{text}");
        assert!(text.contains("  NCCL\n") && !text.contains("MSCCL++"), "only what was measured: {text}");
    }

    #[test]
    fn a_rival_that_scatters_more_is_not_ahead() {
        let loose = Row { time_us: Summary { p50: 9.0, p99: 20.0, min: 5.0 }, ..row(2, 64, "nccl", 9.0) };
        let rows = [steady(64, "auto", 10.0), loose];
        assert!(!Shortfall::of(&rows)[0].is_beyond(Percent(3.0)));
    }

    #[test]
    fn without_auto_there_is_nothing_to_say() {
        assert!(Shortfall::of(&[steady(64, "ring", 1.0)]).is_empty());
    }
}

//! Several runs into one for each machine.

use std::collections::HashSet;

use crate::measure::provenance::NOT_FOUND;
use crate::measure::results::Results;

/// What a merged [`Provenance`](crate::measure::Provenance) says where its runs differ.
pub const MIXED: &str = "mixed";

/// Joins the runs that were taken on equal machines with equal drivers and baselines.
///
/// Where two runs measured the same candidate in the same case, the newer run counts: never the faster. A merged
/// provenance carries the newest date, and [`MIXED`] for a version or source hash that differs.
///
/// A run that does not know a baseline's version joins the machine that has its numbers of ranks, where several differ in that version.
///
/// Ordering: machines with the newest run first; rows of newer runs first; the order of `runs` does not matter
/// unless two have one date.
pub fn by_machine(mut runs: Vec<Results>) -> Vec<Results> {
    runs.sort_by_key(|run| std::cmp::Reverse(run.provenance.date));
    let mut merged: Vec<Results> = Vec::new();
    for run in runs {
        let is_same = |other: &Results| other.provenance.is_same_machine(&run.provenance);
        let has_its_ranks =
            |other: &Results| other.rows.iter().any(|row| run.rows.iter().any(|its| its.ranks == row.ranks));
        let place = merged.iter().position(|other| is_same(other) && has_its_ranks(other));
        match place.or_else(|| merged.iter().position(is_same)) {
            Some(place) => absorb(&mut merged[place], run),
            None => merged.push(run),
        }
    }
    merged
}

fn absorb(newer: &mut Results, older: Results) {
    let measured: HashSet<_> = newer.rows.iter().map(|row| (row.case(), row.requested.clone())).collect();
    let before = newer.rows.len();
    newer.rows.extend(older.rows.into_iter().filter(|row| !measured.contains(&(row.case(), row.requested.clone()))));
    // A run that was replaced altogether leaves nothing that its version could be wrong about.
    if newer.rows.len() > before {
        let mix = |ours: &mut String, theirs: &str| {
            if *ours != theirs && *ours != NOT_FOUND && theirs != NOT_FOUND {
                *ours = MIXED.to_owned();
            }
        };
        mix(&mut newer.provenance.version, &older.provenance.version);
        mix(&mut newer.provenance.source_hash, &older.provenance.source_hash);
        newer.provenance.complete(older.provenance);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::measure::provenance::Provenance;
    use crate::measure::provenance::tests::provenance;
    use crate::measure::results::Row;
    use crate::measure::results::tests::row;

    fn run(date: &str, hash: &str, rows: Vec<Row>) -> Results {
        let provenance = Provenance { date: date.parse().unwrap(), source_hash: hash.into(), ..provenance() };
        Results { rows, ..Results::new(provenance) }
    }

    #[test]
    fn the_newer_of_two_measurements_counts() {
        let old = run("2026-01-01T00:00:00Z", "a", vec![row(2, 64, "auto", 1.0), row(2, 64, "nccl", 7.0)]);
        let new = run("2026-01-02T00:00:00Z", "b", vec![row(2, 64, "auto", 2.0)]);
        for runs in [vec![old.clone(), new.clone()], vec![new, old]] {
            let [merged] = by_machine(runs).try_into().unwrap();
            assert_eq!(merged.rows, [row(2, 64, "auto", 2.0), row(2, 64, "nccl", 7.0)]);
            assert_eq!(merged.provenance.source_hash, MIXED);
            assert_eq!(merged.provenance.version, provenance().version);
        }
    }

    #[test]
    fn registered_results_do_not_replace_others() {
        let old = run("2026-01-01T00:00:00Z", "a", vec![row(2, 64, "auto", 1.0)]);
        let registered = Row { registered: true, ..row(2, 64, "auto", 2.0) };
        let new = run("2026-01-02T00:00:00Z", "a", vec![registered.clone()]);
        let [merged] = by_machine(vec![old, new]).try_into().unwrap();
        assert_eq!(merged.rows, [registered, row(2, 64, "auto", 1.0)]);
    }

    #[test]
    fn a_run_that_is_replaced_altogether_leaves_no_trace() {
        let old = run("2026-01-01T00:00:00Z", "a", vec![row(2, 64, "auto", 1.0)]);
        let new = run("2026-01-02T00:00:00Z", "b", vec![row(2, 64, "auto", 2.0)]);
        assert_eq!(by_machine(vec![old, new.clone()]), [new]);
    }

    #[test]
    fn a_peer_that_was_measured_alone_comes_beside_the_others() {
        let ours = run("2026-01-01T00:00:00Z", "a", vec![row(2, 64, "auto", 1.0), row(2, 64, "nccl", 3.0)]);
        let mut torch = run("2026-01-02T00:00:00Z", NOT_FOUND, vec![row(2, 64, "torch_symm_mem", 2.0)]);
        for unknown in [
            &mut torch.provenance.version,
            &mut torch.provenance.link,
            &mut torch.provenance.cuda,
            &mut torch.provenance.nccl,
            &mut torch.provenance.nvls,
        ] {
            *unknown = NOT_FOUND.into();
        }
        torch.provenance.peers.insert("torch_symm_mem".into(), "PyTorch 2.10".into());
        let [merged] = by_machine(vec![ours.clone(), torch.clone()]).try_into().unwrap();
        assert_eq!(merged.rows.len(), 3);
        let expected = Provenance { date: torch.provenance.date, ..ours.provenance.clone() };
        assert_eq!(merged.provenance, Provenance { peers: torch.provenance.peers.clone(), ..expected });
        torch.provenance.driver = "another".into();
        assert_eq!(by_machine(vec![ours, torch]).len(), 2);
    }

    #[test]
    fn what_knows_no_version_joins_those_with_as_many_ranks() {
        let mut two = run("2026-01-03T00:00:00Z", "a", vec![row(2, 64, "auto", 1.0)]);
        two.provenance.nccl = "2.29".into();
        let four = run("2026-01-02T00:00:00Z", "a", vec![row(4, 64, "auto", 1.0)]);
        let mut torch = run("2026-01-01T00:00:00Z", "a", vec![row(4, 64, "torch_symm_mem", 2.0)]);
        torch.provenance.nccl = NOT_FOUND.into();
        let merged = by_machine(vec![torch, four, two]);
        assert_eq!(merged.iter().map(|run| run.rows.len()).collect::<Vec<_>>(), [1, 2]);
    }

    #[test]
    fn other_machines_stay_apart() {
        let a = run("2026-01-01T00:00:00Z", "a", vec![]);
        let mut b = run("2026-01-02T00:00:00Z", "a", vec![]);
        b.provenance.nccl = "2.29".into();
        assert_eq!(by_machine(vec![a.clone(), b.clone()]), [b, a]);
    }
}

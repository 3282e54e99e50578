//! Searches over pretended machines.

use myelon_ccl::device::DeviceKind;
use myelon_ccl::measure::Provenance;
use myelon_ccl::table::{Buffers, LaneTable, Row};
use myelon_ccl::variant::{Lanes, Shape};
use myelon_ccl::{DType, WorldSize};
use proptest::prelude::*;

use super::*;
use crate::fake::{Machine, space, space_in};
use crate::run::End;
use crate::sections::{behind, judgements, outs, sections, unjudged};
use crate::space::Entrant;

const BOTH: [DType; 2] = [DType::F32, DType::I32];

fn powers(from: u32, to: u32) -> Vec<u64> {
    (from..=to).map(|power| 1 << power).collect()
}

/// The best of all at a case.
fn best_us(machine: &Machine, space: &Space, case: Case) -> f64 {
    let own = (0..space.entrants.len()).filter(|&entrant| space.stand_in(case, entrant) == Some(entrant));
    let own = own.filter(|&entrant| space.variant(entrant).is_some());
    own.map(|entrant| machine.truth_us(space, case, entrant)).fold(f64::INFINITY, f64::min)
}

#[test]
fn a_node_is_tuned_in_seven_minutes_as_well_as_by_measuring_everything() {
    let space = space_in(Buffers::ALL, powers(10, 30), &BOTH, &[], false);
    let all: usize = space
        .cases()
        .map(|case| (0..space.entrants.len()).filter(|&it| space.stand_in(case, it) == Some(it)).count())
        .sum();
    for seed in [1, 2] {
        let machine = Machine { seed, noise: 0.02 };
        let (log, spent_s) = machine.search(&space, usize::MAX);
        assert!(spent_s < 420.0, "{spent_s} s");
        assert!(log.measured() * 2 < all, "{} of {all}", log.measured());
        for class in 0..space.classes.len() {
            for (bytes, entrant) in choices(&space, &log, class) {
                let case = (class, bytes);
                let taken = machine.truth_us(&space, case, entrant);
                if space.sizes.contains(&bytes) {
                    let best = best_us(&machine, &space, case);
                    assert!(
                        taken <= 1.03 * best,
                        "seed {seed}, {case:?}: {taken} us with {}, {best} us is possible",
                        space.entrants[entrant]
                    );
                }
            }
        }
    }
}

/// A tenth of the time is enough for a table that is no worse than the manifest.
#[test]
fn a_search_that_is_cut_is_no_worse_than_the_manifest_at_any_size() {
    let space = space_in(&[Buffers::Plain], powers(10, 30), &BOTH, &[], false);
    let machine = Machine { seed: 4, noise: 0.02 };
    let (mut log, mut spent_s, mut checked) = (Log::default(), 0.0, 0);
    for rounds in 0.. {
        let Some(round) = next(&space, &log) else { break };
        spent_s += machine.cost_s(&space, &log, &round);
        machine.measure(&space, &mut log, &round);
        if spent_s < 42.0 || rounds % 20 != 0 {
            continue;
        }
        for class in 0..space.classes.len() {
            let taken = choices(&space, &log, class);
            for &bytes in &space.sizes {
                let case = (class, bytes);
                let &(_, entrant) = taken.iter().rev().find(|&&(from, _)| from <= bytes).unwrap();
                let own = (0..space.seeds).filter(|&seed| space.stand_in(case, seed) == Some(seed));
                let manifest = own.map(|seed| machine.truth_us(&space, case, seed)).fold(f64::INFINITY, f64::min);
                let taken_us = machine.truth_us(&space, case, entrant);
                assert!(
                    taken_us <= 1.04 * manifest,
                    "{case:?} after {spent_s} s: {taken_us} us, manifest {manifest} us"
                );
                checked += 1;
            }
        }
    }
    assert!(checked > 1000, "{checked}");
}

#[test]
fn registered_buffers_take_what_plain_ones_do_until_direct_outputs_are_better() {
    let space = space_in(Buffers::ALL, powers(10, 28), &[DType::F32], &["one_shot_push", "ring"], false);
    let machine = Machine { seed: 3, noise: 0.0 };
    let (log, _) = machine.search(&space, usize::MAX);
    let ranks = WorldSize::new(8).unwrap();
    let [plain, registered]: [_; 2] = sections(&space, &log, ranks).try_into().unwrap();
    assert_eq!([plain.buffers, registered.buffers], [Buffers::Plain, Buffers::Registered]);
    assert!(plain.rows.iter().all(|row| !row.choice.shape.is_direct()));
    let direct = |row: &Row| row.choice.shape.is_direct();
    let first = registered.rows.iter().position(direct).unwrap();
    assert!(first > 0 && registered.rows[first..].iter().all(direct), "one boundary");
    assert_eq!(registered.rows[0].choice, plain.rows[0].choice);
    let measured = |class: usize| space.sizes.iter().map(|&bytes| log.ranking((class, bytes)).count()).sum::<usize>();
    assert!(measured(1) * 3 < measured(0), "{} in plain buffers, {} in registered ones", measured(0), measured(1));
    for Row { choice, measured, .. } in &registered.rows {
        let case = (1, measured.at.0);
        let place = space.entrants.iter().position(|known| *known == Entrant::Myelon(choice.clone())).unwrap();
        let samples = log.samples(case, space.stand_in(case, place).unwrap()).unwrap();
        assert_eq!(samples.p50_us(), measured.p50_us, "measured there");
    }
}

#[test]
fn a_search_that_is_cut_has_no_rows_for_registered_buffers_before_the_largest_size() {
    let space = space_in(Buffers::ALL, powers(10, 24), &[DType::F32], &["one_shot_push", "ring"], false);
    let (machine, ranks) = (Machine { seed: 3, noise: 0.0 }, WorldSize::new(8).unwrap());
    let (mut log, mut seen) = (Log::default(), [false; 2]);
    while let Some(round) = next(&space, &log) {
        machine.measure(&space, &mut log, &round);
        if round.case.0 == 1 {
            let sections = sections(&space, &log, ranks);
            let largest = log.sizes(1).last() == space.sizes.last().copied();
            assert_eq!(sections.len(), 1 + usize::from(largest));
            seen[usize::from(largest)] = true;
        }
    }
    assert_eq!(seen, [true; 2]);
}

#[test]
fn registered_buffers_alone_are_searched_as_plain_ones() {
    let space = space_in(&[Buffers::Registered], powers(20, 24), &[DType::F32], &["one_shot_push", "ring"], false);
    let machine = Machine { seed: 3, noise: 0.0 };
    let (log, _) = machine.search(&space, usize::MAX);
    for (bytes, entrant) in choices(&space, &log, 0).into_iter().filter(|(bytes, _)| space.sizes.contains(bytes)) {
        let case = (0, bytes);
        assert!(machine.truth_us(&space, case, entrant) <= 1.03 * best_us(&machine, &space, case), "{bytes}");
    }
}

#[test]
fn a_boundary_is_found_between_sizes() {
    let space =
        space(vec![1 << 10, 1 << 15, 1 << 20, 1 << 25], &[DType::F32], &["one_shot_push", "two_shot_push"], false);
    let mut crossings = 0;
    for seed in 0..8 {
        let machine = Machine { seed, noise: 0.0 };
        let (log, _) = machine.search(&space, usize::MAX);
        let choices = choices(&space, &log, 0);
        for pair in choices.windows(2).filter(|pair| pair[0].1 != pair[1].1) {
            let ((low, before), (high, after)) = (pair[0], pair[1]);
            assert!(high as f64 <= CLOSE * low as f64 || high - low <= 2 * GRAIN, "{low} to {high}");
            let [stays, changes] = [before, after].map(|entrant| machine.truth_us(&space, (0, high), entrant));
            assert!(changes <= stays, "seed {seed}, {high}: {changes} us instead of {stays}");
            crossings += usize::from(space.variant(before) != space.variant(after));
        }
    }
    assert!(crossings > 0, "no machine has a boundary between variants");
}

/// 8 us for each MiB begun by the one, 9 for the other.
#[test]
fn a_boundary_is_looked_for_right_behind_a_size() {
    let space = space(powers(20, 21), &[DType::F32], &["one_shot_push"], false);
    let own = |&entrant: &usize| space.stand_in((0, 1 << 20), entrant) == Some(entrant);
    let two: Vec<_> = (0..space.entrants.len()).filter(own).take(2).collect();
    let mut log = Log::default();
    while let Some(round) = next(&space, &log) {
        for &entrant in &round.entrants {
            let us = match two.iter().position(|&it| it == entrant) {
                Some(0) => 8.0 * round.case.1.div_ceil(1 << 20) as f32,
                Some(_) => 9.0 * round.case.1 as f32 / 1_048_576.0,
                None => 100.0,
            };
            log.record(round.case, entrant, &vec![us; round.repeats as usize]);
        }
    }
    let choices = choices(&space, &log, 0);
    let at = |bytes: u64| choices.iter().rev().find(|&&(from, _)| from <= bytes).unwrap().1;
    assert_eq!([1 << 20, (1 << 20) + GRAIN, 2 << 20].map(at), [two[0], two[1], two[0]]);
}

#[test]
fn between_two_sizes_what_may_win_at_either_is_measured() {
    let space = space(powers(24, 28), &[DType::F32], &["two_shot_push", "ring"], false);
    let (log, _) = Machine { seed: 3, noise: 0.0 }.search(&space, usize::MAX);
    for pair in space.sizes.windows(2) {
        let middle = (0, between(pair[0], pair[1]).unwrap());
        for &bytes in pair {
            for (entrant, _) in log.own_ranking(&space, (0, bytes)).take(2) {
                assert_eq!(log.count(middle, entrant), 20, "{} at {middle:?}", space.entrants[entrant]);
            }
        }
    }
}

#[test]
fn everything_is_measured_where_that_is_asked_for() {
    let space = space(powers(14, 15), &[DType::F32], &["one_shot_push", "ring"], true);
    let (log, _) = Machine { seed: 1, noise: 0.1 }.search(&space, usize::MAX);
    for case in space.cases() {
        let best_us = log.own_ranking(&space, case).next().unwrap().1;
        let mut counts = [0; 2];
        for entrant in (0..space.entrants.len()).filter(|&entrant| space.stand_in(case, entrant) == Some(entrant)) {
            let is_near = log.samples(case, entrant).unwrap().p50_us() <= RIVAL * best_us;
            assert!(log.count(case, entrant) == 20 || (log.count(case, entrant) == 5 && !is_near));
            counts[usize::from(is_near)] += 1;
        }
        assert!(counts[0] > 0 && counts[1] > 1, "{counts:?}");
    }
    assert_eq!(log.sizes(0).collect::<Vec<_>>(), space.sizes, "no sizes between them");
}

#[test]
fn all_direct_candidates_are_measured_in_registered_buffers_and_the_best_of_the_others() {
    let space = space_in(Buffers::ALL, powers(14, 15), &[DType::F32], &["one_shot_push", "ring"], true);
    let (log, _) = Machine { seed: 1, noise: 0.1 }.search(&space, usize::MAX);
    for (_, bytes) in space.cases().filter(|&(class, _)| class == 1) {
        let case = (1, bytes);
        let own = |&entrant: &usize| space.stand_in(case, entrant) == Some(entrant);
        for entrant in (0..space.entrants.len()).filter(own).filter(|&entrant| space.is_direct(entrant)) {
            assert!(log.count(case, entrant) >= 5);
        }
        let others = log.ranking(case).filter(|&(entrant, _)| !space.is_direct(entrant)).count();
        assert!((2..=4).contains(&others), "{others}: the best two, what a row takes, NCCL");
        let (best, _) = log.ranking((0, bytes)).next().unwrap();
        assert!(log.count(case, space.stand_in(case, best).unwrap()) >= 5);
    }
}

#[test]
fn a_judged_table_is_measured_with_all_repeats() {
    let mut space = space(powers(12, 14), &[DType::F32], &["one_shot_push", "two_shot_push"], false);
    let machine = Machine { seed: 5, noise: 0.0 };
    let ranks = WorldSize::new(8).unwrap();
    let (log, _) = machine.search(&space, usize::MAX);
    let good = sections(&space, &log, ranks);
    let mut bad = good.clone();
    for row in &mut bad[0].rows {
        row.choice.shape = Shape { lanes: Some(Lanes::UpTo(1)), threads: Some(32), ..row.choice.shape };
    }
    for (sections, is_behind) in [(good, false), (bad, true)] {
        let table = LaneTable::new(DeviceKind::Cuda, "", true, Provenance::of_this_host(""), sections).unwrap();
        space.judged.clear();
        space.judge(&table).unwrap();
        let (log, _) = machine.search(&space, usize::MAX);
        let judgements = judgements(&space, &log);
        assert_eq!(judgements.len(), 3);
        assert_eq!(judgements.iter().any(|judgement| judgement.is_behind()), is_behind, "{judgements:?}");
        assert!(space.judged.iter().all(|(&case, &taken)| log.count(case, space.stand_in(case, taken).unwrap()) >= 20));
    }
}

#[test]
fn what_a_judged_table_takes_counts_as_behind_where_it_is_out() {
    let mut space = space(powers(12, 13), &[DType::F32], &["one_shot_push", "two_shot_push"], false);
    let machine = Machine { seed: 5, noise: 0.0 };
    let sections = sections(&space, &machine.search(&space, usize::MAX).0, WorldSize::new(8).unwrap());
    let table = LaneTable::new(DeviceKind::Cuda, "", true, Provenance::of_this_host(""), sections).unwrap();
    space.judge(&table).unwrap();
    let (right, _) = machine.search(&space, usize::MAX);
    assert_eq!((judgements(&space, &right).len(), outs(&space, &right).len(), behind(&space, &right)), (2, 0, 0));
    assert_eq!(unjudged(&space, &right, End::Budget), 0);
    assert_eq!([End::Budget, End::Complete].map(|end| unjudged(&space, &Log::default(), end)), [2, 0]);
    let case = (0, 1 << 12);
    let taken = space.stand_in(case, space.judged[&case]).unwrap();
    let mut refused = right.clone();
    refused.refuse(case, taken, "too large".into());
    let outs_of = |log: &Log| outs(&space, log).into_iter().map(|out| (out.bytes, out.why)).collect::<Vec<_>>();
    assert_eq!((outs_of(&refused), behind(&space, &refused)), (vec![(1 << 12, "too large".to_owned())], 1));
    assert_eq!(judgements(&space, &refused).len(), 1);
    // Found wrong, after it was the fastest.
    let mut wrong = right;
    wrong.drop(taken, "7 wrong elements".into());
    assert!(outs_of(&wrong).contains(&(1 << 12, "7 wrong elements".to_owned())) && behind(&space, &wrong) > 0);
    assert!(judgements(&space, &wrong).iter().all(|it| it.bytes != 1 << 12 && it.best_us <= it.taken_us));
}

#[test]
fn what_a_judged_table_takes_counts_as_behind_where_it_cannot_run() {
    let of = |dtype, name| space(powers(12, 13), &[dtype], &[name], false);
    let (ring, machine) = (of(DType::F32, "ring"), Machine { seed: 5, noise: 0.0 });
    let sections = sections(&ring, &machine.search(&ring, usize::MAX).0, WorldSize::new(8).unwrap());
    // Float8 takes the rows of floats, and ring has none of its types.
    let table = LaneTable::new(DeviceKind::Cuda, "", true, Provenance::of_this_host(""), sections).unwrap();
    let mut space = of(DType::E4m3, "one_shot_push");
    space.judge(&table).unwrap();
    let (log, _) = machine.search(&space, usize::MAX);
    assert!(judgements(&space, &log).is_empty());
    let outs = outs(&space, &log);
    assert!(outs.len() == 2 && outs.iter().all(|out| out.why.contains("e4m3")), "{outs:?}");
    assert_eq!(behind(&space, &log), 2);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    /// Whatever comes of it, rounds ask for what can be measured and is needed, the search ends, and at any time there is a table.
    #[test]
    fn a_search_ends_and_can_be_cut_anywhere(seed: u64, noise in 0.0..0.5_f64, cut in 1usize..120, odd in 2u64..9) {
        let names = ["one_shot_push", "two_shot_push", "signal_two_shot", "ring"];
        let space = space_in(Buffers::ALL, powers(10, 22), &[DType::Bf16], &names, false);
        let machine = Machine { seed, noise };
        let mut log = Log::default();
        let mut rounds = 0;
        while let Some(round) = next(&space, &log) {
            prop_assert_eq!(&Some(round.clone()), &next(&space, &log.clone()));
            prop_assert!(!round.entrants.is_empty() && (1..=MOST_REPEATS).contains(&round.repeats) && round.entrants.len() <= ROUND);
            prop_assert!(round.entrants.windows(2).all(|pair| pair[0] < pair[1]));
            prop_assert!(round.entrants.iter().all(|&entrant| log.is_in(round.case, entrant)));
            // Some are found wrong, some cannot run there.
            let first = round.entrants[0];
            match (seed ^ rounds) % odd {
                0 if rounds % 7 == 3 => log.drop(first, "wrong".into()),
                1 => log.refuse(round.case, first, "too large".into()),
                _ => machine.measure(&space, &mut log, &round),
            }
            rounds += 1;
            prop_assert!(rounds < 5000, "it does not end");
            if rounds as usize == cut {
                let ranks = WorldSize::new(8).unwrap();
                let sections = sections(&space, &log, ranks);
                let provenance = Provenance::of_this_host("");
                if !sections.is_empty() {
                    LaneTable::new(DeviceKind::Cuda, "", false, provenance, sections).unwrap();
                }
            }
        }
        for (_, entrant) in choices(&space, &log, 0) {
            prop_assert!(log.dropped().get(entrant).is_none());
        }
    }
}

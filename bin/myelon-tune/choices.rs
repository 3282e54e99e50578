//! From what was measured to what is taken. Pure.

use std::cmp::Reverse;

use crate::log::Log;
use crate::space::{Entrant, Space};

/// A choice stays for the next size where it is at most this much slower than the best there: kernels that differ by noise are
/// not worth a compilation.
const TIE: f64 = 1.01;

/// What is taken from each measured size of a class on, growing.
pub(crate) fn choices(space: &Space, log: &Log, class: usize) -> Vec<(u64, usize)> {
    choices_before(space, log, class, u64::MAX)
}

/// The same of sizes below `end` alone.
pub(crate) fn choices_before(space: &Space, log: &Log, class: usize, end: u64) -> Vec<(u64, usize)> {
    let own = |bytes: u64| log.own_ranking(space, (class, bytes));
    let sizes = log.sizes(class).take_while(|&bytes| bytes < end);
    let sizes: Vec<_> = sizes.filter_map(|bytes| Some((bytes, own(bytes).next()?))).collect();
    let ties = |entrant: usize, (bytes, (_, best_us)): (u64, (usize, f64))| {
        let case = (class, bytes);
        let stand_in = space.stand_in(case, entrant).filter(|&it| log.is_in(case, entrant) && log.is_in(case, it));
        stand_in.and_then(|it| log.samples(case, it)).is_some_and(|samples| samples.p50_us() <= TIE * best_us)
    };
    let mut choices: Vec<(u64, usize)> = Vec::new();
    for (place, &(bytes, (best, best_us))) in sizes.iter().enumerate() {
        // Those that are as good here, and as well known.
        let known = log.count((class, bytes), best);
        let equals = own(bytes).take_while(|&(_, us)| us <= TIE * best_us).map(|(entrant, _)| entrant);
        let equals: Vec<_> = equals.filter(|&entrant| log.count((class, bytes), entrant) >= known).collect();
        // WHY: a copy costs the host microseconds, which are not measured here, so it has to be worth more than a tie.
        let has_lean = equals.iter().any(|&entrant| !has_copies(space, entrant));
        let is_lean = |&entrant: &usize| !has_lean || !has_copies(space, entrant);
        let before = choices.last().map(|&(_, before)| before);
        let before = before.filter(|before| ties(*before, sizes[place]) && is_lean(before));
        let choice = before.unwrap_or_else(|| {
            // What ties at the most sizes from here on; the fastest of several.
            let run = |entrant: usize| sizes[place..].iter().take_while(|&&size| ties(entrant, size)).count();
            let lean = equals.iter().copied().filter(is_lean);
            lean.min_by_key(|&entrant| Reverse(run(entrant))).unwrap_or(best)
        });
        choices.push((bytes, choice));
    }
    choices
}

fn has_copies(space: &Space, entrant: usize) -> bool {
    matches!(&space.entrants[entrant], Entrant::Myelon(choice) if choice.variant.transfer.has_copies())
}

#[cfg(test)]
mod tests {
    use myelon_ccl::DType;

    use super::*;
    use crate::fake::space;

    /// What each of two candidates took at three sizes: the first two of `variant` that stand for themselves, or the first of it and of
    /// `other`; and what is taken at each, 0 or 1.
    fn taken_of(variant: &str, other: &str, us: [[f32; 3]; 2]) -> Vec<usize> {
        let sizes = [64 << 20, 96 << 20, 128 << 20];
        let space = space(sizes.to_vec(), &[DType::F32], &[variant, other], false);
        let own = |&entrant: &usize| sizes.iter().all(|&bytes| space.stand_in((0, bytes), entrant) == Some(entrant));
        let is_of = |entrant: usize, name: &str| matches!(&space.entrants[entrant], Entrant::Myelon(it) if it.variant.name == name);
        let of = |name: &str| (0..space.entrants.len()).filter(own).filter(|&it| is_of(it, name)).collect::<Vec<_>>();
        let first = of(variant)[0];
        let entrants = [first, of(other).into_iter().find(|&it| it != first).unwrap()];
        let mut log = Log::default();
        for (&entrant, us) in entrants.iter().zip(us) {
            for (bytes, us) in sizes.into_iter().zip(us) {
                log.record((0, bytes), entrant, &[us; 20]);
            }
        }
        let choices = choices(&space, &log, 0).into_iter();
        choices.map(|(_, entrant)| entrants.iter().position(|&it| it == entrant).unwrap()).collect()
    }

    fn taken(us: [[f32; 3]; 2]) -> Vec<usize> {
        taken_of("ring", "ring", us)
    }

    #[test]
    fn copies_have_to_be_worth_more_than_a_tie() {
        let taken = |us| taken_of("ring", "ring_with_copies", us);
        assert_eq!(taken([[100.5, 150.5, 200.5], [100.0, 150.0, 200.0]]), [0, 0, 0]);
        assert_eq!(taken([[102.0, 150.5, 205.0], [100.0, 150.0, 200.0]]), [1, 0, 1]);
    }

    #[test]
    fn of_equals_the_one_that_lasts_is_taken() {
        // The first fits 64 MiB exactly, and takes a round more from there on.
        assert_eq!(taken([[100.0, 160.0, 200.0], [100.5, 150.0, 200.0]]), [1, 1, 1]);
        assert_eq!(taken([[100.0, 160.0, 200.0], [102.0, 150.0, 200.0]]), [0, 1, 1], "no equals");
        assert_eq!(taken([[100.0, 150.0, 200.0], [100.5, 150.0, 200.0]]), [0, 0, 0], "the fastest of those that last");
    }
}

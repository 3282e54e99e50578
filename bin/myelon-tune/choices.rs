//! From what was measured to what is taken. Pure.

use std::cmp::Reverse;

use crate::log::Log;
use crate::space::Space;

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
        let before = choices.last().map(|&(_, before)| before).filter(|&before| ties(before, sizes[place]));
        let choice = before.unwrap_or_else(|| {
            // Of those that are as good here, and as well known, what ties at the most sizes from here on; the fastest of several.
            let known = log.count((class, bytes), best);
            let equals = own(bytes).take_while(|&(_, us)| us <= TIE * best_us).map(|(entrant, _)| entrant);
            let equals = equals.filter(|&entrant| log.count((class, bytes), entrant) >= known);
            let run = |entrant: usize| sizes[place..].iter().take_while(|&&size| ties(entrant, size)).count();
            equals.min_by_key(|&entrant| Reverse(run(entrant))).unwrap_or(best)
        });
        choices.push((bytes, choice));
    }
    choices
}

#[cfg(test)]
mod tests {
    use myelon_ccl::DType;

    use super::*;
    use crate::fake::space;

    /// What each of two shapes of the ring took at three sizes; and what is taken at each, 0 or 1.
    fn taken(us: [[f32; 3]; 2]) -> Vec<usize> {
        let sizes = [64 << 20, 96 << 20, 128 << 20];
        let space = space(sizes.to_vec(), &[DType::F32], &["ring"], false);
        let own = |&entrant: &usize| sizes.iter().all(|&bytes| space.stand_in((0, bytes), entrant) == Some(entrant));
        let entrants: Vec<_> = (0..space.entrants.len()).filter(own).take(2).collect();
        let mut log = Log::default();
        for (&entrant, us) in entrants.iter().zip(us) {
            for (bytes, us) in sizes.into_iter().zip(us) {
                log.record((0, bytes), entrant, &[us; 20]);
            }
        }
        let choices = choices(&space, &log, 0).into_iter();
        choices.map(|(_, entrant)| entrants.iter().position(|&it| it == entrant).unwrap()).collect()
    }

    #[test]
    fn of_equals_the_one_that_lasts_is_taken() {
        // The first fits 64 MiB exactly, and takes a round more from there on.
        assert_eq!(taken([[100.0, 160.0, 200.0], [100.5, 150.0, 200.0]]), [1, 1, 1]);
        assert_eq!(taken([[100.0, 160.0, 200.0], [102.0, 150.0, 200.0]]), [0, 1, 1], "no equals");
        assert_eq!(taken([[100.0, 150.0, 200.0], [100.5, 150.0, 200.0]]), [0, 0, 0], "the fastest of those that last");
    }
}

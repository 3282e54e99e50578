//! What ranks tell each other at the end of a case, in messages that the control plane carries.

use myelon_ccl::bootstrap::{Bootstrap, MAX_CONTRIBUTION};
use myelon_ccl::{Error, Rank, Result};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// The sum over all ranks of each element; as many on every rank. Collective.
pub(crate) fn sums(bootstrap: &dyn Bootstrap, phase: &'static str, own: &[u64]) -> Result<Vec<u64>> {
    let mut sums = vec![0u64; own.len()];
    for theirs in gather(bootstrap, phase, own, u64::to_ne_bytes, u64::from_ne_bytes)? {
        for (sum, their) in sums.iter_mut().zip(theirs) {
            *sum = sum.saturating_add(their);
        }
    }
    Ok(sums)
}

/// What rank 0 says, on every rank. Collective.
pub(crate) fn decision(bootstrap: &dyn Bootstrap, phase: &'static str, own: bool) -> Result<bool> {
    let said = sums(bootstrap, phase, &[u64::from(own && bootstrap.rank() == Rank(0))])?;
    Ok(said == [1])
}

/// What every rank says, in rank order. Collective.
pub(crate) fn words<T: Serialize + DeserializeOwned>(
    bootstrap: &dyn Bootstrap,
    phase: &'static str,
    own: &T,
) -> Result<Vec<T>> {
    let wrong =
        |error| Error::invalid(format!("words of another form while {phase} ({error}): run one build on all ranks"));
    let bytes = serde_json::to_vec(own).map_err(wrong)?;
    let answers = bootstrap.all_gather(phase, &bytes)?;
    answers.iter().map(|answer| serde_json::from_slice(answer).map_err(wrong)).collect()
}

/// Everyone's times in rank order; as many from every rank. Collective.
pub(crate) fn series(bootstrap: &dyn Bootstrap, phase: &'static str, own: &[f32]) -> Result<Vec<Vec<f64>>> {
    let ranks = gather(bootstrap, phase, own, f32::to_ne_bytes, f32::from_ne_bytes)?;
    Ok(ranks.into_iter().map(|times| times.into_iter().map(f64::from).collect()).collect())
}

/// Everyone's numbers in rank order, in as many rounds as the control plane's limit takes.
fn gather<T: Copy, const N: usize>(
    bootstrap: &dyn Bootstrap,
    phase: &'static str,
    own: &[T],
    write: impl Fn(T) -> [u8; N],
    read: impl Fn([u8; N]) -> T,
) -> Result<Vec<Vec<T>>> {
    let mut all: Vec<Vec<T>> = bootstrap.world_size().ranks().map(|_| Vec::new()).collect();
    for part in own.chunks(MAX_CONTRIBUTION / N) {
        let bytes: Vec<u8> = part.iter().flat_map(|&number| write(number)).collect();
        let answers = bootstrap.all_gather(phase, &bytes)?;
        for (rank, (all, answer)) in all.iter_mut().zip(&answers).enumerate() {
            let (numbers, rest) = answer.as_chunks::<N>();
            if numbers.len() != part.len() || !rest.is_empty() {
                return Err(Error::invalid(format!(
                    "rank {rank} sent {} bytes while {phase}, {} were expected: give all ranks the same arguments",
                    answer.len(),
                    bytes.len()
                )));
            }
            all.extend(numbers.iter().map(|&number| read(number)));
        }
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use myelon_ccl::WorldSize;
    use myelon_ccl::bootstrap::LocalBootstrap;

    use super::*;

    fn on_ranks<T: Send>(body: impl Fn(&LocalBootstrap, u32) -> T + Sync) -> Vec<T> {
        let group = LocalBootstrap::group(WorldSize::new(3).unwrap(), Duration::from_secs(60));
        std::thread::scope(|scope| {
            let body = &body;
            let threads: Vec<_> =
                group.into_iter().map(|rank| scope.spawn(move || body(&rank, rank.rank().0))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).collect()
        })
    }

    #[test]
    fn long_series_arrive_whole_and_in_rank_order() {
        let times = |rank: u32| (0..10_000u32).map(|repeat| (rank * 20_000 + repeat) as f32).collect::<Vec<_>>();
        for all in on_ranks(|bootstrap, rank| series(bootstrap, "test", &times(rank)).unwrap()) {
            for (rank, series) in all.iter().enumerate() {
                let expected: Vec<_> = times(rank as u32).into_iter().map(f64::from).collect();
                assert_eq!(*series, expected);
            }
        }
    }

    #[test]
    fn counts_add_up_on_every_rank() {
        for sums in on_ranks(|bootstrap, rank| sums(bootstrap, "test", &[1, u64::from(rank)]).unwrap()) {
            assert_eq!(sums, [3, 3]);
        }
    }

    #[test]
    fn rank_0_decides() {
        for decided in on_ranks(|bootstrap, rank| decision(bootstrap, "test", rank == 0).unwrap()) {
            assert!(decided);
        }
        for decided in on_ranks(|bootstrap, rank| decision(bootstrap, "test", rank != 0).unwrap()) {
            assert!(!decided);
        }
    }

    #[test]
    fn words_arrive_in_rank_order() {
        for words in on_ranks(|bootstrap, rank| words(bootstrap, "test", &(rank, "x".to_owned())).unwrap()) {
            assert_eq!(words, [0, 1, 2].map(|rank| (rank, "x".to_owned())));
        }
    }

    #[test]
    fn ranks_that_disagree_on_the_length_are_told() {
        for outcome in on_ranks(|bootstrap, rank| series(bootstrap, "test", &vec![1.0; 2 + (rank / 2) as usize])) {
            assert!(outcome.unwrap_err().to_string().contains("the same arguments"));
        }
    }
}

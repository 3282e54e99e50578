//! One all-gather after the other, as a state machine without time or transport.

use std::time::Duration;

use super::name_ranks;
use crate::error::Error;
use crate::types::{Rank, WorldSize};

/// The contributions to the running round, and the failure that ended all rounds.
#[derive(Debug)]
pub(super) struct Rounds {
    given: Vec<Option<Contribution>>,
    failure: Option<Failure>,
}

#[derive(Debug)]
struct Contribution {
    phase: String,
    bytes: Vec<u8>,
}

/// What a contribution led to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// Others are still missing.
    Waiting,
    /// The round is over: everyone's bytes in rank order.
    Complete(Vec<Vec<u8>>),
    /// No round will ever complete again.
    Failed(Failure),
}

/// Why the rounds ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Failure {
    /// A deadline passed.
    Missing {
        /// Phase that did not complete.
        phase: String,
        /// Ranks that did not come to it.
        missing: Vec<Rank>,
        /// Rank whose deadline it was.
        waiter: Rank,
        /// That deadline.
        waited: Duration,
    },
    /// Two ranks came with different phases.
    Mismatch {
        /// One of them, with its phase.
        first: (Rank, String),
        /// The other, with its phase.
        second: (Rank, String),
    },
}

impl Rounds {
    pub(super) fn new(world: WorldSize) -> Self {
        Self { given: world.ranks().map(|_| None).collect(), failure: None }
    }

    /// Takes the contribution of `rank` to the running round. `None`: it had given one already.
    pub(super) fn give(&mut self, rank: Rank, phase: String, bytes: Vec<u8>) -> Option<Step> {
        if let Some(failure) = &self.failure {
            return Some(Step::Failed(failure.clone()));
        }
        if self.given[rank.index()].is_some() {
            return None;
        }
        let other = self.given.iter().zip(0..).find_map(|(given, other)| Some((Rank(other), given.as_ref()?)));
        if let Some((other, theirs)) = other
            && theirs.phase != phase
        {
            let failure = Failure::Mismatch { first: (other, theirs.phase.clone()), second: (rank, phase) };
            self.failure = Some(failure.clone());
            return Some(Step::Failed(failure));
        }
        self.given[rank.index()] = Some(Contribution { phase, bytes });
        if self.given.iter().any(Option::is_none) {
            return Some(Step::Waiting);
        }
        Some(Step::Complete(self.given.iter_mut().filter_map(Option::take).map(|given| given.bytes).collect()))
    }

    /// Ends all rounds because `waiter`, who has contributed to the running one, waited `waited` in vain.
    pub(super) fn expire(&mut self, waiter: Rank, waited: Duration) -> Failure {
        let phase = self.given[waiter.index()].as_ref().map(|given| given.phase.clone()).unwrap_or_default();
        let missing =
            self.given.iter().zip(0..).filter(|(given, _)| given.is_none()).map(|(_, rank)| Rank(rank)).collect();
        self.failure.get_or_insert(Failure::Missing { phase, missing, waiter, waited }).clone()
    }
}

impl Failure {
    /// The failure as `me` sees it from inside `phase`.
    pub(super) fn to_error(&self, me: Rank, phase: &'static str) -> Error {
        match self {
            Self::Missing { phase: missed, missing, waiter, waited } => {
                let names = name_ranks(missing);
                let detail = if *waiter == me && missed == phase {
                    format!(
                        "{names} did not come to '{missed}' within {:.1} s: check that it runs",
                        waited.as_secs_f64()
                    )
                } else {
                    format!(
                        "{names} did not come to '{missed}' within the {:.1} s that rank {waiter} waited",
                        waited.as_secs_f64()
                    )
                };
                Error::Bootstrap { rank: me, phase, detail }
            }
            Self::Mismatch { first, second } => {
                let (peer, theirs) = if second.0 == me || (first.0 != me && first.1 != phase) { first } else { second };
                Error::PeerMismatch {
                    rank: me,
                    peer: *peer,
                    what: "the phase of the bootstrap".into(),
                    ours: format!("'{phase}'"),
                    theirs: format!("'{theirs}'"),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rounds(size: u32) -> Rounds {
        Rounds::new(WorldSize::new(size).unwrap())
    }

    #[test]
    fn completes_in_rank_order_whatever_the_arrival() {
        let mut rounds = rounds(3);
        for round in 0..2_u8 {
            assert_eq!(rounds.give(Rank(2), "heap".into(), vec![2, round]), Some(Step::Waiting));
            assert_eq!(rounds.give(Rank(0), "heap".into(), vec![]), Some(Step::Waiting));
            let step = rounds.give(Rank(1), "heap".into(), vec![1]);
            assert_eq!(step, Some(Step::Complete(vec![vec![], vec![1], vec![2, round]])));
        }
    }

    #[test]
    fn a_second_contribution_is_refused() {
        let mut rounds = rounds(2);
        rounds.give(Rank(0), "heap".into(), vec![]);
        assert_eq!(rounds.give(Rank(0), "heap".into(), vec![]), None);
    }

    #[test]
    fn a_mismatch_names_both_sides_from_every_view() {
        let mut rounds = rounds(3);
        rounds.give(Rank(0), "heap".into(), vec![]);
        let Some(Step::Failed(failure)) = rounds.give(Rank(1), "kernels".into(), vec![]) else { panic!("no failure") };
        for (me, phase, other, theirs) in
            [(0, "heap", 1, "kernels"), (1, "kernels", 0, "heap"), (2, "heap", 1, "kernels"), (2, "kernels", 0, "heap")]
        {
            let Error::PeerMismatch { rank, peer, ours, theirs: seen, .. } = failure.to_error(Rank(me), phase) else {
                panic!("another error");
            };
            assert_eq!((rank, peer), (Rank(me), Rank(other)));
            assert_eq!((ours, seen), (format!("'{phase}'"), format!("'{theirs}'")));
        }
        assert_eq!(rounds.give(Rank(2), "heap".into(), vec![]), Some(Step::Failed(failure)));
    }

    #[test]
    fn expiry_names_the_missing_and_lasts() {
        let mut rounds = rounds(4);
        rounds.give(Rank(1), "heap".into(), vec![]);
        rounds.give(Rank(2), "heap".into(), vec![]);
        let failure = rounds.expire(Rank(2), Duration::from_secs(3));
        let text = failure.to_error(Rank(2), "heap").to_string();
        assert!(text.contains("ranks 0, 3") && text.contains("'heap'") && text.contains("3.0 s"), "{text}");
        assert!(failure.to_error(Rank(0), "heap").to_string().contains("that rank 2 waited"));
        assert_eq!(rounds.give(Rank(0), "heap".into(), vec![]), Some(Step::Failed(failure)));
    }
}

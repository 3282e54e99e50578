//! What one rank knows of the others' comings and goings.

use super::{ControlEvent, name_ranks};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// Who has left, and the first thing that ended the group.
#[derive(Debug)]
pub(super) struct Peers {
    left: Vec<bool>,
    lost: Vec<bool>,
    ending: Option<Ending>,
}

/// What makes every further collective hopeless.
#[derive(Clone, Debug)]
enum Ending {
    Lost(Rank, String),
    Aborted(Rank, String),
    Closed(String),
}

impl Peers {
    pub(super) fn new(world: WorldSize) -> Self {
        let nobody = vec![false; world.get() as usize];
        Self { left: nobody.clone(), lost: nobody, ending: None }
    }

    /// `rank` said goodbye; the event to tell, once.
    pub(super) fn left(&mut self, rank: Rank) -> Option<ControlEvent> {
        let is_new = !std::mem::replace(&mut self.left[rank.index()], true);
        is_new.then_some(ControlEvent::PeerLeft { rank })
    }

    /// `rank` is gone; the event to tell, unless it had left or is known to be gone.
    pub(super) fn lost(&mut self, rank: Rank, detail: &str) -> Option<ControlEvent> {
        if self.left[rank.index()] || self.lost[rank.index()] {
            return None;
        }
        self.lost[rank.index()] = true;
        self.ending.get_or_insert(Ending::Lost(rank, detail.into()));
        Some(ControlEvent::PeerLost { rank, detail: detail.into() })
    }

    /// `rank` gave up.
    pub(super) fn aborted(&mut self, rank: Rank, detail: &str) -> ControlEvent {
        self.ending.get_or_insert(Ending::Aborted(rank, detail.into()));
        ControlEvent::PeerAborted { rank, detail: detail.into() }
    }

    /// Nothing can be heard any more, for a reason that is nobody's loss.
    pub(super) fn closed(&mut self, detail: &str) {
        self.ending.get_or_insert(Ending::Closed(detail.into()));
    }

    /// Whether `rank` said goodbye.
    pub(super) fn has_left(&self, rank: Rank) -> bool {
        self.left[rank.index()]
    }

    /// `Some(true)` when all have left, `Some(false)` when that cannot happen any more.
    pub(super) fn all_left(&self) -> Option<bool> {
        if self.left.iter().all(|&left| left) {
            return Some(true);
        }
        let hopeless = self.lost.contains(&true) || matches!(self.ending, Some(Ending::Closed(_)));
        hopeless.then_some(false)
    }

    /// The error of a step among some of the ranks that cannot complete any more: one of them is lost, or somebody gave up. A goodbye
    /// is none, and no more is the loss of another rank.
    pub(super) fn check_among(&self, members: &[Rank], me: Rank, phase: &'static str) -> Result<()> {
        if let Some(&peer) = members.iter().find(|member| self.lost[member.index()]) {
            let detail = match &self.ending {
                Some(Ending::Lost(rank, detail)) if *rank == peer => detail.clone(),
                _ => "after another rank".into(),
            };
            return Err(Error::PeerLost { rank: me, peer, detail });
        }
        if matches!(self.ending, Some(Ending::Aborted(..))) { self.check(me, phase) } else { Ok(()) }
    }

    /// The error of a collective that cannot complete any more.
    pub(super) fn check(&self, me: Rank, phase: &'static str) -> Result<()> {
        match self.ending.clone() {
            Some(Ending::Lost(peer, detail)) if peer == me => {
                return Err(Error::Bootstrap {
                    rank: me,
                    phase,
                    detail: format!("the others gave this rank up: {detail}"),
                });
            }
            Some(Ending::Lost(peer, detail)) => return Err(Error::PeerLost { rank: me, peer, detail }),
            Some(Ending::Aborted(peer, detail)) => {
                let by = if peer == me { "by itself".into() } else { format!("by rank {peer}") };
                return Err(Error::Aborted { rank: me, detail: format!("{by} while {phase}: {detail}") });
            }
            Some(Ending::Closed(detail)) => return Err(Error::Bootstrap { rank: me, phase, detail }),
            None => {}
        }
        let left: Vec<_> = (0..).map(Rank).zip(&self.left).filter(|(_, left)| **left).map(|(rank, _)| rank).collect();
        if left.is_empty() {
            return Ok(());
        }
        Err(Error::Bootstrap { rank: me, phase, detail: format!("{} already said goodbye", name_ranks(&left)) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peers() -> Peers {
        Peers::new(WorldSize::new(3).unwrap())
    }

    #[test]
    fn a_goodbye_is_no_loss_and_a_loss_is_told_once() {
        let mut peers = peers();
        assert_eq!(peers.left(Rank(1)), Some(ControlEvent::PeerLeft { rank: Rank(1) }));
        assert_eq!(peers.left(Rank(1)), None);
        assert_eq!(peers.lost(Rank(1), "closed"), None);
        assert!(peers.lost(Rank(2), "closed").is_some());
        assert_eq!(peers.lost(Rank(2), "closed again"), None);
        assert_eq!(peers.all_left(), Some(false));
    }

    #[test]
    fn the_first_ending_is_the_error() {
        let mut peers = peers();
        assert!(peers.check(Rank(0), "heap").is_ok());
        peers.aborted(Rank(2), "out of memory");
        peers.lost(Rank(2), "closed");
        let error = peers.check(Rank(0), "heap").unwrap_err();
        assert!(error.is_aborted() && error.to_string().contains("rank 2 while heap: out of memory"), "{error}");
    }

    #[test]
    fn some_of_the_ranks_go_on_without_the_others_but_for_an_abort() {
        let mut peers = peers();
        let among = |peers: &Peers, members: &[u32]| {
            let members: Vec<_> = members.iter().copied().map(Rank).collect();
            peers.check_among(&members, Rank(0), "splitting")
        };
        peers.left(Rank(1));
        assert!(among(&peers, &[0, 1]).is_ok());
        peers.lost(Rank(2), "closed");
        assert!(among(&peers, &[0, 1]).is_ok());
        let error = among(&peers, &[0, 2]).unwrap_err();
        assert!(matches!(error, Error::PeerLost { peer: Rank(2), ref detail, .. } if detail == "closed"), "{error}");
        let mut peers = self::peers();
        peers.aborted(Rank(2), "out of memory");
        assert!(among(&peers, &[0, 1]).unwrap_err().is_aborted());
    }

    #[test]
    fn everyone_left_is_clean() {
        let mut peers = peers();
        for rank in 0..3 {
            assert_eq!(peers.all_left(), None);
            peers.left(Rank(rank));
        }
        assert_eq!(peers.all_left(), Some(true));
    }
}

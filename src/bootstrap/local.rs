//! Ranks as threads of one process.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::events::Events;
use super::peers::Peers;
use super::rounds::{Failure, Rounds, Step};
use super::{Bootstrap, ControlEvent, Listener, check_contribution, cut_detail, fds, split};
use crate::device::cpu::tsan;
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

/// One rank of a group that lives in one process.
#[derive(Debug)]
pub struct LocalBootstrap {
    rank: Rank,
    group: Arc<Group>,
    /// Taken by the collective that is running on this rank.
    turn: Mutex<()>,
}

#[derive(Debug)]
struct Group {
    world: WorldSize,
    deadline: Duration,
    state: Mutex<State>,
    changed: Condvar,
    events: Vec<Events>,
}

#[derive(Debug)]
struct State {
    rounds: Rounds,
    peers: Peers,
    /// What the rank's last round came to, until it picks it up.
    outcomes: Vec<Option<Outcome>>,
    /// Descriptors on offer in the running exchange.
    offers: Vec<Option<OwnedFd>>,
    /// Each rank's part of its child in the running split.
    children: Vec<Option<LocalBootstrap>>,
}

type Outcome = Result<Arc<Vec<Vec<u8>>>, Failure>;

impl LocalBootstrap {
    /// One bootstrap for each rank, in rank order; each goes to a thread of its own.
    ///
    /// `deadline` bounds every collective, from the moment a rank enters it.
    pub fn group(world: WorldSize, deadline: Duration) -> Vec<Self> {
        let state = State {
            rounds: Rounds::new(world),
            peers: Peers::new(world),
            outcomes: world.ranks().map(|_| None).collect(),
            offers: world.ranks().map(|_| None).collect(),
            children: world.ranks().map(|_| None).collect(),
        };
        let group = Arc::new(Group {
            world,
            deadline,
            state: Mutex::new(state),
            changed: Condvar::new(),
            events: world.ranks().map(|_| Events::default()).collect(),
        });
        world.ranks().map(|rank| Self { rank, group: Arc::clone(&group), turn: Mutex::new(()) }).collect()
    }

    fn gather(&self, phase: &'static str, bytes: &[u8]) -> Result<Arc<Vec<Vec<u8>>>> {
        check_contribution(self.rank, phase, bytes)?;
        let me = self.rank.index();
        let entered = Instant::now();
        let mut state = self.group.lock();
        state.peers.check(self.rank, phase)?;
        // ORDER: against the end of the round, below: kernels of one rank before it, kernels of another after it.
        tsan::release(&*self.group);
        match state.rounds.give(self.rank, phase.into(), bytes.to_vec()) {
            Some(Step::Waiting) => {}
            Some(Step::Complete(all)) => {
                let all = Arc::new(all);
                state.outcomes.fill(Some(Ok(all)));
                self.group.changed.notify_all();
            }
            Some(Step::Failed(failure)) => {
                state.outcomes.fill(Some(Err(failure)));
                self.group.changed.notify_all();
            }
            None => return Err(Error::invalid(format!("rank {me} is already in a collective"))),
        }
        loop {
            if let Some(outcome) = state.outcomes[me].take() {
                tsan::acquire(&*self.group);
                return outcome.map_err(|failure| failure.to_error(self.rank, phase));
            }
            state.peers.check(self.rank, phase)?;
            let Some(remaining) = self.group.deadline.checked_sub(entered.elapsed()) else {
                let failure = state.rounds.expire(self.rank, self.group.deadline);
                state.outcomes.fill(Some(Err(failure)));
                self.group.changed.notify_all();
                continue;
            };
            state = self.group.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Bootstrap for LocalBootstrap {
    fn rank(&self) -> Rank {
        self.rank
    }

    fn world_size(&self) -> WorldSize {
        self.group.world
    }

    fn all_gather(&self, phase: &'static str, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.gather(phase, bytes).map(Arc::unwrap_or_clone)
    }

    fn exchange_fds(&self, phase: &'static str, fd: Option<BorrowedFd<'_>>) -> Result<Vec<Option<OwnedFd>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let duplicate = |fd: BorrowedFd<'_>| {
            fd.try_clone_to_owned()
                .map_err(|source| Error::io(format!("rank {}: duplicating a descriptor", self.rank), source))
        };
        let offer = fd.map(duplicate).transpose();
        // WHY: a rank without its descriptor takes part all the same, so that the others need not wait for it.
        let (offer, failure) = offer.map_or_else(|error| (None, Some(error)), |offer| (offer, None));
        self.group.lock().offers[self.rank.index()] = offer;
        let told = failure.as_ref().map(Error::to_string).unwrap_or_default();
        let failures = self.gather(phase, cut_detail(&told).as_bytes())?;
        let received: Vec<_> = {
            use std::os::fd::AsFd;
            let state = self.group.lock();
            let others =
                self.group.world.ranks().map(|rank| state.offers[rank.index()].as_ref().filter(|_| rank != self.rank));
            let take = |offer: &OwnedFd| {
                duplicate(offer.as_fd())
                    .inspect_err(|error| tracing::warn!(%error, "a descriptor did not come through"))
                    .ok()
            };
            others.map(|offer| offer.and_then(take)).collect()
        };
        // INVARIANT: an offer stays until everyone has duplicated it, so a rank that failed to still comes here.
        self.gather(phase, &[])?;
        self.group.lock().offers[self.rank.index()] = None;
        if let Some(failure) = failure {
            return Err(failure);
        }
        fds::check(self.rank, phase, &failures)?;
        Ok(received)
    }

    fn split(&self, members: Option<&[Rank]>) -> Result<Option<Arc<dyn Bootstrap>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let place = members.map(|members| split::place(members, self.rank)).transpose()?;
        if let (Some(members), Some((Rank(0), world))) = (members, place) {
            let mut state = self.group.lock();
            for (member, child) in members.iter().zip(Self::group(world, self.group.deadline)) {
                state.children[member.index()] = Some(child);
            }
        }
        let met = self.gather(split::PHASE, &[]);
        // After a failure as well: a part that nobody takes would keep its peers waiting.
        let child = self.group.lock().children[self.rank.index()].take();
        met?;
        Ok(child.map(|child| Arc::new(child) as Arc<dyn Bootstrap>))
    }

    fn listen(&self, listener: Listener) {
        self.group.events[self.rank.index()].listen(listener);
    }

    fn announce_abort(&self, detail: &str) {
        self.group.tell_peers(self.rank, |peers| Some(peers.aborted(self.rank, cut_detail(detail))));
    }

    fn carries_peers(&self) -> bool {
        false
    }

    fn leave(&self, deadline: Duration) -> bool {
        let entered = Instant::now();
        self.group.tell_peers(self.rank, |peers| peers.left(self.rank));
        let mut state = self.group.lock();
        loop {
            if let Some(all) = state.peers.all_left() {
                return all;
            }
            let Some(remaining) = deadline.checked_sub(entered.elapsed()) else { return false };
            state = self.group.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for LocalBootstrap {
    fn drop(&mut self) {
        let detail = "its bootstrap was dropped without a goodbye";
        self.group.tell_peers(self.rank, |peers| peers.lost(self.rank, detail));
    }
}

impl Group {
    fn lock(&self) -> MutexGuard<'_, State> {
        // WHY: nothing under this lock panics half-way through a change, so a poisoned state is still whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes what became of `from`, and tells the others.
    ///
    /// INVARIANT: an event has its place in every queue before anyone can see what it is about: what a rank does about one
    /// comes behind it everywhere.
    fn tell_peers(&self, from: Rank, note: impl FnOnce(&mut Peers) -> Option<ControlEvent>) {
        let mut state = self.lock();
        let Some(event) = note(&mut state.peers) else { return };
        for peer in self.world.peers(from) {
            self.events[peer.index()].queue(event.clone());
        }
        drop(state);
        self.changed.notify_all();
        for peer in self.world.peers(from) {
            self.events[peer.index()].deliver();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_rank_does_about_an_event_comes_behind_it_everywhere() {
        let mut ranks = LocalBootstrap::group(WorldSize::new(3).unwrap(), Duration::from_secs(5));
        let lost = ranks.pop().unwrap();
        let [first, second] = <[_; 2]>::try_from(ranks).unwrap();
        let first = Arc::new(first);
        // Told before the second rank is: it leaves while the loss is still being told.
        let leaver = Arc::downgrade(&first);
        first.listen(Arc::new(move |_| assert!(!leaver.upgrade().unwrap().leave(Duration::ZERO))));
        let seen = Arc::new(Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        second.listen(Arc::new(move |event| sink.lock().unwrap().push(event)));
        drop(lost);
        let seen = seen.lock().unwrap();
        assert!(
            matches!(
                seen[..],
                [ControlEvent::PeerLost { rank: Rank(2), .. }, ControlEvent::PeerLeft { rank: Rank(0) }]
            ),
            "{seen:?}"
        );
    }
}

//! What the rendezvous server decides, as a state machine: messages and time in, messages out.

use std::time::{Duration, Instant};

use super::rounds::{Failure, Rounds, Step};
use super::wire::{Message, Refusal};
use crate::types::{Rank, WorldSize};

/// The group as the server sees it.
#[derive(Debug)]
pub(super) struct Hub {
    /// Token of the server's own process.
    process: u64,
    silence: Duration,
    /// Set by the first rank to join.
    group: Option<Group>,
    out: Vec<(Rank, Message)>,
}

#[derive(Debug)]
struct Group {
    world: WorldSize,
    members: Vec<Member>,
    rounds: Rounds,
    /// The first deadline among the running round's contributors.
    wait: Option<Wait>,
    host: Option<Rank>,
}

#[derive(Clone, Copy, Debug)]
struct Wait {
    until: Instant,
    waiter: Rank,
    length: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    /// Not here yet, or gone again before it took part in anything.
    Absent,
    /// Connected, without a contribution so far: it may still try again.
    Greeted,
    /// Takes part: the end of its connection is a loss.
    Present,
    /// Said goodbye.
    Left,
    /// Gone without a goodbye.
    Lost,
}

impl Hub {
    pub(super) fn new(process: u64, silence: Duration) -> Self {
        Self { process, silence, group: None, out: Vec::new() }
    }

    /// Admits an authenticated rank, or says why not.
    pub(super) fn join(&mut self, rank: u32, world: u32, process: u64) -> Result<Rank, Refusal> {
        let size = WorldSize::new(world).map_err(|_| Refusal::OutOfRange)?;
        if rank >= world {
            return Err(Refusal::OutOfRange);
        }
        let rank = Rank(rank);
        let group = self.group.get_or_insert_with(|| Group {
            world: size,
            members: vec![Member::Absent; world as usize],
            rounds: Rounds::new(size),
            wait: None,
            host: None,
        });
        if group.world != size {
            return Err(Refusal::WorldSize { here: group.world.get() });
        }
        if group.members[rank.index()] != Member::Absent {
            return Err(Refusal::DuplicateRank);
        }
        group.members[rank.index()] = Member::Greeted;
        self.out.push((rank, Message::Welcome { silence: self.silence }));
        let known = group.host;
        if process == self.process && known.is_none() {
            group.host = Some(rank);
            self.tell_all(&Message::HostedBy { rank });
        } else if let Some(host) = known {
            self.out.push((rank, Message::HostedBy { rank: host }));
        }
        self.tell_history(rank);
        Ok(rank)
    }

    /// Handles what a joined rank sent. False: it broke the protocol and should be cut off.
    pub(super) fn receive(&mut self, rank: Rank, message: Message, now: Instant) -> bool {
        let Some(group) = &mut self.group else { return false };
        match message {
            Message::Ping => {}
            Message::Contribute { deadline, phase, bytes } => {
                group.members[rank.index()] = Member::Present;
                let Some(step) = group.rounds.give(rank, phase, bytes) else { return false };
                match step {
                    Step::Waiting => {
                        let wait = Wait { until: now + deadline, waiter: rank, length: deadline };
                        group.wait = Some(group.wait.filter(|first| first.until <= wait.until).unwrap_or(wait));
                    }
                    Step::Complete(parts) => {
                        group.wait = None;
                        self.tell_all(&Message::Gathered { parts });
                    }
                    Step::Failed(failure) => self.fail(failure),
                }
            }
            Message::Aborted { detail, .. } => {
                group.members[rank.index()] = Member::Present;
                self.tell_peers(rank, &Message::Aborted { rank, detail });
            }
            Message::Left { .. } => {
                group.members[rank.index()] = Member::Left;
                self.tell_peers(rank, &Message::Left { rank });
            }
            _ => return false,
        }
        true
    }

    /// The connection of a joined rank ended.
    pub(super) fn gone(&mut self, rank: Rank, detail: &str) {
        let Some(group) = &mut self.group else { return };
        let member = &mut group.members[rank.index()];
        match *member {
            Member::Greeted => *member = Member::Absent,
            Member::Present => {
                *member = Member::Lost;
                // The lost rank is told too: if it was only stopped, it learns why it is alone.
                self.tell_all(&Message::Lost { rank, detail: detail.into() });
            }
            Member::Absent | Member::Left | Member::Lost => {}
        }
    }

    /// When [`Hub::expire`] has something to do.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        Some(self.group.as_ref()?.wait?.until)
    }

    /// Fails the running round if its deadline has passed.
    pub(super) fn expire(&mut self, now: Instant) {
        let Some(group) = &mut self.group else { return };
        if let Some(wait) = group.wait.filter(|wait| wait.until <= now) {
            let failure = group.rounds.expire(wait.waiter, wait.length);
            self.fail(failure);
        }
    }

    /// The messages to send, in order.
    pub(super) fn take_messages(&mut self) -> Vec<(Rank, Message)> {
        std::mem::take(&mut self.out)
    }

    /// The rank in whose process this server runs.
    pub(super) fn host(&self) -> Option<Rank> {
        self.group.as_ref()?.host
    }

    /// Whether every rank has left or is lost.
    pub(super) fn is_finished(&self) -> bool {
        let over = |member: &Member| matches!(member, Member::Left | Member::Lost);
        self.group.as_ref().is_some_and(|group| group.members.iter().all(over))
    }

    fn fail(&mut self, failure: Failure) {
        if let Some(group) = &mut self.group {
            group.wait = None;
        }
        self.tell_all(&Message::RoundFailed { failure });
    }

    /// What a late rank has missed.
    fn tell_history(&mut self, rank: Rank) {
        let Some(group) = &self.group else { return };
        for (peer, member) in group.world.ranks().zip(&group.members) {
            match member {
                Member::Left => self.out.push((rank, Message::Left { rank: peer })),
                Member::Lost => {
                    let detail = "it was lost before this rank joined".into();
                    self.out.push((rank, Message::Lost { rank: peer, detail }));
                }
                Member::Absent | Member::Greeted | Member::Present => {}
            }
        }
    }

    fn tell_peers(&mut self, from: Rank, message: &Message) {
        let Some(group) = &self.group else { return };
        self.out.extend(group.world.peers(from).map(|peer| (peer, message.clone())));
    }

    fn tell_all(&mut self, message: &Message) {
        let Some(group) = &self.group else { return };
        self.out.extend(group.world.ranks().map(|rank| (rank, message.clone())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SILENCE: Duration = Duration::from_secs(5);

    fn contribute(deadline_s: u64) -> Message {
        Message::Contribute { deadline: Duration::from_secs(deadline_s), phase: "join".into(), bytes: vec![1] }
    }

    fn joined(world: u32) -> Hub {
        let mut hub = Hub::new(1, SILENCE);
        for rank in 0..world {
            hub.join(rank, world, u64::from(rank) + 1).unwrap();
        }
        hub.take_messages();
        hub
    }

    #[test]
    fn joins_are_refused_with_the_reason() {
        let mut hub = Hub::new(1, SILENCE);
        assert_eq!(hub.join(0, 2, 1), Ok(Rank(0)));
        assert_eq!(hub.join(0, 2, 2), Err(Refusal::DuplicateRank));
        assert_eq!(hub.join(1, 3, 2), Err(Refusal::WorldSize { here: 2 }));
        assert_eq!(hub.join(2, 2, 2), Err(Refusal::OutOfRange));
        assert_eq!(hub.join(0, 4_000_000, 2), Err(Refusal::OutOfRange));
    }

    #[test]
    fn a_rank_that_went_before_taking_part_may_come_again() {
        let mut hub = joined(2);
        hub.gone(Rank(1), "reset");
        assert_eq!(hub.take_messages(), []);
        assert_eq!(hub.join(1, 2, 2), Ok(Rank(1)));
        hub.receive(Rank(1), contribute(1), Instant::now());
        hub.gone(Rank(1), "reset");
        assert_eq!(hub.join(1, 2, 2), Err(Refusal::DuplicateRank));
    }

    #[test]
    fn the_first_deadline_of_a_round_counts() {
        let mut hub = joined(3);
        let now = Instant::now();
        hub.receive(Rank(1), contribute(5), now);
        hub.receive(Rank(2), contribute(3), now);
        assert_eq!(hub.next_deadline(), Some(now + Duration::from_secs(3)));
        hub.expire(now + Duration::from_secs(2));
        assert_eq!(hub.take_messages(), []);
        hub.expire(now + Duration::from_secs(3));
        let failure = Failure::Missing {
            phase: "join".into(),
            missing: vec![Rank(0)],
            waiter: Rank(2),
            waited: Duration::from_secs(3),
        };
        assert_eq!(hub.take_messages()[2], (Rank(2), Message::RoundFailed { failure }));
        assert_eq!(hub.next_deadline(), None);
    }

    #[test]
    fn losses_are_told_to_everyone_and_goodbyes_are_none() {
        let mut hub = joined(3);
        for rank in 0..3 {
            hub.receive(Rank(rank), contribute(1), Instant::now());
        }
        hub.take_messages();
        hub.receive(Rank(0), Message::Left { rank: Rank(0) }, Instant::now());
        hub.gone(Rank(0), "closed");
        hub.gone(Rank(1), "closed");
        let lost = Message::Lost { rank: Rank(1), detail: "closed".into() };
        let left = Message::Left { rank: Rank(0) };
        let expected = [(1, &left), (2, &left), (0, &lost), (1, &lost), (2, &lost)];
        assert_eq!(hub.take_messages(), expected.map(|(rank, message)| (Rank(rank), message.clone())));
        assert!(!hub.is_finished());
        hub.gone(Rank(2), "closed");
        assert!(hub.is_finished());
    }

    #[test]
    fn what_only_a_server_says_cuts_a_rank_off() {
        let mut hub = joined(2);
        assert!(!hub.receive(Rank(0), Message::Gathered { parts: vec![] }, Instant::now()));
        assert!(hub.receive(Rank(0), contribute(1), Instant::now()));
        assert!(!hub.receive(Rank(0), contribute(1), Instant::now()), "two contributions to one round");
    }

    #[test]
    fn an_abort_carries_the_senders_rank_whatever_it_claims() {
        let mut hub = joined(2);
        hub.receive(Rank(1), Message::Aborted { rank: Rank(0), detail: "x".into() }, Instant::now());
        assert_eq!(hub.take_messages(), [(Rank(0), Message::Aborted { rank: Rank(1), detail: "x".into() })]);
    }
}

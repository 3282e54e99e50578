//! One rank's end of the rendezvous: a blocking face over one TCP connection that a thread of its own drives.

mod connection;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::mpsc::RecvTimeoutError;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::connect::{Meeting, connect};
use super::server::RendezvousServer;
use super::tcp_options::TcpOptions;
use super::wire::Message;
use super::{Bootstrap, Listener, UniqueId, check_contribution, cut_detail, fds, split};
use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};
use connection::{Shared, drive};

/// How long an answer of the server may take beyond the deadline it keeps for a rank.
const ANSWER_GRACE: Duration = Duration::from_secs(1);
/// How often a wait asks whether to go on.
const ASKED_EVERY: Duration = Duration::from_millis(100);

/// One rank of a group of processes, connected through a [`RendezvousServer`].
pub struct TcpBootstrap {
    shared: Arc<Shared>,
    /// Also those of the groups that split off.
    options: TcpOptions,
    /// Taken by the collective that is running on this rank.
    turn: Mutex<()>,
    /// To the connection's thread; dropped to end it.
    outgoing: Option<mpsc::UnboundedSender<Message>>,
    /// Kept for as long as this rank.
    server: Option<RendezvousServer>,
}

impl TcpBootstrap {
    /// Joins the group of `id` and waits until all its ranks have come.
    ///
    /// Blocks the calling thread; may be called inside somebody else's async runtime.
    ///
    /// Errors: [`Error::InvalidArgument`] for a rank outside the world or bad options; [`Error::Bootstrap`] when the server cannot be
    /// reached, does not know the secret, or ranks are missing at the deadline (they are named);
    /// [`Error::PeerMismatch`] when the group has another size.
    pub fn connect(id: &UniqueId, rank: Rank, world: WorldSize, options: &TcpOptions) -> Result<Self> {
        Self::connect_by(Meeting::at(*id), rank, world, options)
    }

    /// As [`TcpBootstrap::connect`], at a place that may become known or change while this waits.
    pub(super) fn connect_by(meeting: Meeting, rank: Rank, world: WorldSize, options: &TcpOptions) -> Result<Self> {
        Self::connect_while(meeting, rank, world, options, &|| Ok(()))
    }

    /// As [`TcpBootstrap::connect_by`], for as long as `go_on` says so, which is asked all the time.
    pub(super) fn connect_while(
        meeting: Meeting,
        rank: Rank,
        world: WorldSize,
        options: &TcpOptions,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Self> {
        if rank.0 >= world.get() {
            return Err(Error::invalid(format!(
                "rank {rank} in a world of {world}: ranks are 0 to {}",
                world.get() - 1
            )));
        }
        let options = options.checked()?;
        let entered = Instant::now();
        let shared = Arc::new(Shared::new(rank, world));
        let (outgoing, messages) = mpsc::unbounded_channel();
        let (started, outcome) = std::sync::mpsc::sync_channel(1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|source| Error::io(format!("rank {rank}: starting the bootstrap"), source))?;
        let (joining, driven) = (options.joining(), Arc::clone(&shared));
        std::thread::Builder::new()
            .name(format!("myelon-rank-{rank}"))
            .spawn(move || {
                runtime.block_on(async {
                    match connect(meeting, rank, world, joining).await {
                        Ok(connection) => {
                            let _ = started.send(Ok(()));
                            drive(connection, &driven, messages).await;
                        }
                        Err(error) => drop(started.send(Err(error))),
                    }
                });
                driven.lock().finished = true;
                driven.changed.notify_all();
            })
            .map_err(|source| Error::io(format!("rank {rank}: starting the bootstrap's thread"), source))?;
        loop {
            match outcome.recv_timeout(ASKED_EVERY) {
                Ok(outcome) => break outcome?,
                // The thread gives up by itself, at the latest at the deadline.
                Err(RecvTimeoutError::Timeout) => go_on()?,
                Err(RecvTimeoutError::Disconnected) => {
                    let detail = "its thread ended early; the log has the panic".into();
                    return Err(Error::Bootstrap { rank, phase: "connecting", detail });
                }
            }
        }
        let bootstrap = Self { shared, options, turn: Mutex::new(()), outgoing: Some(outgoing), server: None };
        bootstrap.gather_while("join", &[], joining.saturating_sub(entered.elapsed()), go_on)?;
        Ok(bootstrap)
    }

    /// Keeps `server` for as long as this rank.
    pub fn hosting(mut self, server: RendezvousServer) -> Self {
        self.server = Some(server);
        self
    }

    fn send(&self, message: Message) {
        // WHY: a send fails only after the connection has ended, and then `peers` says why.
        let _ = self.outgoing.as_ref().map(|outgoing| outgoing.send(message));
    }

    fn gather(&self, phase: &'static str, bytes: &[u8], deadline: Duration) -> Result<Vec<Vec<u8>>> {
        self.gather_while(phase, bytes, deadline, &|| Ok(()))
    }

    fn gather_while(
        &self,
        phase: &'static str,
        bytes: &[u8],
        deadline: Duration,
        go_on: &dyn Fn() -> Result<()>,
    ) -> Result<Vec<Vec<u8>>> {
        let rank = self.shared.rank;
        check_contribution(rank, phase, bytes)?;
        let entered = Instant::now();
        let mut state = self.shared.lock();
        if let Some(Err(failure)) = &state.outcome {
            return Err(failure.to_error(rank, phase));
        }
        go_on()?;
        state.peers.check(rank, phase)?;
        self.send(Message::Contribute { deadline, phase: phase.into(), bytes: bytes.to_vec() });
        loop {
            match &mut state.outcome {
                Some(Err(failure)) => return Err(failure.to_error(rank, phase)),
                answer @ Some(Ok(_)) => {
                    if let Some(Ok(parts)) = answer.take() {
                        return Ok(parts);
                    }
                }
                None => {}
            }
            // First: a rank that gives up for this reason is a loss for the others.
            go_on()?;
            state.peers.check(rank, phase)?;
            let Some(remaining) = (deadline + ANSWER_GRACE).checked_sub(entered.elapsed()) else {
                let detail = format!("the rendezvous server did not answer within {:.1} s", deadline.as_secs_f64());
                state.peers.closed(&detail);
                return Err(Error::Bootstrap { rank, phase, detail });
            };
            let waiting = self.shared.changed.wait_timeout(state, remaining.min(ASKED_EVERY));
            state = waiting.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Bootstrap for TcpBootstrap {
    fn rank(&self) -> Rank {
        self.shared.rank
    }

    fn world_size(&self) -> WorldSize {
        self.shared.world
    }

    fn all_gather(&self, phase: &'static str, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        self.gather(phase, bytes, self.options.deadline)
    }

    fn exchange_fds(&self, phase: &'static str, fd: Option<BorrowedFd<'_>>) -> Result<Vec<Option<OwnedFd>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let gather = |bytes: &[u8]| self.gather(phase, bytes, self.options.deadline);
        fds::exchange(self.shared.rank, phase, self.options.deadline, fd, gather)
    }

    fn split(&self, members: Option<&[Rank]>) -> Result<Option<Arc<dyn Bootstrap>>> {
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        let gather = |bytes: &[u8]| self.gather(split::PHASE, bytes, self.options.deadline);
        // WHY: who is lost on its way to the child is known here, and to nobody there.
        let go_on = |members: &[Rank]| self.shared.lock().peers.check_among(members, self.shared.rank, split::PHASE);
        split::meet(self.shared.rank, members, &self.options, gather, go_on)
    }

    fn listen(&self, listener: Listener) {
        self.shared.events.listen(listener);
    }

    fn announce_abort(&self, detail: &str) {
        let detail = cut_detail(detail);
        self.shared.lock().peers.aborted(self.shared.rank, detail);
        self.shared.changed.notify_all();
        self.send(Message::Aborted { rank: self.shared.rank, detail: detail.into() });
    }

    fn carries_peers(&self) -> bool {
        self.server.is_some() || self.shared.lock().host == self.shared.rank
    }

    fn leave(&self, deadline: Duration) -> bool {
        let entered = Instant::now();
        let mut state = self.shared.lock();
        if state.peers.left(self.shared.rank).is_some() {
            self.send(Message::Left { rank: self.shared.rank });
            self.shared.changed.notify_all();
        }
        loop {
            let all_left = state.peers.all_left();
            // WHY: the server in this process closes this connection last, after it has told everyone the end; to
            // return before would let the process end first.
            let told = state.finished || state.host != self.shared.rank || all_left != Some(true);
            if let Some(all) = all_left.filter(|_| told) {
                return all;
            }
            let Some(remaining) = deadline.checked_sub(entered.elapsed()) else { return all_left == Some(true) };
            state = self.shared.changed.wait_timeout(state, remaining).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for TcpBootstrap {
    /// Waits, at most a second, until what was said last is on its way.
    fn drop(&mut self) {
        self.outgoing = None;
        let state = self.shared.lock();
        let _ = self.shared.changed.wait_timeout_while(state, Duration::from_secs(1), |state| !state.finished);
    }
}

impl fmt::Debug for TcpBootstrap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Shared { rank, world, .. } = &*self.shared;
        f.debug_struct("TcpBootstrap").field("rank", rank).field("world", world).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_out_of_range_are_errors_and_endless_deadlines_a_day() {
        let options = |silence| TcpOptions { deadline: Duration::MAX, silence, ..TcpOptions::default() };
        assert!(options(Duration::ZERO).checked().is_err());
        assert!(options(Duration::MAX).checked().is_err());
        let server = RendezvousServer::start(&options(Duration::from_secs(5))).unwrap();
        let world = WorldSize::new(1).unwrap();
        let alone = TcpBootstrap::connect(&server.id(), Rank(0), world, &options(Duration::from_secs(5))).unwrap();
        assert!(alone.exchange_fds("nothing", None).unwrap()[0].is_none());
        assert!(alone.leave(Duration::MAX));
    }
}

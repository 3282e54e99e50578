//! The control plane of ranks that attach. It keeps what is said of lost ranks: a communicator hears it too, but there may be none yet,
//! and one that has stopped for another reason keeps that.
//!
//! Once a communicator is attached, its kernels do not hear of lost ranks any more: they wait until somebody aborts, as NCCL's do, so
//! that nothing behind them runs on results that never came. Whoever asks hears of it at once.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Once, OnceLock};
use std::time::Duration;

use myelon_ccl::bootstrap::{Bootstrap, ControlEvent, Listener, TcpBootstrap};
use myelon_ccl::{Error, Rank, Result, WorldSize};

#[derive(Debug)]
pub(crate) struct Control {
    plane: TcpBootstrap,
    heard: Arc<Heard>,
    listening: Once,
    gives_up: AtomicBool,
}

/// What was said.
#[derive(Debug, Default)]
struct Heard {
    /// The first rank that was lost, and how that was noticed.
    lost: OnceLock<(Rank, String)>,
    /// Whether losses are kept from the communicator.
    holds: AtomicBool,
}

impl Control {
    pub(super) fn new(plane: TcpBootstrap) -> Self {
        Self { plane, heard: Arc::default(), listening: Once::new(), gives_up: AtomicBool::new(false) }
    }

    /// Hears of lost ranks though no communicator has come to listen.
    pub(super) fn listen_alone(&self) {
        self.listen(Arc::new(|_| ()));
    }

    /// From now on losses are kept from the communicator's kernels.
    pub(super) fn hold(&self) {
        self.heard.holds.store(true, Ordering::Relaxed);
    }

    /// The first loss.
    pub(crate) fn lost(&self) -> Option<Error> {
        let (peer, detail) = self.heard.lost.get()?.clone();
        Some(Error::PeerLost { rank: self.rank(), peer, detail })
    }

    /// Says no goodbye from now on, so that the end of this rank is a loss for its peers: it does not come to where they wait.
    pub(super) fn give_up(&self) {
        self.gives_up.store(true, Ordering::Relaxed);
    }
}

impl Bootstrap for Control {
    fn rank(&self) -> Rank {
        self.plane.rank()
    }

    fn world_size(&self) -> WorldSize {
        self.plane.world_size()
    }

    fn all_gather(&self, phase: &'static str, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.plane.all_gather(phase, bytes)
    }

    fn exchange_fds(&self, phase: &'static str, fd: Option<BorrowedFd<'_>>) -> Result<Vec<Option<OwnedFd>>> {
        self.plane.exchange_fds(phase, fd)
    }

    fn split(&self, members: Option<&[Rank]>) -> Result<Option<Arc<dyn Bootstrap>>> {
        self.plane.split(members)
    }

    fn listen(&self, listener: Listener) {
        let heard = Arc::clone(&self.heard);
        let hear = move |event| {
            // A rank that gave up, or has left, still comes to the exchange.
            if let ControlEvent::PeerLost { rank, detail } = &event {
                heard.lost.get_or_init(|| (*rank, detail.clone()));
                if heard.holds.load(Ordering::Relaxed) {
                    return;
                }
            }
            listener(event);
        };
        self.listening.call_once(|| self.plane.listen(Arc::new(hear)));
    }

    fn announce_abort(&self, detail: &str) {
        self.plane.announce_abort(detail);
    }

    fn carries_peers(&self) -> bool {
        self.plane.carries_peers()
    }

    fn leave(&self, deadline: Duration) -> bool {
        !self.gives_up.load(Ordering::Relaxed) && self.plane.leave(deadline)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use myelon_ccl::bootstrap::{RendezvousServer, TcpOptions};
    use std::time::Instant;

    fn three() -> Vec<Control> {
        let (options, world) = (TcpOptions::default(), WorldSize::new(3).unwrap());
        let server = RendezvousServer::start(&options).unwrap();
        let join = |rank| Control::new(TcpBootstrap::connect(&server.id(), Rank(rank), world, &options).unwrap());
        std::thread::scope(|scope| {
            let ranks: Vec<_> = (0..3).map(|rank| scope.spawn(move || join(rank))).collect();
            ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
        })
    }

    fn lost_is(error: &Error, rank: u32) -> bool {
        matches!(error, Error::PeerLost { peer, .. } if *peer == Rank(rank))
    }

    fn within_a_while(is_so: impl Fn() -> bool) -> bool {
        let began = Instant::now();
        while !is_so() && began.elapsed() < Duration::from_secs(30) {
            std::thread::sleep(Duration::from_millis(1));
        }
        is_so()
    }

    /// The one that gave up is alive, and what it said does not hide a loss.
    #[test]
    fn only_a_loss_is_one_and_both_listeners_hear_it() {
        let mut ranks = three();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        ranks[0].listen(Arc::new(move |event| sink.lock().unwrap().push(event)));
        ranks[1].announce_abort("no memory");
        assert!(within_a_while(|| !seen.lock().unwrap().is_empty()));
        assert!(ranks[0].lost().is_none());
        ranks.pop();
        assert!(within_a_while(|| ranks[0].lost().is_some_and(|why| lost_is(&why, 2))));
        // Told before it listens.
        ranks[1].listen_alone();
        assert!(within_a_while(|| ranks[1].lost().is_some()));
        assert!(within_a_while(|| seen.lock().unwrap().len() == 2));
    }

    #[test]
    fn a_goodbye_is_no_loss_unless_the_rank_gives_up() {
        let mut ranks = three();
        ranks[0].listen_alone();
        drop(ranks.pop().inspect(|rank| assert!(!rank.leave(Duration::ZERO))));
        std::thread::sleep(Duration::from_millis(50));
        assert!(ranks[0].lost().is_none());
        drop(ranks.pop().inspect(|rank| {
            rank.give_up();
            assert!(!rank.leave(Duration::ZERO));
        }));
        assert!(within_a_while(|| ranks[0].lost().is_some_and(|why| lost_is(&why, 1))));
    }

    #[test]
    fn a_loss_is_held_back_from_the_communicator_and_nothing_else_is() {
        let mut ranks = three();
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let sink = Arc::clone(&seen);
        ranks[0].listen(Arc::new(move |event| sink.lock().unwrap().push(event)));
        ranks[0].hold();
        drop(ranks.pop());
        assert!(within_a_while(|| ranks[0].lost().is_some_and(|why| lost_is(&why, 2))));
        ranks[1].announce_abort("asked");
        assert!(within_a_while(|| !seen.lock().unwrap().is_empty()));
        let seen = seen.lock().unwrap();
        assert!(matches!(seen[..], [ControlEvent::PeerAborted { rank: Rank(1), .. }]), "{seen:?}");
    }
}

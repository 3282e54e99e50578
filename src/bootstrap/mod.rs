//! How ranks find each other, exchange small messages and pass file descriptors.
//!
//! A communicator sees only the trait [`Bootstrap`]. Three things implement or make one:
//!
//! | ranks are | use | they meet by |
//! |---|---|---|
//! | threads of one process | [`LocalBootstrap::group`] | shared memory |
//! | processes of one node | [`TcpBootstrap::connect`] | a [`UniqueId`] that one of them made and passed on |
//! | started by a launcher | [`from_env`] | what the launcher put into the environment |
//!
//! With the cargo feature `mpi`, `bootstrap::mpi::connect` passes the id through MPI itself.
//!
//! Deciding and doing are apart: `header`, `wire`, `handshake`, `hub`, `rounds` and [`launcher`] are pure functions of
//! bytes, messages and time; `server`, `tcp`, `fds` and `address_file` own the sockets and files.

mod address_file;
mod codec;
mod connect;
mod env;
mod events;
mod fds;
mod frames;
mod handshake;
mod header;
mod host;
mod hub;
pub mod launcher;
mod local;
#[cfg(feature = "mpi")]
pub mod mpi;
mod peers;
mod process;
mod rounds;
mod server;
mod split;
mod tcp;
mod tcp_options;
mod unique_id;
mod verdict;
mod wire;

use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Result};
use crate::types::{Rank, WorldSize};

pub use env::{check_socket_address, from_env};
pub use host::check_one_host;
pub use local::LocalBootstrap;
pub(crate) use process::process_token;
pub use server::RendezvousServer;
pub use tcp::TcpBootstrap;
pub use tcp_options::TcpOptions;
pub use unique_id::{UNIQUE_ID_BYTES, UniqueId};
pub use verdict::agree;

/// Most bytes one rank may give to an all-gather.
pub const MAX_CONTRIBUTION: usize = 16 * 1024;
/// Most bytes the name of a phase may have.
pub const MAX_PHASE: usize = 64;

/// What a communicator needs of its control plane.
///
/// Collectives (`all_gather`, `barrier`, `exchange_fds`, `split`) are called by every rank in the same order with the same
/// phase; a rank runs one at a time, further threads wait their turn. Each ends within the deadline the bootstrap was
/// made with. A failed collective ends the bootstrap for collectives: later ones return an error at once, because
/// the ranks no longer agree on where they are.
///
/// Dropping a bootstrap without [`Bootstrap::leave`] counts as a loss of this rank.
pub trait Bootstrap: Send + Sync + fmt::Debug {
    /// This rank.
    fn rank(&self) -> Rank;

    /// Ranks in the group.
    fn world_size(&self) -> WorldSize;

    /// Everyone's bytes in rank order, the caller's own included.
    ///
    /// Shape: at most [`MAX_CONTRIBUTION`] bytes from each rank, lengths may differ.
    ///
    /// Errors: [`Error::InvalidArgument`] for too many bytes (nothing was sent, the call can be repeated);
    /// [`Error::PeerMismatch`] when another rank is in another phase; [`Error::Bootstrap`] with the missing ranks
    /// after the deadline; [`Error::PeerLost`] or [`Error::Aborted`] as soon as that is known.
    fn all_gather(&self, phase: &'static str, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Returns once every rank has come to `phase`. Errors: as [`Bootstrap::all_gather`].
    fn barrier(&self, phase: &'static str) -> Result<()> {
        self.all_gather(phase, &[]).map(drop)
    }

    /// Gives `fd` to every peer and receives one from each peer that gave one.
    ///
    /// Shape: one element a rank; the own one is `None`, as is that of a rank that gave `None`, or whose descriptor this process could
    /// not take, which is logged. What is received is a descriptor of its own, close-on-exec, for the same open file.
    ///
    /// Errors: as [`Bootstrap::all_gather`]; [`Error::Bootstrap`] on all ranks, soon, where one could not give its descriptor, and why.
    fn exchange_fds(&self, phase: &'static str, fd: Option<BorrowedFd<'_>>) -> Result<Vec<Option<OwnedFd>>>;

    /// A bootstrap of their own for some of the ranks. Collective over all ranks of this one, those without a child included; it
    /// lives on when this one is dropped.
    ///
    /// Shape: `members` are this rank's child, in the order of the child's ranks, this rank among them; `None` for no child. All
    /// members of a child pass the same; no rank is in two.
    ///
    /// Errors: as [`Bootstrap::all_gather`]; [`Error::Bootstrap`] where the child's first rank could not open a place to meet, or
    /// a member does not come there within the deadline.
    fn split(&self, members: Option<&[Rank]>) -> Result<Option<Arc<dyn Bootstrap>>>;

    /// Installs the listener of control-plane events; those that came before are delivered at once.
    ///
    /// Ordering: events come one at a time, in the order they happened, on a thread of the bootstrap or of a peer.
    /// Only the first listener counts; a later one is dropped with a warning.
    fn listen(&self, listener: Listener);

    /// Tells every peer that this rank gives up; never blocks. `detail` is cut to 512 bytes.
    fn announce_abort(&self, detail: &str);

    /// Whether the control plane of the others hangs on this rank: one that has not left by then counts as lost when this one is dropped.
    fn carries_peers(&self) -> bool;

    /// Says goodbye, so that the end of this rank's connection is no loss, and waits until every peer has said so.
    ///
    /// Returns true if all did within `deadline`; false at once if one was lost.
    fn leave(&self, deadline: Duration) -> bool;
}

impl fmt::Display for ControlEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PeerLost { rank, detail } => write!(f, "rank {rank} is lost: {detail}"),
            Self::PeerAborted { rank, detail } => write!(f, "rank {rank} gave up: {detail}"),
            Self::PeerLeft { rank } => write!(f, "rank {rank} has left"),
        }
    }
}

/// What hears the events of a control plane.
pub type Listener = Arc<dyn Fn(ControlEvent) + Send + Sync>;

/// What a control plane tells besides the answers to calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ControlEvent {
    /// A rank's process ended or stopped answering. With the own rank: the peers gave this one up.
    PeerLost {
        /// Rank that is gone.
        rank: Rank,
        /// How it was noticed.
        detail: String,
    },
    /// A rank gave up and said so.
    PeerAborted {
        /// Rank that gave up.
        rank: Rank,
        /// Its reason.
        detail: String,
    },
    /// A rank said goodbye, which is no loss: its operations have ended.
    PeerLeft {
        /// Rank that has left.
        rank: Rank,
    },
}

/// Checks what every implementation refuses before it sends anything.
fn check_contribution(rank: Rank, phase: &str, bytes: &[u8]) -> Result<()> {
    if phase.is_empty() || phase.len() > MAX_PHASE {
        return Err(Error::invalid(format!(
            "rank {rank}: the phase name '{phase}' has {} bytes: use 1 to {MAX_PHASE}",
            phase.len()
        )));
    }
    if bytes.len() > MAX_CONTRIBUTION {
        return Err(Error::invalid(format!(
            "rank {rank} gave {} bytes to phase '{phase}': the limit is {MAX_CONTRIBUTION}",
            bytes.len()
        )));
    }
    Ok(())
}

/// `detail` cut to what a message can carry, at a character boundary.
fn cut_detail(detail: &str) -> &str {
    let end = (0..=header::MAX_DETAIL.min(detail.len())).rev().find(|&end| detail.is_char_boundary(end));
    &detail[..end.unwrap_or(0)]
}

fn name_ranks(ranks: &[Rank]) -> String {
    let names: Vec<_> = ranks.iter().map(Rank::to_string).collect();
    format!("{} {}", if ranks.len() == 1 { "rank" } else { "ranks" }, names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contributions_are_checked_before_anything_is_sent() {
        let refused =
            |phase: &str, bytes: usize| check_contribution(Rank(3), phase, &vec![0; bytes]).unwrap_err().to_string();
        assert!(check_contribution(Rank(3), "heap", &[0; MAX_CONTRIBUTION]).is_ok());
        assert!(refused("heap", MAX_CONTRIBUTION + 1).contains("rank 3 gave 16385 bytes"));
        assert!(refused(&"x".repeat(MAX_PHASE + 1), 0).contains("65 bytes"));
        assert!(refused("", 0).contains("0 bytes"));
    }

    #[test]
    fn details_are_cut_between_characters() {
        assert_eq!(cut_detail("short"), "short");
        assert_eq!(cut_detail(&format!("a{}", "é".repeat(300))).len(), header::MAX_DETAIL - 1);
    }
}

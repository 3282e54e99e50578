//! Passing one file descriptor from each rank to every other, over Unix sockets of sequenced packets.
//!
//! Each rank listens in a directory that only its user can enter and tells the others path and token through the
//! authenticated control plane; each then connects to every peer and sends one packet: token, rank, descriptor.
//! What is received is used only if the sender runs as the same user, knows the token, and sent exactly one descriptor.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt,
};
use subtle::ConstantTimeEq;
use tempfile::TempDir;

use super::name_ranks;
use super::unique_id::random_bytes;
use crate::error::{Error, Result};
use crate::types::Rank;

mod notice;

use notice::Notice;

const TOKEN_BYTES: usize = 32;
const PACKET_BYTES: usize = TOKEN_BYTES + 4;
/// Connections that have not sent their packet yet; more are dropped.
const MAX_PENDING: usize = 64;
/// Without a packet for so long, none is left.
const QUIET: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };

type Token = [u8; TOKEN_BYTES];

/// Exchanges `fd` as [`Bootstrap::exchange_fds`](super::Bootstrap::exchange_fds) says.
///
/// `gather` is an all-gather of the phase.
pub(super) fn exchange(
    rank: Rank,
    phase: &'static str,
    deadline: Duration,
    fd: Option<BorrowedFd<'_>>,
    gather: impl Fn(&[u8]) -> Result<Vec<Vec<u8>>>,
) -> Result<Vec<Option<OwnedFd>>> {
    let inbox = Inbox::open();
    // WHY: a rank without an inbox takes part all the same, so that the others hear its reason at once.
    let notice = match &inbox {
        Ok(inbox) => Notice::Open { offers: fd.is_some(), token: inbox.token, path: inbox.path.clone() },
        Err(error) => Notice::Failed(super::cut_detail(&error.to_string()).to_owned()),
    };
    let notices = gather(&notice.encode())?;
    let inbox = inbox?;
    let until = Instant::now() + deadline;
    let failed = |detail: String| Error::Bootstrap { rank, phase, detail };
    let mut expected = vec![false; notices.len()];
    let mut failure = None;
    for (peer, bytes) in (0..).map(Rank).zip(&notices).filter(|(peer, _)| *peer != rank) {
        match Notice::decode(bytes) {
            Some(Notice::Open { offers, token, path }) => {
                expected[peer.index()] = offers;
                if let Some(fd) = fd
                    && let Err(errno) = send(fd, rank, &path, &token, until)
                {
                    failure.get_or_insert_with(|| {
                        format!(
                            "giving rank {peer} a descriptor through {} failed ({errno}): processes in separate \
                             containers need a common TMPDIR and user",
                            path.display()
                        )
                    });
                }
            }
            Some(Notice::Failed(detail)) => {
                return Err(failed(format!("rank {peer} cannot exchange descriptors: {detail}")));
            }
            None => {
                return Err(failed(format!("rank {peer} sent a malformed notice: run the same release everywhere")));
            }
        }
    }
    // INVARIANT: a rank whose sending failed comes here too, so nobody waits for what it has not sent; behind it whatever was sent lies
    // in its inbox.
    let failures = gather(super::cut_detail(failure.as_deref().unwrap_or_default()).as_bytes())?;
    if let Some(own) = failure {
        return Err(failed(own));
    }
    check(rank, phase, &failures)?;
    Ok(inbox.receive(&expected, until))
}

/// What ranks said of giving their descriptors: nothing, or why they could not.
///
/// Errors: [`Error::Bootstrap`] with the first reason.
pub(super) fn check(rank: Rank, phase: &'static str, failures: &[Vec<u8>]) -> Result<()> {
    match (0..).map(Rank).zip(failures).find(|(_, detail)| !detail.is_empty()) {
        Some((peer, detail)) => {
            let detail = format!("rank {peer}: {}", String::from_utf8_lossy(detail));
            Err(Error::Bootstrap { rank, phase, detail })
        }
        None => Ok(()),
    }
}

/// A listening socket in a directory of its own, both gone when dropped.
struct Inbox {
    listener: OwnedFd,
    token: Token,
    path: PathBuf,
    _directory: TempDir,
}

impl Inbox {
    fn open() -> Result<Self> {
        // WHY: a socket path has at most 107 bytes, and some TMPDIRs leave no room for a name.
        let base =
            Some(std::env::temp_dir()).filter(|base| base.as_os_str().len() <= 80).unwrap_or_else(|| "/tmp".into());
        let directory = tempfile::Builder::new()
            .prefix("myelon-")
            .permissions(std::fs::Permissions::from_mode(0o700))
            .tempdir_in(&base)
            .map_err(|source| Error::at_path("making a directory (TMPDIR chooses another) in", &base, source))?;
        let path = directory.path().join("fds");
        let fail = |errno: Errno| Error::at_path("listening at", &path, errno.into());
        let listener = socket(SocketFlags::CLOEXEC | SocketFlags::NONBLOCK).map_err(fail)?;
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).map_err(fail)?).map_err(fail)?;
        rustix::net::listen(&listener, MAX_PENDING as i32).map_err(fail)?;
        Ok(Self { listener, token: random_bytes()?, path, _directory: directory })
    }

    /// Takes the packets of the ranks in `expected`, which have come. One that is not there stays `None`.
    fn receive(&self, expected: &[bool], until: Instant) -> Vec<Option<OwnedFd>> {
        let mut received: Vec<Option<OwnedFd>> = expected.iter().map(|_| None).collect();
        let mut pending: Vec<OwnedFd> = Vec::new();
        let missing = |received: &[Option<OwnedFd>]| -> Vec<Rank> {
            let missing =
                expected.iter().zip(received).zip(0..).filter(|((expected, fd), _)| **expected && fd.is_none());
            missing.map(|(_, rank)| Rank(rank)).collect()
        };
        while !missing(&received).is_empty() && Instant::now() < until {
            let mut polled: Vec<_> =
                std::iter::once(&self.listener).chain(&pending).map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            match poll(&mut polled, Some(&QUIET)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => {
                    tracing::warn!("waiting at {} failed: {errno}", self.path.display());
                    break;
                }
            }
            let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
            let mut ready = ready.into_iter();
            let acceptable = ready.next() == Some(true);
            let (talking, silent): (Vec<_>, Vec<_>) = pending.into_iter().zip(ready).partition(|(_, ready)| *ready);
            for (connection, _) in talking {
                match self.take_packet(&connection) {
                    Ok((sender, fd)) if expected.get(sender as usize) == Some(&true) => {
                        // A second descriptor from one rank changes nothing: the first stays.
                        received[sender as usize].get_or_insert(fd);
                    }
                    Ok((sender, _)) => tracing::warn!("dropped a descriptor that rank {sender} had not offered"),
                    Err(why) => tracing::warn!("dropped a connection to {}: {why}", self.path.display()),
                }
            }
            pending = silent.into_iter().map(|(connection, _)| connection).collect();
            if acceptable && !self.accept(&mut pending) {
                break;
            }
        }
        let missing = missing(&received);
        if !missing.is_empty() {
            tracing::warn!("no descriptor from {} came to {}", name_ranks(&missing), self.path.display());
        }
        received
    }

    /// Whether there was a connection to take.
    fn accept(&self, pending: &mut Vec<OwnedFd>) -> bool {
        let connection = match rustix::net::accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Ok(connection) => connection,
            Err(errno) => {
                tracing::warn!("accepting at {} failed: {errno}", self.path.display());
                return false;
            }
        };
        match check_user(connection.as_fd()) {
            Ok(()) if pending.len() < MAX_PENDING => pending.push(connection),
            Ok(()) => tracing::warn!("dropped a connection to {}: too many are silent", self.path.display()),
            Err(errno) => tracing::warn!("dropped a connection of another user to {}: {errno}", self.path.display()),
        }
        true
    }

    fn take_packet(&self, connection: &OwnedFd) -> Result<(u32, OwnedFd), String> {
        let mut packet = [0; PACKET_BYTES + 1];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
        let message = rustix::net::recvmsg(connection, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)
            .map_err(|errno| errno.to_string())?;
        // INVARIANT: everything received is owned here, so a refused packet closes what it brought.
        let fds: Vec<OwnedFd> = control
            .drain()
            .filter_map(|message| match message {
                RecvAncillaryMessage::ScmRights(fds) => Some(fds),
                _ => None,
            })
            .flatten()
            .collect();
        if message.flags.intersects(ReturnFlags::CTRUNC | ReturnFlags::TRUNC) || message.bytes != PACKET_BYTES {
            return Err(format!("a packet of {} bytes, {:?}", message.bytes, message.flags));
        }
        if !bool::from(packet[..TOKEN_BYTES].ct_eq(&self.token)) {
            return Err("a wrong token".into());
        }
        let [fd] = <[OwnedFd; 1]>::try_from(fds).map_err(|fds| format!("{} descriptors instead of one", fds.len()))?;
        let sender: [u8; 4] = packet[TOKEN_BYTES..PACKET_BYTES].try_into().expect("a packet ends with 4 bytes of rank");
        Ok((u32::from_le_bytes(sender), fd))
    }
}

fn send(fd: BorrowedFd<'_>, rank: Rank, path: &Path, token: &Token, until: Instant) -> Result<(), Errno> {
    let connection = socket(SocketFlags::CLOEXEC)?;
    // On Unix sockets this bounds the wait of `connect` for room in the peer's queue, too.
    let limit = until.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
    sockopt::set_socket_timeout(&connection, sockopt::Timeout::Send, Some(limit))?;
    rustix::net::connect(&connection, &SocketAddrUnix::new(path)?)?;
    check_user(connection.as_fd())?;
    let packet = [token.as_slice(), &rank.0.to_le_bytes()].concat();
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    control.push(SendAncillaryMessage::ScmRights(&fds));
    let sent = rustix::net::sendmsg(&connection, &[IoSlice::new(&packet)], &mut control, SendFlags::NOSIGNAL)?;
    if sent == PACKET_BYTES { Ok(()) } else { Err(Errno::MSGSIZE) }
}

fn socket(flags: SocketFlags) -> Result<OwnedFd, Errno> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
}

/// Checks that the other end runs as this user.
fn check_user(connection: BorrowedFd<'_>) -> Result<(), Errno> {
    let peer = sockopt::socket_peercred(connection)?;
    if peer.uid == rustix::process::geteuid() { Ok(()) } else { Err(Errno::PERM) }
}

#[cfg(test)]
mod tests;

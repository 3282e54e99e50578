//! Packets that are not taken, descriptors that cannot be given or do not come through.

use rustix::fs::{MemfdFlags, memfd_create};

use super::*;
use crate::bootstrap::{Bootstrap, LocalBootstrap};
use crate::types::WorldSize;

fn memfd(text: &str) -> OwnedFd {
    let fd = memfd_create("fds-test", MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, text.as_bytes()).unwrap();
    fd
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(5)
}

#[test]
fn the_inbox_is_private_and_goes_away() {
    let inbox = Inbox::open().unwrap();
    let directory = inbox.path.parent().unwrap().to_owned();
    assert_eq!(directory.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    drop(inbox);
    assert!(!directory.exists());
}

/// A silent connection, a wrong token, a short packet, none and two descriptors, a rank that offered nothing: all are
/// dropped, and the good packet behind them still comes through.
#[test]
fn only_the_expected_packet_is_taken() {
    let inbox = Inbox::open().unwrap();
    let fd = memfd("good");
    let raw = |packet: &[u8], fds: &[BorrowedFd<'_>]| {
        let connection = socket(SocketFlags::CLOEXEC).unwrap();
        rustix::net::connect(&connection, &SocketAddrUnix::new(&inbox.path).unwrap()).unwrap();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
        let mut control = SendAncillaryBuffer::new(&mut space);
        if !fds.is_empty() {
            assert!(control.push(SendAncillaryMessage::ScmRights(fds)));
        }
        if !packet.is_empty() {
            rustix::net::sendmsg(&connection, &[IoSlice::new(packet)], &mut control, SendFlags::NOSIGNAL).unwrap();
        }
        connection
    };
    let packet = |token: &Token, rank: u32| [token.as_slice(), &rank.to_le_bytes()].concat();
    let good = packet(&inbox.token, 1);
    let _open = [
        raw(&[], &[]),
        raw(&packet(&[0; 32], 1), &[fd.as_fd()]),
        raw(&good[..PACKET_BYTES - 1], &[fd.as_fd()]),
        raw(&[good.as_slice(), &[0]].concat(), &[fd.as_fd()]),
        raw(&good, &[]),
        raw(&good, &[fd.as_fd(); 2]),
        raw(&good, &[fd.as_fd(); 5]),
        raw(&packet(&inbox.token, 0), &[fd.as_fd()]),
        raw(&packet(&inbox.token, 4_000_000_000), &[fd.as_fd()]),
    ];
    assert!(inbox.receive(&[false, true], soon()).iter().all(Option::is_none));
    let _silent = raw(&[], &[]);
    send(fd.as_fd(), Rank(1), &inbox.path, &inbox.token, soon()).unwrap();
    let mut received = inbox.receive(&[false, true], soon());
    assert!(received[0].is_none());
    let got = received[1].take().unwrap();
    let mut text = [0; 8];
    assert_eq!(rustix::io::pread(&got, &mut text, 0), Ok(4));
    assert_eq!(&text[..4], b"good");
    assert!(rustix::io::fcntl_getfd(&got).unwrap().contains(rustix::io::FdFlags::CLOEXEC));
}
/// Three ranks, each with a descriptor; rank 1 sees of the notices what `change` leaves of them.
fn exchange_of_three(change: fn(&mut Notice)) -> Vec<Result<Vec<Option<OwnedFd>>>> {
    let group = LocalBootstrap::group(WorldSize::new(3).unwrap(), Duration::from_secs(30));
    std::thread::scope(|scope| {
        let ranks: Vec<_> = group
            .iter()
            .map(|bootstrap| {
                scope.spawn(move || {
                    let gather = |bytes: &[u8]| {
                        let mut all = bootstrap.all_gather("testing", bytes)?;
                        for bytes in all.iter_mut().filter(|_| bootstrap.rank() == Rank(1)) {
                            if let Some(mut notice) = Notice::decode(bytes) {
                                change(&mut notice);
                                *bytes = notice.encode();
                            }
                        }
                        Ok(all)
                    };
                    let (fd, deadline) = (memfd("x"), Duration::from_secs(30));
                    let began = Instant::now();
                    let outcome = exchange(bootstrap.rank(), "testing", deadline, Some(fd.as_fd()), gather);
                    assert!(began.elapsed() < deadline / 2, "waited for the deadline");
                    bootstrap.barrier("afterwards").unwrap();
                    outcome
                })
            })
            .collect();
        ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
    })
}

#[test]
fn a_rank_that_cannot_send_is_told_to_all() {
    let outcomes = exchange_of_three(|notice| {
        if let Notice::Open { path, .. } = notice {
            *path = "/nowhere/fds".into();
        }
    });
    for (rank, outcome) in outcomes.into_iter().enumerate() {
        let told = outcome.unwrap_err().to_string();
        assert!(told.contains("/nowhere/fds") && told.contains("TMPDIR"), "{told}");
        assert_eq!(told.contains("rank 1: giving rank 0"), rank != 1, "{told}");
    }
}

#[test]
fn what_does_not_come_through_is_missing_and_nothing_else() {
    let outcomes = exchange_of_three(|notice| {
        if let Notice::Open { token, .. } = notice {
            token[0] ^= 1;
        }
    });
    let here: Vec<Vec<bool>> =
        outcomes.into_iter().map(|fds| fds.unwrap().iter().map(Option::is_some).collect()).collect();
    assert_eq!(here, [[false, false, true], [true, false, true], [true, false, false]]);
}

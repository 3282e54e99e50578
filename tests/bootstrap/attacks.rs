//! Peers that mean harm to a server, or know no better.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{Bootstrap, RendezvousServer, TcpBootstrap, UniqueId};
use myelon_ccl::{Error, Rank};

use crate::rig::{LONG, SHORT, join_all, options, over_tcp, use_it, world};

/// A frame that passes for one of ours up to `version`, `kind` and `length`.
fn frame(version: u16, kind: u16, length: u32, payload: &[u8]) -> Vec<u8> {
    [b"MYLN", version.to_le_bytes().as_slice(), &kind.to_le_bytes(), &length.to_le_bytes(), payload].concat()
}

fn hello(rank: u32, world: u32) -> Vec<u8> {
    frame(1, 1, 48, &[[7; 32].as_slice(), &rank.to_le_bytes(), &world.to_le_bytes(), &[0; 8]].concat())
}

/// Init must succeed while `attack` holds its connections open, and the server must not have answered it with more
/// than a challenge.
fn survives(attack: impl FnOnce(SocketAddr) -> Vec<TcpStream>) {
    let server = RendezvousServer::start(&options(LONG)).unwrap();
    let mut open = attack(server.id().address());
    let entered = Instant::now();
    join_all(&server.id(), 3, &options(LONG), |bootstrap| use_it(&bootstrap));
    assert!(entered.elapsed() < Duration::from_secs(20), "init took {:?}", entered.elapsed());
    for stream in &mut open {
        let mut answer = Vec::new();
        stream.set_read_timeout(Some(LONG)).unwrap();
        let _ = stream.read_to_end(&mut answer);
        assert!(answer.len() <= 12 + 64, "{} bytes in answer", answer.len());
    }
}

fn connections(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

fn says(address: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let mut open = connections(address, 1);
    open[0].write_all(bytes).unwrap();
    open
}

#[test]
fn attack_silent_connections() {
    survives(|address| connections(address, 70));
}

#[test]
fn attack_one_byte_at_a_time() {
    survives(|address| {
        let mut stream = TcpStream::connect(address).unwrap();
        std::thread::spawn(move || {
            for byte in hello(0, 3) {
                if stream.write_all(&[byte]).is_err() {
                    return;
                }
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        Vec::new()
    });
}

#[test]
fn attack_http_get() {
    survives(|address| says(address, b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"));
}

#[test]
fn attack_connect_and_reset() {
    survives(|address| {
        for stream in connections(address, 20) {
            let linger = Some(Duration::ZERO);
            rustix::net::sockopt::set_socket_linger(&stream, linger).unwrap();
        }
        Vec::new()
    });
}

#[test]
fn attack_early_close() {
    survives(|address| {
        for cut in [0, 1, 11, 12, 30, 59, 60] {
            drop(says(address, &hello(1, 3)[..cut]));
        }
        Vec::new()
    });
}

#[test]
fn attack_wrong_version() {
    survives(|address| says(address, &frame(2, 1, 48, &[0; 48])));
}

#[test]
fn attack_giant_length() {
    survives(|address| {
        let mut open = says(address, &frame(1, 1, u32::MAX, &[]));
        // The largest type is legal only after the handshake.
        open.extend(says(address, &frame(1, 7, 131_000, &[0; 1000])));
        open
    });
}

#[test]
fn attack_wrong_proof() {
    survives(|address| says(address, &[hello(0, 3), frame(1, 3, 32, &[1; 32])].concat()));
}

#[test]
fn attack_wrong_secret() {
    let mut error = None;
    survives(|address| {
        let strange = UniqueId::derive(address, b"another group");
        error = TcpBootstrap::connect(&strange, Rank(0), world(3), &options(SHORT)).err();
        Vec::new()
    });
    let error = error.unwrap();
    assert!(matches!(error, Error::Bootstrap { .. }) && error.to_string().contains("secret"), "{error}");
}

#[test]
fn attack_duplicate_rank_and_wrong_world() {
    over_tcp(1, &options(LONG), |bootstrap| bootstrap.leave(LONG));
    let server = RendezvousServer::start(&options(LONG)).unwrap();
    let id = server.id();
    let done = Barrier::new(2);
    join_all(&id, 2, &options(LONG), |bootstrap| {
        if bootstrap.rank() == Rank(0) {
            let error = TcpBootstrap::connect(&id, Rank(1), world(2), &options(SHORT)).unwrap_err();
            assert!(error.to_string().contains("already joined as rank 1"), "{error}");
            let error = TcpBootstrap::connect(&id, Rank(2), world(3), &options(LONG)).unwrap_err();
            assert!(
                matches!(&error, Error::PeerMismatch { ours, theirs, .. } if ours == "3" && theirs == "2"),
                "{error}"
            );
            let error = TcpBootstrap::connect(&id, Rank(2), world(2), &options(LONG)).unwrap_err();
            assert!(matches!(error, Error::InvalidArgument(_)), "{error}");
        }
        done.wait();
        use_it(&bootstrap);
    });
}

//! Ranks as threads, over both carriers: what they exchange, whom they miss, and how they part.

use std::sync::Barrier;
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{Bootstrap, ControlEvent, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId};
use myelon_ccl::{Error, MAX_WORLD_SIZE, Rank};

use crate::rig::{LONG, SHORT, events_of, options, over_tcp, over_threads, use_it, world};

#[test]
fn every_world_size_works_in_threads() {
    for size in 1..=MAX_WORLD_SIZE {
        over_threads(size, LONG, |bootstrap| use_it(&bootstrap));
    }
}

#[test]
fn every_world_size_works_over_tcp() {
    for size in 1..=MAX_WORLD_SIZE {
        over_tcp(size, &options(LONG), |bootstrap| use_it(&bootstrap));
    }
}

#[test]
fn it_works_inside_an_async_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (id, server) = UniqueId::create().unwrap();
        let bootstrap = TcpBootstrap::connect(&id, Rank(0), world(1), &TcpOptions::default()).unwrap().hosting(server);
        use_it(&bootstrap);
    });
}

fn check_mismatch(bootstrap: &dyn Bootstrap) {
    let (me, other) = (bootstrap.rank(), Rank(1 - bootstrap.rank().0));
    let phases = ["heap", "kernels"];
    let error = bootstrap.barrier(phases[me.index()]).unwrap_err();
    let Error::PeerMismatch { rank, peer, ours, theirs, .. } = &error else { panic!("{error}") };
    assert_eq!((*rank, *peer), (me, other));
    assert!(ours.contains(phases[me.index()]) && theirs.contains(phases[other.index()]), "{error}");
    assert!(bootstrap.barrier("later").is_err(), "a failed collective ends the group");
}

#[test]
fn different_phases_are_a_mismatch_that_names_both() {
    over_threads(2, LONG, |bootstrap| check_mismatch(&bootstrap));
    over_tcp(2, &options(LONG), |bootstrap| check_mismatch(&bootstrap));
}

/// Ranks 3 and 1 in that order, 0 for itself, and 2 without a child.
fn check_split(parent: &dyn Bootstrap) {
    let me = parent.rank();
    let members: Option<&[Rank]> = match me.0 {
        0 => Some(&[Rank(0)]),
        2 => None,
        _ => Some(&[Rank(3), Rank(1)]),
    };
    let refused = parent.split(Some(&[Rank((me.0 + 1) % 4)])).unwrap_err();
    assert!(matches!(refused, Error::InvalidArgument { .. }), "{refused}");
    let child = parent.split(members).unwrap();
    assert_eq!(child.is_some(), members.is_some());
    let place = |members: &[Rank]| members.iter().position(|&member| member == me).unwrap();
    let expected = members.map(|members| (Rank(place(members) as u32), world(members.len() as u32)));
    assert_eq!(child.as_ref().map(|child| (child.rank(), child.world_size())), expected);
    parent.barrier("the parent is still there").unwrap();
    assert!(parent.leave(LONG));
    if let Some(child) = child {
        use_it(&*child);
    }
}

#[test]
fn a_child_lives_on_when_its_parent_has_left() {
    over_threads(4, LONG, |bootstrap| check_split(&bootstrap));
    over_tcp(4, &options(LONG), |bootstrap| check_split(&bootstrap));
}

fn check_missing_split(parent: &dyn Bootstrap, done: &Barrier) {
    if parent.rank() != Rank(1) {
        let error = parent.split(Some(&[Rank(0), Rank(2)])).unwrap_err();
        assert!(error.to_string().contains("rank 1 did not come to 'splitting'"), "{error}");
    }
    done.wait();
}

#[test]
fn a_rank_that_does_not_come_to_a_split_is_named() {
    let done = Barrier::new(3);
    over_threads(3, SHORT, |bootstrap| check_missing_split(&bootstrap, &done));
    over_tcp(3, &options(SHORT), |bootstrap| check_missing_split(&bootstrap, &done));
}

fn check_missing(bootstrap: &dyn Bootstrap, done: &Barrier) {
    if bootstrap.rank() != Rank(1) {
        let error = bootstrap.barrier("heap").unwrap_err();
        assert!(matches!(error, Error::Bootstrap { phase: "heap", .. }), "{error}");
        assert!(error.to_string().contains("rank 1 did not come to 'heap'"), "{error}");
    }
    done.wait();
}

#[test]
fn a_rank_that_never_calls_is_named() {
    let done = Barrier::new(3);
    over_threads(3, SHORT, |bootstrap| check_missing(&bootstrap, &done));
    let server = RendezvousServer::start(&options(LONG)).unwrap();
    let id = server.id();
    std::thread::scope(|scope| {
        for rank in world(3).ranks() {
            let (id, done) = (&id, &done);
            scope.spawn(move || {
                let options = TcpOptions { join: Some(LONG), ..options(SHORT) };
                check_missing(&TcpBootstrap::connect(id, rank, world(3), &options).unwrap(), done);
            });
        }
    });
}

#[test]
fn a_rank_that_never_connects_is_named() {
    for options in [options(SHORT), TcpOptions { join: Some(SHORT), ..options(LONG) }] {
        let server = RendezvousServer::start(&options).unwrap();
        let (id, entered) = (server.id(), Instant::now());
        std::thread::scope(|scope| {
            for rank in [0, 2] {
                let options = &options;
                scope.spawn(move || {
                    let error = TcpBootstrap::connect(&id, Rank(rank), world(4), options).unwrap_err();
                    assert!(error.to_string().contains("ranks 1, 3 did not come to 'join'"), "{error}");
                });
            }
        });
        assert!(entered.elapsed() < 10 * SHORT);
    }
}

#[test]
fn no_server_is_one_clear_error() {
    let id = {
        let server = RendezvousServer::start(&options(SHORT)).unwrap();
        server.id()
    };
    let entered = Instant::now();
    let error = TcpBootstrap::connect(&id, Rank(1), world(2), &options(SHORT)).unwrap_err();
    assert!(matches!(error, Error::Bootstrap { rank: Rank(1), phase: "connecting", .. }), "{error}");
    assert!(error.to_string().contains(&id.address().to_string()), "{error}");
    assert!(entered.elapsed() < 10 * SHORT);
}

fn check_loss(bootstrap: Box<dyn Bootstrap>, events: &Barrier) {
    bootstrap.barrier("all here").unwrap();
    if bootstrap.rank() == Rank(2) {
        return drop(bootstrap);
    }
    let received = events_of(&*bootstrap);
    let entered = Instant::now();
    let error = bootstrap.barrier("never").unwrap_err();
    assert!(matches!(error, Error::PeerLost { peer: Rank(2), .. }), "{error}");
    let event = received.recv_timeout(LONG).unwrap();
    assert!(matches!(event, ControlEvent::PeerLost { rank: Rank(2), .. }), "{event:?}");
    assert!(entered.elapsed() < Duration::from_secs(10), "a loss should take less than a second");
    assert!(!bootstrap.leave(LONG), "somebody never said goodbye");
    events.wait();
}

#[test]
fn a_rank_that_ends_without_goodbye_is_lost_to_everyone() {
    let done = Barrier::new(3);
    over_threads(4, LONG, |bootstrap| check_loss(Box::new(bootstrap), &done));
    over_tcp(4, &options(LONG), |bootstrap| check_loss(Box::new(bootstrap), &done));
}

fn check_goodbye(bootstrap: Box<dyn Bootstrap>, others_stay: &Barrier) {
    let received = events_of(&*bootstrap);
    bootstrap.barrier("all here").unwrap();
    if bootstrap.rank() == Rank(0) {
        let all_left = bootstrap.leave(Duration::ZERO);
        others_stay.wait();
        assert!(!all_left, "the others have not left yet");
        return;
    }
    let error = bootstrap.barrier("one more").unwrap_err().to_string();
    others_stay.wait();
    assert!(error.contains("rank 0 already said"), "{error}");
    assert!(bootstrap.leave(LONG));
    let rank = bootstrap.rank();
    drop(bootstrap);
    let events: Vec<_> = received.iter().collect();
    for peer in (0..3).map(Rank).filter(|&peer| peer != rank) {
        let told = events.iter().filter(|&event| *event == ControlEvent::PeerLeft { rank: peer }).count();
        assert_eq!(told, 1, "rank {rank} heard of {peer}: {events:?}");
    }
    assert_eq!(events.len(), 2, "a goodbye is no loss: {events:?}");
}

#[test]
fn a_goodbye_is_no_loss() {
    let others_stay = Barrier::new(3);
    over_threads(3, LONG, |bootstrap| check_goodbye(Box::new(bootstrap), &others_stay));
    over_tcp(3, &options(LONG), |bootstrap| check_goodbye(Box::new(bootstrap), &others_stay));
}

fn check_abort(bootstrap: Box<dyn Bootstrap>) {
    bootstrap.barrier("all here").unwrap();
    if bootstrap.rank() == Rank(1) {
        bootstrap.announce_abort(&"é".repeat(1000));
        assert!(bootstrap.barrier("own").unwrap_err().is_aborted());
    } else {
        let error = bootstrap.barrier("never").unwrap_err();
        assert!(error.is_aborted() && error.to_string().contains("rank 1"), "{error}");
        // Installed after the fact: the event was kept.
        let event = events_of(&*bootstrap).recv_timeout(LONG).unwrap();
        let ControlEvent::PeerAborted { rank: Rank(1), detail } = &event else { panic!("{event:?}") };
        assert_eq!(*detail, "é".repeat(256));
    }
    assert!(bootstrap.leave(LONG));
}

#[test]
fn an_abort_reaches_waiting_ranks_and_late_listeners() {
    over_threads(3, LONG, |bootstrap| check_abort(Box::new(bootstrap)));
    over_tcp(3, &options(LONG), |bootstrap| check_abort(Box::new(bootstrap)));
}

//! Groups of ranks in one process, and what each rank of a group does.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use myelon_ccl::WorldSize;
use myelon_ccl::bootstrap::{
    Bootstrap, ControlEvent, LocalBootstrap, MAX_CONTRIBUTION, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId,
    check_one_host,
};

pub(crate) const LONG: Duration = Duration::from_secs(30);
pub(crate) const SHORT: Duration = Duration::from_millis(500);

pub(crate) fn world(size: u32) -> WorldSize {
    WorldSize::new(size).unwrap()
}

pub(crate) fn options(deadline: Duration) -> TcpOptions {
    TcpOptions { deadline, ..TcpOptions::default() }
}

/// Runs `body` on every rank of a TCP group in this process, each on a thread.
pub(crate) fn over_tcp<T: Send>(size: u32, options: &TcpOptions, body: impl Fn(TcpBootstrap) -> T + Sync) -> Vec<T> {
    let server = RendezvousServer::start(options).unwrap();
    join_all(&server.id(), size, options, body)
}

pub(crate) fn join_all<T: Send>(
    id: &UniqueId,
    size: u32,
    options: &TcpOptions,
    body: impl Fn(TcpBootstrap) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let started: Vec<_> = world(size)
            .ranks()
            .map(|rank| {
                let body = &body;
                scope.spawn(move || body(TcpBootstrap::connect(id, rank, world(size), options).unwrap()))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Runs `body` on every rank of a local group, each on a thread.
pub(crate) fn over_threads<T: Send>(
    size: u32,
    deadline: Duration,
    body: impl Fn(LocalBootstrap) -> T + Sync,
) -> Vec<T> {
    std::thread::scope(|scope| {
        let started: Vec<_> = LocalBootstrap::group(world(size), deadline)
            .into_iter()
            .map(|bootstrap| {
                let body = &body;
                scope.spawn(move || body(bootstrap))
            })
            .collect();
        started.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// A listener that passes events to a channel.
pub(crate) fn events_of(bootstrap: &dyn Bootstrap) -> mpsc::Receiver<ControlEvent> {
    let (sender, receiver) = mpsc::channel();
    bootstrap.listen(Arc::new(move |event| drop(sender.send(event))));
    receiver
}

pub(crate) fn memfd(text: &str) -> OwnedFd {
    let fd = rustix::fs::memfd_create("bootstrap-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, text.as_bytes()).unwrap();
    fd
}

pub(crate) fn text_of(fd: &OwnedFd) -> String {
    let mut bytes = [0; 64];
    let length = rustix::io::pread(fd, &mut bytes, 0).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Everything a communicator does with its control plane at init, then a goodbye.
pub(crate) fn use_it(bootstrap: &dyn Bootstrap) {
    let (me, size) = (bootstrap.rank(), bootstrap.world_size());
    assert!(bootstrap.all_gather("too much", &vec![0; MAX_CONTRIBUTION + 1]).is_err());
    for round in 0..3_u8 {
        let mine = vec![me.0 as u8 ^ round; 5 * me.index()];
        let expected: Vec<_> = size.ranks().map(|rank| vec![rank.0 as u8 ^ round; 5 * rank.index()]).collect();
        assert_eq!(bootstrap.all_gather("small", &mine).unwrap(), expected);
    }
    let all = bootstrap.all_gather("large", &vec![me.0 as u8; MAX_CONTRIBUTION]).unwrap();
    assert!(all.iter().zip(0..).all(|(bytes, rank)| *bytes == vec![rank; MAX_CONTRIBUTION]));
    bootstrap.barrier("between").unwrap();
    check_one_host(bootstrap).unwrap();
    // Odd ranks offer nothing.
    let offer = (me.0 % 2 == 0).then(|| memfd(&format!("from {me}")));
    let received = bootstrap.exchange_fds("heap", offer.as_ref().map(AsFd::as_fd)).unwrap();
    for (rank, fd) in size.ranks().zip(&received) {
        let expected = (rank != me && rank.0 % 2 == 0).then(|| format!("from {rank}"));
        assert_eq!(fd.as_ref().map(text_of), expected, "rank {me} from rank {rank}");
    }
    assert!(bootstrap.exchange_fds("nobody offers", None).unwrap().iter().all(Option::is_none));
    assert!(bootstrap.leave(LONG));
}

//! Ranks that find each other: threads, TCP within one process, and processes; and peers that mean harm.
//!
//! Upper bounds on time here are deadlines of the code under test with at least tenfold slack.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Barrier, mpsc};
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{
    Bootstrap, ControlEvent, LocalBootstrap, MAX_CONTRIBUTION, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId,
    check_one_host, from_env,
};
use myelon_ccl::{Error, MAX_WORLD_SIZE, Rank, WorldSize};

const LONG: Duration = Duration::from_secs(30);
const SHORT: Duration = Duration::from_millis(500);

fn world(size: u32) -> WorldSize {
    WorldSize::new(size).unwrap()
}

fn options(deadline: Duration) -> TcpOptions {
    TcpOptions { deadline, ..TcpOptions::default() }
}

/// Runs `body` on every rank of a TCP group in this process, each on a thread.
fn over_tcp<T: Send>(size: u32, options: &TcpOptions, body: impl Fn(TcpBootstrap) -> T + Sync) -> Vec<T> {
    let server = RendezvousServer::start(options).unwrap();
    join_all(&server.id(), size, options, body)
}

fn join_all<T: Send>(
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
fn over_threads<T: Send>(size: u32, deadline: Duration, body: impl Fn(LocalBootstrap) -> T + Sync) -> Vec<T> {
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
fn events_of(bootstrap: &dyn Bootstrap) -> mpsc::Receiver<ControlEvent> {
    let (sender, receiver) = mpsc::channel();
    bootstrap.listen(Arc::new(move |event| drop(sender.send(event))));
    receiver
}

fn memfd(text: &str) -> OwnedFd {
    let fd = rustix::fs::memfd_create("bootstrap-test", rustix::fs::MemfdFlags::CLOEXEC).unwrap();
    rustix::io::write(&fd, text.as_bytes()).unwrap();
    fd
}

fn text_of(fd: &OwnedFd) -> String {
    let mut bytes = [0; 64];
    let length = rustix::io::pread(fd, &mut bytes, 0).unwrap();
    String::from_utf8(bytes[..length].to_vec()).unwrap()
}

/// Everything a communicator does with its control plane at init, then a goodbye.
fn use_it(bootstrap: &dyn Bootstrap) {
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
                // Half of `deadline` is enough to join on a slow machine.
                let options = options(Duration::from_secs(4));
                check_missing(&TcpBootstrap::connect(id, rank, world(3), &options).unwrap(), done);
            });
        }
    });
}

#[test]
fn a_rank_that_never_connects_is_named() {
    let server = RendezvousServer::start(&options(SHORT)).unwrap();
    let id = server.id();
    std::thread::scope(|scope| {
        for rank in [0, 2] {
            scope.spawn(move || {
                let error = TcpBootstrap::connect(&id, Rank(rank), world(4), &options(SHORT)).unwrap_err();
                assert!(error.to_string().contains("ranks 1, 3 did not come to 'join'"), "{error}");
            });
        }
    });
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

fn check_goodbye(bootstrap: Box<dyn Bootstrap>) {
    let received = events_of(&*bootstrap);
    bootstrap.barrier("all here").unwrap();
    if bootstrap.rank() == Rank(0) {
        assert!(!bootstrap.leave(Duration::ZERO), "the others have not left yet");
        return;
    }
    // The other rank may have left meanwhile, too.
    let error = bootstrap.barrier("one more").unwrap_err().to_string();
    assert!(error.contains("rank 0 already said") || error.contains("ranks 0, "), "{error}");
    assert!(bootstrap.leave(LONG));
    drop(bootstrap);
    assert_eq!(received.iter().next(), None, "a goodbye is no event");
}

#[test]
fn a_goodbye_is_no_loss() {
    over_threads(3, LONG, |bootstrap| check_goodbye(Box::new(bootstrap)));
    over_tcp(3, &options(LONG), |bootstrap| check_goodbye(Box::new(bootstrap)));
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

/// What a re-executed test binary does: this test with `MYELON_TEST_ROLE` set.
#[test]
#[ignore = "run by the tests that need processes of their own"]
fn rank_process() {
    let Ok(role) = std::env::var("MYELON_TEST_ROLE") else { return };
    if role == "launched" {
        return use_it(&*from_env(&options(LONG)).unwrap().expect("a launcher in the environment"));
    }
    if role == "repeat" {
        return repeat_without_leak();
    }
    let variable = |name: &str| std::env::var(name).unwrap();
    let (rank, size) = (Rank(variable("TEST_RANK").parse().unwrap()), world(variable("TEST_WORLD").parse().unwrap()));
    let options = TcpOptions { silence: Duration::from_secs(1), ..options(LONG) };
    let bootstrap = if role == "host" {
        let server = RendezvousServer::start(&options).unwrap();
        println!("id {}", server.id().to_text());
        TcpBootstrap::connect(&server.id(), rank, size, &options).unwrap().hosting(server)
    } else {
        TcpBootstrap::connect(&variable("TEST_ID").parse().unwrap(), rank, size, &options).unwrap()
    };
    match role.as_str() {
        "use" => use_it(&bootstrap),
        _ => {
            bootstrap.barrier("all here").unwrap();
            std::thread::sleep(LONG);
        }
    }
}

/// Group after group, good and failed: descriptors and threads all come back.
fn repeat_without_leak() {
    let count = |what: &str| std::fs::read_dir(format!("/proc/self/{what}")).unwrap().count();
    let before = (count("fd"), count("task"));
    for _ in 0..5 {
        over_tcp(4, &options(LONG), |bootstrap| use_it(&bootstrap));
        over_threads(4, LONG, |bootstrap| use_it(&bootstrap));
        over_tcp(3, &options(LONG), |bootstrap| drop(bootstrap.barrier("then gone")));
        let server = RendezvousServer::start(&options(SHORT)).unwrap();
        assert!(TcpBootstrap::connect(&server.id(), Rank(0), world(2), &options(SHORT)).is_err());
    }
    let until = Instant::now() + LONG;
    while (count("fd"), count("task")) != before {
        assert!(
            Instant::now() < until,
            "{:?} descriptors and threads, {before:?} before",
            (count("fd"), count("task"))
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// A process that is killed when its test ends, whatever the outcome.
struct Process(Child);

impl Process {
    fn start(role: &str, rank: u32, size: u32, id: Option<&UniqueId>) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "rank_process", "--nocapture"]).stdout(Stdio::piped());
        command.env("MYELON_TEST_ROLE", role).env("TEST_RANK", rank.to_string()).env("TEST_WORLD", size.to_string());
        if let Some(id) = id {
            command.env("TEST_ID", id.to_text());
        }
        Self(command.spawn().unwrap())
    }

    fn signal(&self, signal: rustix::process::Signal) {
        rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), signal).unwrap();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn processes_exchange_descriptors() {
    let server = RendezvousServer::start(&options(LONG)).unwrap();
    let mut others: Vec<_> = (1..4).map(|rank| Process::start("use", rank, 4, Some(&server.id()))).collect();
    use_it(&TcpBootstrap::connect(&server.id(), Rank(0), world(4), &options(LONG)).unwrap());
    for process in &mut others {
        assert!(process.0.wait().unwrap().success());
    }
}

#[test]
fn nothing_is_left_behind() {
    let mut process = Process::start("repeat", 0, 1, None);
    assert!(process.0.wait().unwrap().success());
}

/// What `mpirun -n 4` does, without its library: processes of one parent whose variables say who they are.
#[test]
fn launched_processes_meet_through_a_file() {
    let files = tempfile::tempdir().unwrap();
    let start = |rank: u32| {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "rank_process", "--nocapture"]).env("MYELON_TEST_ROLE", "launched");
        command.env("TMPDIR", files.path()).env("PMI_RANK", rank.to_string()).env("PMI_SIZE", "4");
        Process(command.stdout(Stdio::null()).spawn().unwrap())
    };
    for mut process in (0..4).map(start).collect::<Vec<_>>() {
        assert!(process.0.wait().unwrap().success());
    }
    let left: Vec<_> =
        files.path().read_dir().unwrap().flat_map(|entry| entry.unwrap().path().read_dir().unwrap()).collect();
    assert!(left.is_empty(), "the address file stays behind: {left:?}");
}

/// The event and the error that rank 0 sees after `signal` hits rank 1, a process of its own.
fn after_signal(signal: rustix::process::Signal) -> (String, Error) {
    let options = TcpOptions { silence: Duration::from_secs(1), ..options(LONG) };
    let server = RendezvousServer::start(&options).unwrap();
    let process = Process::start("wait", 1, 2, Some(&server.id()));
    let bootstrap = TcpBootstrap::connect(&server.id(), Rank(0), world(2), &options).unwrap();
    let events = events_of(&bootstrap);
    bootstrap.barrier("all here").unwrap();
    // Three times the silence: heartbeats keep an idle group alive.
    assert!(events.recv_timeout(3 * options.silence).is_err());
    process.signal(signal);
    let ControlEvent::PeerLost { rank: Rank(1), detail } = events.recv_timeout(LONG).unwrap() else {
        panic!("no loss")
    };
    (detail, bootstrap.barrier("never").unwrap_err())
}

#[test]
fn a_killed_process_is_lost() {
    let (detail, error) = after_signal(rustix::process::Signal::KILL);
    assert!(detail.contains("ended"), "{detail}");
    assert!(matches!(error, Error::PeerLost { peer: Rank(1), .. }), "{error}");
}

#[test]
fn a_stopped_process_is_not_responding() {
    let (detail, error) = after_signal(rustix::process::Signal::STOP);
    assert!(detail.contains("not responding"), "{detail}");
    assert!(matches!(error, Error::PeerLost { peer: Rank(1), .. }), "{error}");
}

#[test]
fn the_end_of_the_servers_process_is_the_loss_of_its_rank() {
    use std::io::BufRead;
    // Not rank 0, so that the rank is known from the server and not by default.
    let mut process = Process::start("host", 1, 2, None);
    let mut lines = std::io::BufReader::new(process.0.stdout.take().unwrap()).lines();
    let id: UniqueId = lines
        .find_map(|line| line.unwrap().split_once("id ").map(|(_, text)| text.parse().unwrap()))
        .expect("the host prints its id");
    let bootstrap = TcpBootstrap::connect(&id, Rank(0), world(2), &options(LONG)).unwrap();
    let events = events_of(&bootstrap);
    bootstrap.barrier("all here").unwrap();
    process.signal(rustix::process::Signal::KILL);
    let event = events.recv_timeout(LONG).unwrap();
    assert!(matches!(event, ControlEvent::PeerLost { rank: Rank(1), .. }), "{event:?}");
    assert!(matches!(bootstrap.barrier("never"), Err(Error::PeerLost { peer: Rank(1), .. })));
}

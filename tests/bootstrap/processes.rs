//! Ranks in processes of their own: launched, killed, stopped, and nothing left behind.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use myelon_ccl::bootstrap::{Bootstrap, ControlEvent, RendezvousServer, TcpBootstrap, TcpOptions, UniqueId, from_env};
use myelon_ccl::{Error, Rank};

use crate::rig::{LONG, SHORT, events_of, options, over_tcp, over_threads, use_it, world};

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
        command.args(["--ignored", "--exact", "processes::rank_process", "--nocapture"]).stdout(Stdio::piped());
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
        command
            .args(["--ignored", "--exact", "processes::rank_process", "--nocapture"])
            .env("MYELON_TEST_ROLE", "launched");
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

//! Ranks that are processes, and what the others do when one is killed.

use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const RANKS: u32 = 3;
/// Far more than the control plane takes, far less than the kernels' own deadline below.
const PATIENCE: Duration = Duration::from_secs(60);

/// A rank that is killed when the test ends, whatever the outcome.
struct Process(Child);

impl Process {
    fn start(rank: u32, port: u16) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ddp-mlp"));
        command
            .args(["--device", "cpu", "--hidden", "32", "--batch", "63", "--epochs", "1000000"])
            .env("MYELON_RANK", rank.to_string())
            .env("MYELON_WORLD_SIZE", RANKS.to_string())
            .env("MYELON_ROOT", format!("127.0.0.1:{port}"))
            .env("MYELON_TIMEOUT", "600")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command.spawn().unwrap())
    }

    /// Waits for the end: whether it is a success, and what was said of it.
    fn end(&mut self) -> (bool, String) {
        let start = Instant::now();
        let status = loop {
            match self.0.try_wait().unwrap() {
                Some(status) => break status,
                None if start.elapsed() > PATIENCE => panic!("a rank still trains without the one that was killed"),
                None => std::thread::sleep(Duration::from_millis(20)),
            }
        };
        let mut said = String::new();
        self.0.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        (status.success(), said)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_rank_that_dies_ends_the_others_with_an_error() {
    // Free again for rank 0 to listen on; nobody else takes it so soon.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut ranks: Vec<_> = (0..RANKS).map(|rank| Process::start(rank, port)).collect();
    let mut first = BufReader::new(ranks[0].0.stdout.take().unwrap()).lines();
    let line = first.next().expect("rank 0 trains").unwrap();
    assert!(line.starts_with("epoch   1"), "{line}");
    // Rank 0 goes on to say how it is, and must not wait for a reader.
    std::thread::spawn(move || first.for_each(drop));
    ranks[2].0.kill().unwrap();
    for rank in [0, 1] {
        let (success, said) = ranks[rank].end();
        assert!(!success && said.contains("rank 2"), "rank {rank}: {said}");
    }
}

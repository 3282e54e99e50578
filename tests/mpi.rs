//! Ranks that find each other through MPI itself: `cargo test --features mpi --test mpi`.
#![cfg(feature = "mpi")]

use std::process::Command;
use std::time::Duration;

use myelon_ccl::bootstrap::{Bootstrap, TcpOptions, mpi::connect};

#[test]
#[ignore = "run under mpirun by the test below"]
fn mpi_process() {
    let Some(universe) = mpi::initialize() else { panic!("MPI is initialised already") };
    let world = universe.world();
    let bootstrap = connect(&world, &TcpOptions::default()).unwrap();
    let all = bootstrap.all_gather("ranks", &[bootstrap.rank().0 as u8]).unwrap();
    assert_eq!(all, [[0], [1], [2]]);
    assert!(bootstrap.leave(Duration::from_secs(30)));
    println!("rank {} left", bootstrap.rank());
}

#[test]
fn mpi_passes_the_id() {
    let output = Command::new("mpirun")
        .args(["--oversubscribe", "-n", "3"])
        .arg(std::env::current_exe().unwrap())
        .args(["--ignored", "--exact", "mpi_process", "--nocapture", "--test-threads=1"])
        // Containers run as root; Open MPI wants to hear twice that this is meant.
        .envs([("OMPI_ALLOW_RUN_AS_ROOT", "1"), ("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")])
        .output()
        .expect("mpirun, which comes with the MPI library that the feature needs");
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    for rank in 0..3 {
        assert!(text.contains(&format!("rank {rank} left")), "{text}");
    }
}

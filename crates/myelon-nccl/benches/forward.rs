//! What a forwarded call costs beside the call itself: the pretended NCCL of the tests is called directly and through the stand-in.

use std::ffi::{c_int, c_void};
use std::path::Path;
use std::process::Command;

use criterion::{Criterion, criterion_main};
use libloading::os::unix::Library;

type UserRank = unsafe extern "C" fn(*mut c_void, *mut c_int) -> c_int;
type AllReduce =
    unsafe extern "C" fn(*const c_void, *mut c_void, usize, c_int, c_int, *mut c_void, *mut c_void) -> c_int;
type Destroy = unsafe extern "C" fn(*mut c_void) -> c_int;
type InitAll = unsafe extern "C" fn(*mut *mut c_void, c_int, *const c_int) -> c_int;

/// A type that the pretended library refuses at once.
const NO_TYPE: c_int = 77;

fn forward(criterion: &mut Criterion) {
    let directory = tempfile::tempdir().unwrap();
    let library = directory.path().join("libnccl.so.2");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fake/nccl.cc");
    let mut compiler = Command::new("c++");
    compiler
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-Wl,-soname,libnccl.so.2", "-o"])
        .arg(&library)
        .arg(source);
    assert!(compiler.status().unwrap().success());
    // From now on it is the NCCL that the process has, and the stand-in's.
    // SAFETY: the pretended library has no initialisers that matter, and its functions these types.
    let (rank, reduce, init, destroy) = unsafe {
        let library: &'static Library = Box::leak(Box::new(Library::new(&library).unwrap()));
        (
            *library.get::<UserRank>(b"ncclCommUserRank").unwrap(),
            *library.get::<AllReduce>(b"ncclAllReduce").unwrap(),
            *library.get::<InitAll>(b"ncclCommInitAll").unwrap(),
            *library.get::<Destroy>(b"ncclCommDestroy").unwrap(),
        )
    };
    let mut comm = std::ptr::null_mut();
    // SAFETY: one handle of room for one rank.
    assert_eq!(unsafe { init(&mut comm, 1, std::ptr::null()) }, 0);
    let calls: [(&str, UserRank); 2] = [("directly", rank), ("forwarded", myelon_nccl::ncclCommUserRank)];
    for (how, function) in calls {
        let mut seen = 0;
        // SAFETY: a live communicator and a local.
        let mut call = || unsafe { function(comm, &mut seen) };
        criterion.bench_function(&format!("ncclCommUserRank {how}"), |bencher| bencher.iter(&mut call));
    }
    let calls: [(&str, AllReduce); 2] = [("directly", reduce), ("forwarded", myelon_nccl::ncclAllReduce)];
    let (input, output) = (std::ptr::null(), std::ptr::null_mut());
    for (how, function) in calls {
        // SAFETY: refused by its type before anything is looked at.
        let call = || unsafe { function(input, output, 0, NO_TYPE, 0, comm, std::ptr::null_mut()) };
        criterion.bench_function(&format!("ncclAllReduce {how}"), |bencher| bencher.iter(call));
    }
    // SAFETY: not used again.
    assert_eq!(unsafe { destroy(comm) }, 0);
}

fn benches() {
    forward(&mut Criterion::default().sample_size(20).configure_from_args());
}

criterion_main!(benches);

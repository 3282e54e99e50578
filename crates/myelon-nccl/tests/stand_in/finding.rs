//! Which NCCL stands behind, and that the stand-in never stands behind itself.

use std::os::unix::fs::symlink;

use super::rig::{Built, Run, stand_in};

#[test]
fn without_an_nccl_every_call_fails_in_words() {
    let ran = Run::opening(&stand_in(), &["version"]).with("MYELON_NCCL_LIB", "/nonexistent/libnccl.so.2").run().well();
    assert!(ran.output.contains("2 0 no NCCL where MYELON_NCCL_LIB says"), "{}", ran.output);
    assert!(ran.output.contains("/nonexistent/libnccl.so.2"), "{}", ran.output);
}

#[test]
fn it_does_not_stand_behind_itself() {
    let directory = tempfile::tempdir().unwrap();
    let (link, copy) = (directory.path().join("libnccl.so.2"), directory.path().join("copy.so"));
    symlink(stand_in(), &link).unwrap();
    std::fs::copy(stand_in(), &copy).unwrap();
    for (opened, named) in
        [(link.clone(), stand_in()), (stand_in(), link.clone()), (stand_in(), copy), (link.clone(), link)]
    {
        let ran = Run::opening(&opened, &["version"]).with("MYELON_NCCL_LIB", &named).run().well();
        assert!(ran.output.contains("2 0 "), "{}", ran.output);
        assert!(ran.output.contains("which cannot stand behind itself"), "{opened:?} {named:?}: {}", ran.output);
    }
}

#[test]
fn something_else_is_no_nccl() {
    let ran = Run::opening(&stand_in(), &["version"]).with("MYELON_NCCL_LIB", "libm.so.6").run().well();
    assert!(ran.output.contains("libm.so.6 (no NCCL: it has no ncclAllReduce)"), "{}", ran.output);
}

/// A program that has one keeps it, whatever the variable says: two in one process know nothing of each other's communicators.
#[test]
fn one_that_is_loaded_comes_before_one_that_is_named() {
    let ran = Run::preloaded(&["version"]).with("MYELON_NCCL_LIB", "/nonexistent/libnccl.so.2").run().well();
    assert!(ran.output.starts_with("0 22809"), "{}", ran.output);
}

/// As a link of another name that leads to the pretended library.
#[test]
fn a_library_of_another_name_can_be_named() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("libother.so");
    symlink(Built::get().fake(), &link).unwrap();
    let ran = Run::opening(&stand_in(), &["version"]).with("MYELON_NCCL_LIB", &link).run().well();
    assert!(ran.output.starts_with("0 22809"), "{}", ran.output);
}

/// As a program gets it that looks for `libnccl.so.2` in a directory of the user's.
#[test]
fn under_nccls_own_name_it_stands_before_the_one_that_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let link = directory.path().join("libnccl.so.2");
    symlink(stand_in(), &link).unwrap();
    let ran = Run::opening(&link, &["values"]).with("MYELON_NCCL_LIB", Built::get().fake()).run().well();
    assert_eq!(ran.counted("ncclAllReduce", "Myelon"), 16, "{}", ran.output);
}

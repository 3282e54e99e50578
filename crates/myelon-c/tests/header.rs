//! `include/myelon.h` is what cbindgen makes of the sources. `MYELON_BLESS=1` writes it.

use std::fs;
use std::path::Path;

/// In the order in which a reader of the header wants them.
const SOURCES: [&str; 9] = [
    "codes.rs",
    "handles.rs",
    "errors.rs",
    "info.rs",
    "options.rs",
    "communicator.rs",
    "operations.rs",
    "collectives.rs",
    "windows.rs",
];

const PREFACE: &str = "\
// Myelon in C: all-reduce and other collectives over the GPUs of one node. Link with -lmyelon_ccl, or what
// `pkg-config --cflags --libs myelon-ccl` prints.
//
// Made of crates/myelon-c/src; do not edit.
//
// Every function that returns a myelonStatus_t says what went wrong in words by myelonGetLastError, on the same thread. A NULL
// handle and a number that is no enumerator are errors, a handle that was destroyed is undefined behaviour. Functions that are
// called collective are called by every rank, in the same order on each. Results of functions are written on success alone.";

#[test]
fn the_header_is_that_of_the_sources() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut config = cbindgen::Config::from_file(root.join("cbindgen.toml")).unwrap();
    config.header = Some(PREFACE.to_owned());
    let [major, minor, patch] =
        [env!("CARGO_PKG_VERSION_MAJOR"), env!("CARGO_PKG_VERSION_MINOR"), env!("CARGO_PKG_VERSION_PATCH")]
            .map(|part| part.parse::<u32>().unwrap());
    config.after_includes = Some(format!(
        "\n// {major}.{minor}.{patch}: 10000 a major, 100 a minor, 1 a patch release.\n#define MYELON_VERSION {}",
        10_000 * major + 100 * minor + patch
    ));
    let mut builder = cbindgen::Builder::new().with_config(config);
    for source in SOURCES {
        builder = builder.with_src(root.join("src").join(source));
    }
    let mut header = Vec::new();
    builder.generate().unwrap().write(&mut header);
    let header = String::from_utf8(header).unwrap();

    let path = root.join("../../include/myelon.h");
    if std::env::var_os("MYELON_BLESS").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &header).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap_or_default();
    assert!(stored == header, "include/myelon.h is not that of the sources: MYELON_BLESS=1 writes it\n{header}");
}

//! How the shared library is linked.

fn main() {
    // WHY: without a name of its own it would pass for whatever file name it was opened by, `libnccl.so.2` too.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libmyelon_nccl.so");
    // WHY: its threads and its handler at exit would run in unmapped memory after a dlclose.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-z,nodelete");
    // WHY: the second names (src/profiling.rs) mean the functions here, though a tool's of the same names come first in the process.
    println!("cargo:rustc-cdylib-link-arg=-Wl,-Bsymbolic-functions");
    println!("cargo:rerun-if-changed=build.rs");
}

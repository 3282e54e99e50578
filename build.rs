//! Rebuilds the library when anything below `cuda/` changes: `include_dir!` alone misses files that are new.

fn main() {
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-changed=build.rs");
}

//! Rebuilds the library when a file that it embeds by its directory changes: `include_dir!` alone misses files that are new.

fn main() {
    println!("cargo::rerun-if-changed=cuda");
    println!("cargo::rerun-if-changed=configs/lanes");
    println!("cargo::rerun-if-changed=build.rs");
}

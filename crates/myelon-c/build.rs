//! Gives the library its SONAME: what a program that was linked with it asks for at run time.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The number is that of the ABI: it grows when a program that was linked before would misbehave.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmyelon_ccl.so.0");
}

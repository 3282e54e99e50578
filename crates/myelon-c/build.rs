//! Gives the library its SONAME, which is what a program that was linked with it asks for at run time, and keeps it loaded.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // The number is that of the ABI: it grows when a program that was linked before would misbehave.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libmyelon_ccl.so.0");
    // WHY: its threads outlive a dlclose, and would go on in code that is gone.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
}

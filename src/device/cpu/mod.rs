//! The CPU device.
mod compiler;
pub use compiler::{CpuCompiler, Sanitizer};

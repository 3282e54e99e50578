//! What a device is.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Which kind of device executes the kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeviceKind {
    /// An NVIDIA GPU through the CUDA driver.
    Cuda,
    /// The same kernel sources compiled for the host, a fiber per CUDA thread.
    Cpu,
}

impl fmt::Display for DeviceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cuda => "cuda",
            Self::Cpu => "cpu",
        })
    }
}

/// What a device is, for provenance and for choosing code.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceProperties {
    /// Kind of the device.
    pub kind: DeviceKind,
    /// Marketing name, or the processor's.
    pub name: String,
    /// CUDA ordinal; the index given at creation on the CPU.
    pub ordinal: u32,
    /// `sm_90a` and the like; `cpu` on the CPU.
    pub arch: String,
    /// Multiprocessors; cores on the CPU.
    pub multiprocessors: u32,
    /// UUID or bus id, equal on two handles of one physical device.
    pub identity: String,
    /// Driver version as text; the compiler's on the CPU.
    pub driver: String,
}

//! Multi-GPU all-reduce over NVLink: a Rust runtime, and CUDA kernels that also run on the CPU.

#![warn(missing_docs)]

pub mod abi;
pub mod baseline;
pub mod bootstrap;
pub mod comm;
pub mod device;
pub mod error;
pub mod measure;
pub mod memory;
pub mod table;
pub mod types;
pub mod variant;
pub mod watch;

pub use comm::{Communicator, Options};
pub use error::{Error, Result};
pub use types::{DType, MAX_WORLD_SIZE, Rank, ReduceOp, WorldSize};

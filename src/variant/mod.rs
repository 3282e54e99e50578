//! Variants: the manifest of what exists and what it supports, and the pure step from request to [`Plan`].
//!
//! Nothing here touches a device. A plan depends only on what the collective forces equal on all ranks, so every rank
//! comes to the same one without asking.

mod arch;
mod copies;
mod kernel;
mod manifest;
mod parameters;
mod pieces;
mod plan;
mod properties;
mod request;
mod room;
mod shape;
mod share;
mod terrain;

pub use arch::dtype_runs_on;
pub use copies::{Copied, Copy, Source};
pub use kernel::{BARRIER_THREADS, KernelKey, VerifyKernel, barrier_kernel, neighbour_kernel};
pub use manifest::{Manifest, Tuning, VariantSpec};
pub use parameters::Parameters;
pub use plan::Plan;
pub use properties::{Capacity, Mailbox, Order, Rounding, Transfer};
pub use request::{Choice, Request};
pub(crate) use room::lane_growth;
pub use shape::{Lanes, Shape};
pub use terrain::{LARGE_BYTES, Terrain};

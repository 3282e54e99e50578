//! Data-parallel training with Myelon: each rank computes gradients on its part of a batch, and all ranks average them in
//! buckets while the backward pass goes on.
//!
//! [`reducer`] is what another program would take: it needs nothing of the model but its parameters.

pub mod buckets;
pub mod data;
pub mod engine;
pub mod model;
pub mod reducer;
pub mod trainer;

/// What goes wrong here: errors of Myelon and of candle.
pub type Error = Box<dyn std::error::Error + Send + Sync>;
/// Shorthand.
pub type Result<T, E = Error> = std::result::Result<T, E>;

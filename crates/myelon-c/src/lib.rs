//! The C interface of Myelon: what `include/myelon.h` declares. That header is made from the documentation here.
//!
//! Every function goes through [`guard::guard`]: no panic crosses the border, and what went wrong is kept for
//! `myelonGetLastError`. Raw pointers of callers are read and written in [`border`] alone, which knows NULL from a handle.

// Names are those of C; what callers have to keep stands in words that C programmers read too.
#![allow(non_camel_case_types, non_snake_case, clippy::missing_safety_doc)]

mod border;
pub mod codes;
pub mod collectives;
pub mod communicator;
pub mod errors;
mod guard;
pub mod handles;
pub mod info;
mod logging;
pub mod operations;
pub mod options;
pub mod windows;

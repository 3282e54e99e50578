//! Communicators as groups of ranks: split into children, held together by barriers, and lists of
//! buffers reduced as one.

#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod buckets;
mod splits;

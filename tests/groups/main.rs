//! Communicators as groups of ranks: split into children, held together by barriers.

#[path = "../support/mod.rs"]
mod support;

mod barriers;
mod splits;

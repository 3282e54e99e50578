//! The symmetric heap: where its parts lie, and how every rank comes to see every other's.

mod heap;
mod layout;
mod pair_check;

pub use heap::SymmetricHeap;
pub use layout::HeapLimits;

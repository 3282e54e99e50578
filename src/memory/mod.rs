//! Memory that every rank sees: the symmetric heap, where its parts lie, and windows of memory that is the user's.

mod heap;
mod layout;
mod pair_check;
mod window;

pub use heap::SymmetricHeap;
pub use layout::HeapLimits;
pub use window::Window;

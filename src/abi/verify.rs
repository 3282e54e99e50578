//! Arguments of the kernels in `cuda/verify/`.

use super::{MAX_WORLD, Plain};

/// Arguments of the kernels that write test data and check results.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct VerifyArgs {
    /// First element written or checked.
    pub data: u64,
    /// Elements.
    pub count: u64,
    /// `u64` counter of wrong elements, added to.
    pub wrong: u64,
    /// `u64` operation number in device memory, mixed into the data; a kernel of its own steps it.
    pub operation: u64,
    /// Seed of the run.
    pub seed: u64,
    /// Place of the first element that is checked in the data of each rank.
    pub first: u64,
    /// Rank whose data is written; the first one whose data is reduced.
    pub rank: u32,
    /// Ranks whose data is reduced.
    pub world_size: u32,
}

/// Arguments of the kernels that try every ordered pair of ranks when a communicator comes up.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct PairArgs {
    /// Base of each rank's heap as this rank maps it.
    pub heap: [u64; MAX_WORLD],
    /// Offset of the scratch area in every heap: `[source][bytes]`, `[source]` written by that rank.
    pub scratch: u64,
    /// Bytes a pair tries; whole packs.
    pub bytes: u64,
    /// `[u64; 2 * MAX_WORLD]` of host memory: packs from rank `r` that came wrong, then packs loaded wrong from rank `r`.
    pub wrong: u64,
    /// Seed of the data.
    pub seed: u64,
    /// This rank.
    pub rank: u32,
    /// Ranks.
    pub world_size: u32,
}

/// Arguments of the kernels that stand for somebody else's beside an all-reduce, and are timed.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct NeighbourArgs {
    /// First pack that is loaded.
    pub data: u64,
    /// Packs; a multiple of the grid's threads times [`NEIGHBOUR_LOADS`].
    pub packs: u64,
    /// `u64` a thread, stored so that no work is left out.
    pub words: u64,
    /// How often the work is done.
    pub rounds: u64,
}

/// Loads that a thread of a neighbour has under way at a time.
pub const NEIGHBOUR_LOADS: u64 = 2;

const _: () = {
    assert!(size_of::<VerifyArgs>() == 56);
    assert!(size_of::<PairArgs>() == 104);
    assert!(size_of::<NeighbourArgs>() == 32);
};

// SAFETY: repr(C), all fields integers in an order that leaves no gap (sizes asserted above).
unsafe impl Plain for VerifyArgs {}
// SAFETY: as above.
unsafe impl Plain for PairArgs {}
// SAFETY: as above.
unsafe impl Plain for NeighbourArgs {}

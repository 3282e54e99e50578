//! A list of buckets as kernels get it, and what ranks compare of one.

use super::{Args, COUNT_BITS, Description, Plain, descriptor};

/// Most buckets of one launch: its arguments have room for no more.
pub const MAX_BUCKETS: usize = 128;

/// In place of a data type's code: a list of buckets.
pub const BUCKETS_CODE: u8 = 14;
/// Bits of the count of a list's descriptor that hold a hash of its shape; above these is the number of buckets.
pub const SHAPE_BITS: u32 = 21;
/// Bits that hold the number of buckets.
const BUCKETS_BITS: u32 = 10;

/// The [`descriptor`] of a list: the number of buckets, a hash of their type and counts, and the operator.
pub const fn buckets_descriptor(buckets: u64, shape: u64, op: u8) -> u64 {
    let count = (buckets & ((1 << BUCKETS_BITS) - 1)) << SHAPE_BITS | (shape & ((1 << SHAPE_BITS) - 1));
    descriptor(Description { count, collective: 0, detail: op, dtype: BUCKETS_CODE })
}

/// Where one bucket of a launch lies.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BucketPlace {
    /// First element of the operand.
    pub input: u64,
    /// First element of the result; may equal `input`.
    pub output: u64,
}

/// The buckets of one launch. Each begins with a pack of its own.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketTable {
    /// What a search by halves begins with: the largest power of two below the number of buckets, 0 for one.
    pub search_step: u32,
    /// Fills the word.
    pub padding: u32,
    /// First pack of each bucket in the launch's message; `u32::MAX` behind the last.
    pub first_pack: [u32; MAX_BUCKETS],
    /// Elements of each.
    pub elements: [u32; MAX_BUCKETS],
    /// Addresses of each.
    pub place: [BucketPlace; MAX_BUCKETS],
}

/// Arguments of a collective kernel over a list of buckets, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct BucketArgs {
    /// As for one buffer, without addresses; `count` has the elements that fill all packs.
    pub args: Args,
    /// The list.
    pub table: BucketTable,
}

const _: () = {
    assert!(BUCKETS_BITS + SHAPE_BITS == COUNT_BITS);
    assert!(size_of::<BucketTable>() == 8 + 24 * MAX_BUCKETS);
    assert!(size_of::<BucketArgs>() == size_of::<Args>() + size_of::<BucketTable>());
    // What a launch takes on every architecture.
    assert!(size_of::<BucketArgs>() <= 4096);
};

// SAFETY: repr(C), all fields integers or such structs in an order that leaves no gap (sizes asserted above).
unsafe impl Plain for BucketArgs {}

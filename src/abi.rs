//! Structures shared with the kernels: mirror of `cuda/abi.cuh`.
//!
//! Sizes and offsets are asserted on both sides, so a change on one side does not compile on the other.
//! All offsets are bytes from the start of a rank's heap; all addresses are as the launching rank maps them.

mod buckets;
mod description;
mod plain;
mod verify;
mod window;

use crate::types::MAX_WORLD_SIZE;

pub use buckets::{BUCKETS_CODE, BucketArgs, BucketPlace, BucketTable, MAX_BUCKETS, SHAPE_BITS, buckets_descriptor};
pub use description::{BARRIER, BARRIER_CODE, COUNT_BITS, Description, OPERATION_BITS, describe, descriptor};
pub use plain::{Plain, bytes_of};
pub use verify::{NEIGHBOUR_LOADS, NeighbourArgs, PairArgs, VerifyArgs};
pub use window::{WINDOW_CODE, mix, window_descriptor};

/// [`MAX_WORLD_SIZE`] as an array length.
pub const MAX_WORLD: usize = MAX_WORLD_SIZE as usize;
/// Most lanes a heap can hold.
pub const MAX_LANES: u32 = 128;
/// Most slots a lane's ring can hold; a power of two.
pub const MAX_RING_SLOTS: usize = 16;
/// Buffers that a sentinel mailbox rotates through: one being filled, one being re-poisoned, one at rest.
pub const SENTINEL_BUFFERS: u64 = 3;
/// Buffers that an LL mailbox alternates between.
pub const LL_BUFFERS: u64 = 2;
/// Halves that a lane's staging alternates between.
pub const STAGING_BUFFERS: u64 = 2;
/// Byte that fills a sentinel mailbox: an all-ones NaN means "not yet".
pub const SENTINEL_BYTE: u8 = 0xff;
/// Bytes one thread moves at a time.
pub const PACK_BYTES: u64 = 16;
/// What memory and links move at a time, at most: where a warp's accesses begin elsewhere, they take a line more.
pub const LINE_BYTES: u64 = 128;
/// Shared memory before the stages of a kernel with producer warps: their mbarriers.
pub const STAGE_FLAG_BYTES: u32 = 256;

/// Where the parts of a heap lie. Equal on all ranks.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeapLayout {
    /// [`HeapState`].
    pub state: u64,
    /// `[[u64; 2]; MAX_WORLD]`: the operation's low bits above its [`descriptor`], element `[r][operation & 1]`
    /// written by rank `r`. Two, because a peer can be one operation ahead.
    pub signatures: u64,
    /// `[LaneState; lanes]`.
    pub lanes: u64,
    /// `[SENTINEL_BUFFERS][peers][sentinel_bytes]`, `[.][p]` written by peer `p`, counted without this rank.
    pub sentinel: u64,
    /// Capacity of one sentinel mailbox.
    pub sentinel_bytes: u64,
    /// `[LL_BUFFERS][peers][2 * ll_bytes]`, `[.][p]` written by peer `p`.
    pub ll: u64,
    /// Payload capacity of one LL mailbox; packets take twice that.
    pub ll_bytes: u64,
    /// `[lanes][STAGING_BUFFERS][staging_bytes]`, written by the owner, read by peers.
    pub staging: u64,
    /// Capacity of one staging half of one lane.
    pub staging_bytes: u64,
    /// `[lanes][ring_slots][slot_bytes]`, written by the previous rank. A launch can use fewer slots, and less of each; one whose
    /// bytes travel by copies cuts the whole into slots of `Args::chunk_bytes`.
    pub ring: u64,
    /// Capacity of one ring slot.
    pub slot_bytes: u64,
    /// `[CopyState; copy_count]`.
    pub copies: u64,
    /// Copies of one launch that the heap has words for.
    pub copy_count: u64,
    /// Lanes the heap has room for.
    pub lane_count: u32,
    /// Slots of a lane's ring; a power of two.
    pub ring_slots: u32,
}

/// What all CTAs of a rank share.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug, Default)]
pub struct HeapState {
    /// When a waiting thread may look at the host's abort word next, by the GPU's clock.
    pub next_host_look_ns: u64,
    /// Claimed by the first thread of this rank that reports a fault.
    pub fault_claimed: u32,
    /// Fills the word.
    pub fault_padding: u32,
    /// Keeps what peers write on a line of its own.
    pub padding: [u64; 14],
    /// Set by a peer whose kernel gave up: its rank plus one, its [`FaultCode`] above 32 bits. Ends every wait here.
    pub peer_fault: u64,
    /// Fills the line of `peer_fault`.
    pub peer_padding: [u64; 15],
    /// Credits for copies that the next rank has given: written by it.
    pub copy_credit: u64,
    /// Fills the line of `copy_credit`.
    pub copy_padding: [u64; 15],
}

/// The words of one copy of a launch. All zero when an operation begins.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug)]
pub struct CopyState {
    /// 1 once the previous rank's copy lies in the slot: written by its stream.
    pub arrived: u64,
    /// Keeps `arrived` on a line of its own.
    pub arrived_padding: [u64; 15],
    /// 1 once this rank's copy may run: written by its kernel, waited for by its stream.
    pub go: u64,
    /// Warps of this rank that have taken their part out of the slot.
    pub taken: u64,
    /// Fills the line.
    pub padding: [u64; 14],
}

/// One lane's counters, flags and sequences. Each group that another rank writes has a line of its own.
///
/// The counters of operations and epochs are the same in every lane, whether a launch has a CTA for it or not: a CTA reads
/// its own lane's and steps those of its own and of lanes without a CTA, so that no CTA ever waits for another. They are in
/// device memory, because a captured graph freezes arguments.
#[repr(C, align(128))]
#[derive(Clone, Copy, Debug)]
pub struct LaneState {
    /// Barrier arrivals: element `r` written by rank `r`.
    pub signal: [u64; MAX_WORLD],
    /// Keeps `signal` on a line of its own.
    pub signal_padding: [u64; 8],
    /// Operations so far: the running one's number minus one, until the lane is stepped.
    pub operation: u64,
    /// Descriptor of the operation before, to compare with late peers.
    pub previous_descriptor: u64,
    /// Offset of the mailbox buffer that the next sentinel operation uses, from the first.
    pub sentinel_buffer: u64,
    /// Bytes per mailbox that the last sentinel operation wrote: what the next one re-poisons.
    pub sentinel_extent: u64,
    /// LL operations so far; its low bits are the flag.
    pub ll_epoch: u64,
    /// Barriers passed so far; private to the lane.
    pub signal_sequence: u64,
    /// Turns that this lane took at its staging so far, an operation each, or a step each where an operation has several; its low bit
    /// chooses the half. Private.
    pub staging_uses: u64,
    /// Slots published to the next rank so far; private.
    pub published: u64,
    /// Slots consumed from the previous rank so far; private.
    pub consumed: u64,
    /// Slots that the ring had when the lane published last; private.
    pub slots: u64,
    /// Credits that copies of earlier operations moved; the same in every lane.
    pub copy_credits: u64,
    /// Keeps the private words on a line of their own.
    pub private_padding: [u64; 5],
    /// Slots that the next rank has released: written by it, read before a claim.
    pub gating: u64,
    /// Keeps `gating` on a line of its own.
    pub gating_padding: [u64; 15],
    /// Sequence of each slot: written by the previous rank when it publishes.
    pub slot_sequence: [u64; MAX_RING_SLOTS],
}

/// Why a kernel gave up. Zero means it did not.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultCode {
    /// No fault.
    None = 0,
    /// A deadline passed.
    Stalled = 1,
    /// The abort word was set.
    Aborted = 2,
    /// A peer's signature differs.
    Mismatch = 3,
    /// A peer's kernel gave up and said so.
    PeerFault = 4,
}

/// First fault of a rank, written by the kernel that found it; `code` last.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct FaultRecord {
    /// A [`FaultCode`].
    pub code: u32,
    /// Lane that gave up.
    pub lane: u32,
    /// Rank it waited for, or that disagrees.
    pub peer: u32,
    /// With [`FaultCode::PeerFault`]: the [`FaultCode`] of the peer.
    pub peer_code: u32,
    /// Value waited for, or the own descriptor.
    pub expected: u64,
    /// Value seen last, or the peer's descriptor.
    pub seen: u64,
    /// Operation that was running.
    pub operation: u64,
    /// How long the wait lasted.
    pub waited_ns: u64,
    /// Operation each rank had started, as far as this rank had heard.
    pub started: [u64; MAX_WORLD],
}

/// One page of host memory per communicator: the host writes `abort`, kernels write `fault`.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct ControlPage {
    /// Non-zero ends every wait of this rank.
    pub abort: u32,
    /// Keeps `fault` aligned.
    pub padding: u32,
    /// First fault of this rank.
    pub fault: FaultRecord,
}

/// Arguments of every collective kernel, passed by value.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Args {
    /// First element of the operand.
    pub input: u64,
    /// First element of the result; may equal `input`.
    pub output: u64,
    /// Elements.
    pub count: u64,
    /// First element of the next rank's result as this rank maps it; 0 where outputs are not direct.
    pub next_output: u64,
    /// Base of each rank's heap as this rank maps it.
    pub heap: [u64; MAX_WORLD],
    /// This rank's base once more: where the first loads of a launch go, one step away.
    pub own_heap: u64,
    /// [`ControlPage`] of this rank.
    pub control: u64,
    /// Longest wait in nanoseconds; zero waits until aborted.
    pub deadline_ns: u64,
    /// [`descriptor`] of the operation.
    pub descriptor: u64,
    /// Where the parts of every heap lie.
    pub layout: HeapLayout,
    /// This rank.
    pub rank: u32,
    /// Bytes a lane moves per step, for variants that go in steps; at most the slot capacity.
    pub chunk_bytes: u32,
    /// Slots that this launch uses of a lane's ring, a power of two, at most the heap's.
    pub slots: u32,
    /// First step of the ring that this launch does, for variants that can be launched step by step.
    pub first_step: u16,
    /// The step after its last.
    pub end_step: u16,
    /// Bytes from a rank's part of the user's memory to the next rank's, where a collective has parts.
    pub part_bytes: u64,
    /// Packs at the end of the operands that copies carry.
    pub copied_packs: u64,
    /// Bytes of a copy at most.
    pub copy_chunk_bytes: u32,
    /// Slots of so many bytes that copies use.
    pub copy_slots: u32,
    /// The rank whose input is broadcast.
    pub root: u32,
    /// Lanes at the end of the grid whose CTAs reduce what copies bring; their slots, and all that is behind them, are those of copies.
    pub copy_lanes: u16,
    /// Not 0: the next launch of the stream may come up before the turn of this one; else at it.
    pub early: u16,
}

const _: () = {
    use std::mem::{offset_of, size_of};
    assert!(size_of::<HeapLayout>() == 112);
    assert!(size_of::<HeapState>() == 384);
    assert!(offset_of!(HeapState, peer_fault) == 128);
    assert!(offset_of!(HeapState, copy_credit) == 256);
    assert!(size_of::<CopyState>() == 256);
    assert!(offset_of!(CopyState, go) == 128);
    assert!(size_of::<LaneState>() == 512);
    assert!(offset_of!(LaneState, operation) == 128);
    assert!(offset_of!(LaneState, gating) == 256);
    assert!(offset_of!(LaneState, slot_sequence) == 384);
    assert!(size_of::<FaultRecord>() == 112);
    assert!(size_of::<ControlPage>() == 120);
    assert!(size_of::<Args>() == 288);
    assert!(offset_of!(Args, layout) == 128);
};

// SAFETY: repr(C), all fields integers in an order that leaves no gap (sizes asserted above).
unsafe impl Plain for Args {}
// SAFETY: as above.
unsafe impl Plain for HeapState {}

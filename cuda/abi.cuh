// abi: structures shared with the host. Mirror of src/abi.rs, where the fields are documented.
#pragma once

namespace myelon {

using u8 = unsigned char;
using u16 = unsigned short;
using u32 = unsigned int;
using u64 = unsigned long long;
using i8 = signed char;
using i32 = int;
using i64 = long long;

constexpr u32 kMaxWorld = 8;
constexpr u32 kMaxRingSlots = 16;
constexpr u32 kSentinelBuffers = 3;
constexpr u64 kLlBuffers = 2;
constexpr u64 kStagingBuffers = 2;
constexpr u64 kPackBytes = 16;
constexpr u64 kLineBytes = 128;
constexpr u32 kStageFlagBytes = 256;
constexpr u32 kMaxBuckets = 128;
constexpr u32 kOperationBits = 24;
constexpr u32 kDescriptorBits = 64 - kOperationBits;

struct HeapLayout {
  u64 state;
  u64 signatures;
  u64 lanes;
  u64 sentinel;
  u64 sentinel_bytes;
  u64 ll;
  u64 ll_bytes;
  u64 staging;
  u64 staging_bytes;
  u64 ring;
  u64 slot_bytes;
  u64 copies;
  u64 copy_count;
  u32 lane_count;
  u32 ring_slots;
};

struct alignas(128) HeapState {
  u64 next_host_look_ns;
  u32 fault_claimed;
  u32 fault_padding;
  u64 padding[14];
  u64 peer_fault;
  u64 peer_padding[15];
  u64 copy_credit;
  u64 copy_padding[15];
};

struct alignas(128) CopyState {
  u64 arrived;
  u64 arrived_padding[15];
  u64 go;
  u64 taken;
  u64 padding[14];
};

struct alignas(128) LaneState {
  u64 signal[kMaxWorld];
  u64 signal_padding[8];
  u64 operation;
  u64 previous_descriptor;
  u64 sentinel_buffer;
  u64 sentinel_extent;
  u64 ll_epoch;
  u64 signal_sequence;
  u64 staging_uses;
  u64 published;
  u64 consumed;
  u64 slots;
  u64 copy_credits;
  u64 private_padding[5];
  u64 gating;
  u64 gating_padding[15];
  u64 slot_sequence[kMaxRingSlots];
};

enum FaultCode : u32 {
  kFaultNone = 0,
  kFaultStalled = 1,
  kFaultAborted = 2,
  kFaultMismatch = 3,
  kFaultPeer = 4,
};

struct FaultRecord {
  u32 code;
  u32 lane;
  u32 peer;
  u32 peer_code;
  u64 expected;
  u64 seen;
  u64 operation;
  u64 waited_ns;
  u64 started[kMaxWorld];
};

struct ControlPage {
  u32 abort;
  u32 padding;
  FaultRecord fault;
};

struct Args {
  const void* input;
  void* output;
  u64 count;
  void* next_output;
  u8* heap[kMaxWorld];
  u8* own_heap;
  ControlPage* control;
  u64 deadline_ns;
  u64 descriptor;
  HeapLayout layout;
  u32 rank;
  u32 chunk_bytes;
  u32 slots;
  u16 first_step;
  u16 end_step;
  u64 part_bytes;
  u64 copied_packs;
  u32 copy_chunk_bytes;
  u32 copy_slots;
  u32 root;
  u16 copy_lanes;
  u16 early;
};

struct BucketPlace {
  const void* input;
  void* output;
};

struct BucketArgs : Args {
  u32 search_step;
  u32 padding;
  u32 first_pack[kMaxBuckets];
  u32 elements[kMaxBuckets];
  BucketPlace place[kMaxBuckets];
};

struct VerifyArgs {
  void* data;
  u64 count;
  u64* wrong;
  u64* operation;
  u64 seed;
  u64 first;
  u32 rank;
  u32 world_size;
};

struct PairArgs {
  u8* heap[kMaxWorld];
  u64 scratch;
  u64 bytes;
  u64* wrong;
  u64 seed;
  u32 rank;
  u32 world_size;
};

struct NeighbourArgs {
  const u8* data;
  u64 packs;
  u64* words;
  u64 rounds;
};

constexpr u32 kNeighbourLoads = 2;

static_assert(sizeof(HeapLayout) == 112, "HeapLayout differs from src/abi.rs");
static_assert(sizeof(HeapState) == 384, "HeapState differs from src/abi.rs");
static_assert(sizeof(CopyState) == 256, "CopyState differs from src/abi.rs");
static_assert(sizeof(LaneState) == 512, "LaneState differs from src/abi.rs");
static_assert(sizeof(FaultRecord) == 112, "FaultRecord differs from src/abi.rs");
static_assert(sizeof(ControlPage) == 120, "ControlPage differs from src/abi.rs");
static_assert(sizeof(Args) == 288, "Args differs from src/abi.rs");
static_assert(sizeof(BucketArgs) == sizeof(Args) + 8 + 24 * kMaxBuckets, "BucketArgs differs from src/abi.rs");
static_assert(sizeof(BucketArgs) <= 4096, "BucketArgs is more than a launch takes");
static_assert(sizeof(VerifyArgs) == 56, "VerifyArgs differs from src/abi.rs");
static_assert(sizeof(PairArgs) == 104, "PairArgs differs from src/abi.rs");
static_assert(sizeof(NeighbourArgs) == 32, "NeighbourArgs differs from src/abi.rs");
static_assert(__builtin_offsetof(HeapState, peer_fault) == 128, "HeapState differs from src/abi.rs");
static_assert(__builtin_offsetof(HeapState, copy_credit) == 256, "HeapState differs from src/abi.rs");
static_assert(__builtin_offsetof(CopyState, go) == 128, "CopyState differs from src/abi.rs");
static_assert(__builtin_offsetof(LaneState, operation) == 128, "LaneState differs from src/abi.rs");
static_assert(__builtin_offsetof(LaneState, gating) == 256, "LaneState differs from src/abi.rs");
static_assert(__builtin_offsetof(LaneState, slot_sequence) == 384, "LaneState differs from src/abi.rs");
static_assert(__builtin_offsetof(Args, layout) == 128, "Args differs from src/abi.rs");

}  // namespace myelon

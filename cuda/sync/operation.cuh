// operation: what every launch does besides its own work: announce what it is, and step the counters of its rank.
#pragma once
#include "sync/wait.cuh"

namespace myelon {

// Which mailbox a launch used: each kind has epochs of its own.
struct MailboxUse {
  bool sentinel;
  bool ll;
  u64 epoch;
  u64 bytes;  // written per mailbox
};

// Tells every peer what this operation is, and checks what they said of the one before: an operation that ran with
// different counts or types can complete everywhere, and is then found here. Off every critical path: CTA 0 only.
MYELON_DEVICE void announce_operation(const Context& context, u32 world_size) {
  const Args& args = context.args;
  const u32 peer = thread_index();
  if (context.lane != 0 || peer >= world_size) return;
  const u64 announcement = (context.operation << kDescriptorBits) | args.descriptor;
  st_relaxed_sys(context.signature(peer, args.rank, context.operation), announcement);
  if (context.operation == 1) return;
  const u64 previous = context.counters()->previous_descriptor;
  u64 theirs;
  if (!peer_agrees(context, peer, context.operation - 1, previous, &theirs)) {
    Context before = context;
    before.operation -= 1;
    give_up(before, kFaultMismatch, peer, previous, theirs, 0);
  }
}

// Steps the counters for the next launch: of this lane, and of lanes that no CTA of this launch stands for. To be called by
// all threads of all CTAs, after their last read of the counters and before they wait for peers, so that it costs nothing.
MYELON_DEVICE void advance_operation(const Context& context, MailboxUse use) {
  // ORDER: [epoch] every thread's reads of the counters are before the CTA's writes; no other CTA touches these lanes.
  sync_cta();
  const u64 stride = static_cast<u64>(thread_count()) * cta_count();
  u64 lane = context.lane + static_cast<u64>(thread_index()) * cta_count();
  for (; lane < context.args.layout.lane_count; lane += stride) {
    LaneState* counters = context.in_heap<LaneState>(context.args.rank, context.args.layout.lanes) + lane;
    counters->operation = context.operation;
    counters->previous_descriptor = context.args.descriptor;
    if (use.sentinel) {
      counters->sentinel_extent[use.epoch % kSentinelBuffers] = use.bytes;
      counters->sentinel_epoch = use.epoch + 1;
    }
    if (use.ll) counters->ll_epoch = use.epoch + 1;
  }
}

}  // namespace myelon

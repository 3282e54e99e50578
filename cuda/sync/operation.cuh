// operation: what every launch does besides its own work: announce what it is, and step the counters of its rank.
#pragma once
#include "sync/wait.cuh"

namespace myelon {

// Which mailbox a launch used, and the credits of its copies: each kind has epochs of its own.
struct MailboxUse {
  bool sentinel;
  bool ll;
  u64 next;          // what the next launch that uses this kind finds in its counter
  u64 bytes;         // written per mailbox
  u64 copy_credits;  // what the next operation with copies counts from; 0 without copies
};

// What this rank and its peers say of their operations. One thread a peer, in CTA 0; the others have nothing to do.
class Announcement {
 public:
  // Tells every peer what this operation is, and asks what they said of the one before.
  MYELON_DEVICE Announcement(const Context& context, u32 world_size) : concerned_(false), own_(0), theirs_(0) {
    const u32 peer = thread_index();
    if (context.lane != 0 || peer >= world_size) return;
    const u64 number = context.operation;
    // ORDER: [signature] publish: one store of one word, so it is never seen torn; nothing is read behind it.
    st_relaxed_sys(context.signature(peer, context.args.rank, number), number << kDescriptorBits | context.args.descriptor);
    concerned_ = number > 1;
    // ORDER: [epoch] epoch: read before `step_counters`, which writes that of this operation.
    own_ = ld_relaxed_sys(&context.counters()->previous_descriptor);
    theirs_ = announced(context, peer, number - 1);
  }

  // An operation that ran with different counts or types can complete everywhere, and is found here, by the next one. Where
  // latency counts, at the kernel's end: what was asked has been answered by then. Elsewhere at once: it costs no registers.
  MYELON_DEVICE void check(const Context& context) const {
    if (!concerned_ || agrees(theirs_, context.operation - 1, own_)) return;
    Context before = context;
    before.operation -= 1;
    give_up(before, kFaultMismatch, thread_index(), own_, descriptor_in(theirs_), 0);
  }

 private:
  bool concerned_;
  u64 own_;
  u64 theirs_;
};

// Steps the counters for the next launch: of this lane, and of lanes that no CTA of this launch stands for; no other CTA
// touches these. By all threads of all CTAs, behind a barrier of the CTA that follows its last read of the counters, and
// before they wait for peers, so that it costs nothing.
MYELON_DEVICE void step_counters(const Context& context, MailboxUse use) {
  const u64 stride = static_cast<u64>(thread_count()) * cta_count();
  u64 lane = context.lane + static_cast<u64>(thread_index()) * cta_count();
  for (; lane < context.args.layout.lane_count; lane += stride) {
    LaneState* counters = context.in_heap<LaneState>(context.args.rank, context.args.layout.lanes) + lane;
    // ORDER: [epoch] epoch: the CTA's reads were before its barrier; the next launch reads these.
    counters->operation = context.operation;
    counters->previous_descriptor = context.args.descriptor;
    if (use.sentinel) {
      counters->sentinel_extent = use.bytes;
      counters->sentinel_buffer = use.next;
    }
    if (use.ll) counters->ll_epoch = use.next;
    if (use.copy_credits != 0) counters->copy_credits = use.copy_credits;
  }
}

// The same where no barrier of the CTA is at hand. A launch that does not end its operation leaves the counters as they are.
MYELON_DEVICE void advance_operation(const Context& context, MailboxUse use, bool ends_operation = true) {
  // ORDER: [epoch] [lane-epoch] load-sync: every thread's reads of the counters are before its CTA's arrival.
  sync_cta();
  if (ends_operation) step_counters(context, use);
}

}  // namespace myelon

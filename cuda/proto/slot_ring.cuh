// slot_ring: a lane's ring of slots towards the next rank, in the Disruptor's words.
//
// A slot's life is claim, publish, wait, release. The producer claims a slot when the gating sequence (what the consumer has
// released) leaves it a credit, fills it, and publishes it under the next sequence. The consumer waits for that sequence,
// reads the slot, and releases it by moving the gating sequence on. Sequences only grow, across launches too.
//
//   producer (rank r)                         consumer (rank r + 1)
//   claim:   wait gating > sequence - slots   wait:    wait slot_sequence[s] >= sequence
//   publish: slot_sequence[s] = sequence      release: gating of rank r = sequence
//
// Slots and slot_sequence lie in the consumer's heap, gating in the producer's: each side polls its own memory only.
#pragma once
#include "base/share.cuh"
#include "sync/operation.cuh"

namespace myelon {

// Thread of the CTA that talks to each side: two warps, so that both waits go on at once.
constexpr u32 kConsumerThread = 0;
constexpr u32 kProducerThread = 32;

class Producer {
 public:
  MYELON_DEVICE Producer(const Context& context, u32 next)
      : context_(context),
        next_(next),
        // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that ran a ring on this lane.
        sequence_(ld_relaxed_sys(&context.lane_state(context.args.rank)->published)),
        cached_gating_(0) {}

  // Waits for credit to use the next slot. One thread of the CTA; the others learn of it at the CTA's barrier.
  MYELON_DEVICE bool claim() {
    const u64 slots = context_.args.layout.ring_slots;
    const u64 next_sequence = sequence_ + 1;
    if (next_sequence <= slots || cached_gating_ >= next_sequence - slots) return true;
    const u64* gating = &context_.lane_state(context_.args.rank)->gating;
    // What the wait acquired may be more than this claim needs: it lets later ones pass without another look.
    return wait_for_sequence(context_, gating, next_sequence - slots, next_, &cached_gating_);
  }

  // Where the claimed slot's payload goes: in the memory of the next rank.
  MYELON_DEVICE u8* slot() const {
    const HeapLayout& layout = context_.args.layout;
    const u64 cell = static_cast<u64>(context_.lane) * layout.ring_slots + (sequence_ & (layout.ring_slots - 1));
    return context_.in_heap<u8>(next_, layout.ring + cell * layout.slot_bytes);
  }

  // Hands the filled slot over. All threads, after the CTA's barrier that follows the last store to the slot.
  MYELON_DEVICE void publish() {
    const u64 index = sequence_ & (context_.args.layout.ring_slots - 1);
    ++sequence_;
    // ORDER: [slot-publish] publish: the CTA's stores to the slot are before this release.
    if (thread_index() == kProducerThread) st_release_sys(&context_.lane_state(next_)->slot_sequence[index], sequence_);
  }

  MYELON_DEVICE void finish() {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads this.
    if (thread_index() == kProducerThread) context_.lane_state(context_.args.rank)->published = sequence_;
  }

 private:
  const Context context_;
  const u32 next_;
  u64 sequence_;
  u64 cached_gating_;
};

class Consumer {
 public:
  MYELON_DEVICE Consumer(const Context& context, u32 previous)
      : context_(context),
        previous_(previous),
        // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that ran a ring on this lane.
        sequence_(ld_relaxed_sys(&context.lane_state(context.args.rank)->consumed)) {}

  // Waits for the next slot. One thread of the CTA; the others learn of it at the CTA's barrier.
  MYELON_DEVICE bool wait() {
    const u64 index = sequence_ & (context_.args.layout.ring_slots - 1);
    const u64* published = &context_.lane_state(context_.args.rank)->slot_sequence[index];
    return wait_for_sequence(context_, published, sequence_ + 1, previous_);
  }

  // The slot that was waited for: in our own memory.
  MYELON_DEVICE const u8* slot() const {
    const HeapLayout& layout = context_.args.layout;
    const u64 cell = static_cast<u64>(context_.lane) * layout.ring_slots + (sequence_ & (layout.ring_slots - 1));
    return context_.in_heap<u8>(context_.args.rank, layout.ring + cell * layout.slot_bytes);
  }

  // Gives the slot back. All threads, after the CTA's barrier that follows the last read of the slot.
  MYELON_DEVICE void release() {
    ++sequence_;
    // ORDER: [slot-release] credit: the CTA's reads of the slot are before this release.
    if (thread_index() == kConsumerThread) st_release_sys(&context_.lane_state(previous_)->gating, sequence_);
  }

  MYELON_DEVICE void finish() {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads this.
    if (thread_index() == kConsumerThread) context_.lane_state(context_.args.rank)->consumed = sequence_;
  }

 private:
  const Context context_;
  const u32 previous_;
  u64 sequence_;
};

}  // namespace myelon

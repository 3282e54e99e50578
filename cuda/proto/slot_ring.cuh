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
//
// A launch uses the first `args.slots` of the slots that the heap has; sequences go on from launch to launch all the same.
// INVARIANT: a slot is claimed only when its last content has been released. Sequences q and q' share a slot if they are equal
// modulo the number of slots s. Within launches of one s, the content before q is that of q - s, which the credit covers. After
// a change of s that no longer holds: from 2 slots to 4, the slot of q holds q - 2, and credit would ask for q - 4. So the first
// claim after a change waits until the consumer has released everything published before, which it does without us: its
// launch before this one needs only what was published in that one. Published sequences need no such care: a slot's old
// sequence, of whatever s, is smaller than the one waited for.
#pragma once
#include "base/share.cuh"
#include "sync/operation.cuh"

namespace myelon {

// Threads of the CTA that talk to each side where all threads work alike: two warps, so that both waits go on at once.
constexpr u32 kConsumerThread = 0;
constexpr u32 kProducerThread = 32;

// One end of a ring. Each thread that needs to know where the slots lie has an object of its own and counts in it; one of them, the
// talker, tells the peer.
class Producer {
 public:
  MYELON_DEVICE Producer(const Context& context, u32 next, u32 talker = kProducerThread)
      : context_(context),
        next_(next),
        talker_(talker),
        // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that ran a ring on this lane.
        sequence_(ld_relaxed_sys(&context.lane_state(context.args.rank)->published)),
        drained_(ld_relaxed_sys(&context.lane_state(context.args.rank)->slots) == context.args.slots ? 0 : sequence_),
        cached_gating_(0),
        agreed_(false) {}

  // Behind a lane barrier of this launch: the consumer has ended the operation before, so it has released every slot.
  MYELON_DEVICE void take_all_credit() { cached_gating_ = sequence_; }

  // Waits for credit to use the next slot. One thread; the others learn of it at a barrier.
  MYELON_DEVICE bool claim() {
    const u64 slots = context_.args.slots;
    const u64 next_sequence = sequence_ + 1;
    const u64 credited = next_sequence > slots ? next_sequence - slots : 0;
    const u64 needed = credited > drained_ ? credited : drained_;
    if (cached_gating_ >= needed) return true;
    const u64* gating = &context_.lane_state(context_.args.rank)->gating;
    // What the wait acquired may be more than this claim needs: it lets later ones pass without another look.
    return wait_for_sequence(context_, gating, needed, next_, &cached_gating_);
  }

  // Whether the next rank runs the same operation: what is stored right into its output goes where this rank's own arguments say.
  // One thread, before the first such store.
  MYELON_DEVICE bool next_agrees() {
    if (!agreed_) agreed_ = wait_for_agreement(context_, next_);
    return agreed_;
  }

  // Where the claimed slot's payload goes: in the memory of the next rank.
  MYELON_DEVICE u8* slot() const {
    const HeapLayout& layout = context_.args.layout;
    const u64 cell = static_cast<u64>(context_.lane) * layout.ring_slots + (sequence_ & (context_.args.slots - 1));
    return context_.in_heap<u8>(next_, layout.ring + cell * layout.slot_bytes);
  }

  // Hands the filled slot over. All threads that keep count, after a barrier that follows the last store to the slot.
  MYELON_DEVICE void publish() {
    const u64 index = sequence_ & (context_.args.slots - 1);
    ++sequence_;
    // ORDER: [slot-publish] publish: the CTA's stores to the slot are before this release.
    if (thread_index() == talker_) st_release_sys(&context_.lane_state(next_)->slot_sequence[index], sequence_);
  }

  MYELON_DEVICE void finish() {
    if (thread_index() != talker_) return;
    LaneState* own = context_.lane_state(context_.args.rank);
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads these.
    own->published = sequence_;
    own->slots = context_.args.slots;
  }

 private:
  const Context context_;
  const u32 next_;
  const u32 talker_;
  u64 sequence_;
  const u64 drained_;  // what the consumer must have released before the first claim, whatever the credit
  u64 cached_gating_;  // the gating sequence seen last: it is read again only when this leaves no credit
  bool agreed_;        // of the thread that asks
};

// The other end; threads and talker as in `Producer`.
class Consumer {
 public:
  MYELON_DEVICE Consumer(const Context& context, u32 previous, u32 talker = kConsumerThread)
      : context_(context),
        previous_(previous),
        talker_(talker),
        // ORDER: [lane-epoch] epoch: written by `finish` of the launch before that ran a ring on this lane.
        sequence_(ld_relaxed_sys(&context.lane_state(context.args.rank)->consumed)),
        waited_for_(0) {}

  // Waits for the next slot. One thread; the others learn of it at a barrier.
  MYELON_DEVICE bool wait() {
    if (waited_for_ == sequence_ + 1) return true;
    const u64 index = sequence_ & (context_.args.slots - 1);
    const u64* published = &context_.lane_state(context_.args.rank)->slot_sequence[index];
    if (!wait_for_sequence(context_, published, sequence_ + 1, previous_)) return false;
    waited_for_ = sequence_ + 1;
    return true;
  }

  // The slot that was waited for: in our own memory.
  MYELON_DEVICE const u8* slot() const {
    const HeapLayout& layout = context_.args.layout;
    const u64 cell = static_cast<u64>(context_.lane) * layout.ring_slots + (sequence_ & (context_.args.slots - 1));
    return context_.in_heap<u8>(context_.args.rank, layout.ring + cell * layout.slot_bytes);
  }

  // Gives the slot back. All threads that keep count, after a barrier that follows the last read of the slot.
  MYELON_DEVICE void release() {
    ++sequence_;
    // ORDER: [slot-release] credit: the CTA's reads of the slot are before this release.
    if (thread_index() == talker_) st_release_sys(&context_.lane_state(previous_)->gating, sequence_);
  }

  MYELON_DEVICE void finish() {
    // ORDER: [lane-epoch] epoch: the CTA's reads were before its first barrier; the next launch reads this.
    if (thread_index() == talker_) context_.lane_state(context_.args.rank)->consumed = sequence_;
  }

 private:
  const Context context_;
  const u32 previous_;
  const u32 talker_;
  u64 sequence_;
  u64 waited_for_;
};

}  // namespace myelon

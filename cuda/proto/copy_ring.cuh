// copy_ring: a ring round which copies travel that the host has issued, and the kernel lets go.
//
// The host queues a fixed list of copies to the next rank on streams beside the kernel; each waits for a word of the own kernel,
// and says to the next rank, by another word, that it has arrived. So a stream never waits for a peer: the kernel does, with
// bounds. A copy's life, from rank r to rank r + 1:
//
//   kernel of r          go = 1 when its bytes are ready and its slot is free
//   stream of r          waits for go; copies; arrived = 1 at r + 1
//   kernel of r + 1      each warp waits for arrived, takes its part out of the slot, and counts itself in `taken`
//                        the last warp gives a credit to r: the slot is free again
//
// The slots of `args.copy_lanes` and of all lanes behind them are cut into `args.copy_slots` of `args.copy_chunk_bytes`; copy i goes to
// slot i modulo their number. What is taken out of a slot goes to the output, and the next copy leaves from there, so no slot waits for a copy.
//
// With direct outputs, results have no slots: they go from output to output, and `taken` says only that all warps know. With
// landing outputs nothing has: what comes is reduced where it lies.
// INVARIANT: a copy into an output goes only once that rank's operation has begun, so that what its stream did with it before has
// ended. A result is made of what the rank had there, so it is the last that comes: in place the input was read, and a sum on its way
// has been copied on. And only once that rank has said that it runs the same operation, its output at the same offset of the same
// window. Where it has not, or a wait is given up, copies go all the same, for nothing else ends their streams' waits: after an error
// outputs stay until no rank issues copies any more.
//
// Words of copies are 0 or 1, for a captured stream operation has constants only; a fill before the launch makes them 0. Credits
// only grow, across operations too: one when the receiver's operation has begun, then one for each slot it has emptied.
//
// INVARIANT: between operations no copy is under way, and all slots are free, whatever variant comes next. An operation lets no
// copy go before the receiver has said that its operation has begun, so that its launches before have ended, which is all that
// reads its slots, and so that its fill has run; and it ends only when the receiver has emptied every slot it was sent.
#pragma once
#include "proto/ring_step.cuh"
#include "sync/operation.cuh"

namespace myelon {

template <u32 kWorldSize, bool kDirect, bool kLanding>
class CopyRing {
 public:
  // Copies of one round: every step but the last sends.
  static constexpr u32 kSends = 2 * kWorldSize - 2;

  MYELON_DEVICE CopyRing(const Context& context, u64 rounds)
      : context_(context),
        rounds_(rounds),
        // ORDER: [epoch] epoch: the launch before that had copies left it; `step_counters` writes it behind the CTA's barrier.
        credits_(ld_relaxed_sys(&context.counters()->copy_credits)) {}

  // Of each rank: what it sends, and what comes.
  MYELON_DEVICE u64 copies() const { return kSends * rounds_; }
  // The step that a copy is sent in, and the round that it is of. Mirror of Plan::copies.
  MYELON_DEVICE u32 step(u64 copy) const { return static_cast<u32>(copy / rounds_); }
  MYELON_DEVICE u64 round(u64 copy) const { return copy % rounds_; }

  // Those that go through slots, which are the first. Mirror of Plan::copies.
  MYELON_DEVICE u64 in_slots() const { return kLanding ? 0 : kDirect ? (kWorldSize - 1) * rounds_ : copies(); }

  MYELON_DEVICE u64 credits_after() const { return credits_ + 1 + in_slots(); }

  // The slot of a copy that comes to one: in our own memory.
  MYELON_DEVICE const u8* slot(u64 copy) const {
    const Args& args = context_.args;
    // Mirror of Plan::first_copy_slot.
    const u64 first = (cta_count() - args.copy_lanes) * args.layout.ring_slots * args.layout.slot_bytes;
    return context_.in_heap<u8>(args.rank, args.layout.ring + first + copy % args.copy_slots * args.copy_chunk_bytes);
  }

  // Waits for a copy that comes. One thread of a warp; the others learn of it at a barrier.
  MYELON_DEVICE bool wait(u64 copy) const { return wait_for_sequence(context_, &words(copy)->arrived, 1, previous()); }

  // Counts a warp that has taken its part of a copy, of `warps`. One of its threads, after a barrier that follows the last access.
  MYELON_DEVICE void take(u64 copy, u64 warps) const {
    // ORDER: [copy-taken] publish: the warp's reads of the slot and stores to the output are before its count, and those of all
    // warps before what the last one stores below.
    if (atomic_add_acq_rel_gpu(&words(copy)->taken, 1) + 1 < warps || copy >= in_slots()) return;
    // ORDER: [copy-credit] credit: the slot is empty. Credits only grow: the last warp of the copy before gave its credit before it
    // counted itself here.
    st_release_sys(&state(previous())->copy_credit, credits_ + 2 + copy);
  }

  // Lets every copy go, in order, and waits until the next rank has emptied the slots. One thread of the grid, which takes
  // no part in that of the others. When one of its waits is given up, all copies may go.
  MYELON_DEVICE void let_go(u64 warps) const {
    // ORDER: [copy-credit] credit: the launches before, which read our slots, and the fill of our words have ended.
    st_release_sys(&state(previous())->copy_credit, credits_ + 1);
    for (u64 copy = 0; copy < copies(); ++copy) {
      if (!may_go(copy, warps)) {
        // Nothing else ends the wait of a stream. What it sends has no meaning any more.
        for (u64 late = copy; late < copies(); ++late) go(late);
        return;
      }
      go(copy);
    }
    wait_for_credits(in_slots());
  }

 private:
  MYELON_DEVICE u32 previous() const { return (context_.args.rank + kWorldSize - 1) % kWorldSize; }
  MYELON_DEVICE u32 next() const { return (context_.args.rank + 1) % kWorldSize; }
  MYELON_DEVICE HeapState* state(u32 rank) const { return context_.in_heap<HeapState>(rank, context_.args.layout.state); }
  MYELON_DEVICE CopyState* words(u64 copy) const {
    return context_.in_heap<CopyState>(context_.args.rank, context_.args.layout.copies) + copy;
  }

  // Waits until the next rank's operation has begun and it has emptied the slots of the first `copies` copies.
  MYELON_DEVICE bool wait_for_credits(u64 copies) const {
    return wait_for_sequence(context_, &state(context_.args.rank)->copy_credit, credits_ + 1 + copies, next());
  }

  MYELON_DEVICE bool may_go(u64 copy, u64 warps) const {
    const u64 slots = context_.args.copy_slots;
    if (!wait_for_credits(copy < slots || copy >= in_slots() ? 0 : copy + 1 - slots)) return false;
    if (copy == in_slots() && !wait_for_agreement(context_, next())) return false;
    if (copy < rounds_) return true;
    // It sends on what came a step earlier. Who waits for that knows better what is wrong.
    return wait_for_sequence(context_, &words(copy - rounds_)->taken, warps, previous(), nullptr, 2);
  }

  MYELON_DEVICE void go(u64 copy) const {
    // ORDER: [copy-go] publish: what the copy reads was acquired from those who stored it; the stream waits for the word.
    st_release_sys(&words(copy)->go, 1);
  }

  const Context context_;
  const u64 rounds_;
  const u64 credits_;  // that copies of earlier operations moved
};

}  // namespace myelon

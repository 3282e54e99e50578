// operation: what every launch does besides its own work: announce what it is, and step the counters of its rank.
#pragma once
#include "sync/wait.cuh"

namespace myelon {

// Which mailboxes a launch used: they have epochs of their own.
struct MailboxUse {
  bool sentinel;
  bool ll;
  u64 bytes;  // written per mailbox
};

// Tells every peer what this operation is, and checks what they said of the one before: an operation that ran with
// different counts or types can complete everywhere, and is then found here. Off every critical path: CTA 0 only.
MYELON_DEVICE void announce_operation(const Context& context, u32 world_size) {
  const Args& args = context.args;
  const u32 peer = thread_index();
  if (context.lane != 0 || peer >= world_size) return;
  const u64 announcement = (context.operation << kDescriptorBits) | args.descriptor;
  // ORDER: [signature] publish: one store of one word, so it is never seen torn; nothing is read behind it.
  st_relaxed_sys(context.signature(peer, args.rank, context.operation), announcement);
  if (context.operation == 1) return;
  const u64 previous = context.state()->previous_descriptor;
  u64 theirs;
  if (!peer_agrees(context, peer, context.operation - 1, previous, &theirs)) {
    Context before = context;
    before.operation -= 1;
    give_up(before, kFaultMismatch, peer, previous, theirs, 0);
  }
}

// Steps the rank's counters for the next launch, once every CTA of this one has read them. To be called by all threads
// of all CTAs, behind a barrier of the CTA that follows its last read of the counters, and before they wait for peers, so that
// it costs nothing. By a thread in the middle, for the first ones talk to the peers.
MYELON_DEVICE void step_counters(const Context& context, MailboxUse use) {
  HeapState* state = context.state();
  if (thread_index() != thread_count() / 2) return;
  // ORDER: [epoch] epoch: releases this CTA's reads and acquires those of all others, so the last one writes after all.
  if (atomic_add_acq_rel_gpu(&state->arrived, 1) + 1 != cta_count()) return;
  state->arrived = 0;
  if (use.sentinel) {
    state->sentinel_extent[state->sentinel_epoch % kSentinelBuffers] = use.bytes;
    state->sentinel_epoch += 1;
  }
  if (use.ll) state->ll_epoch += 1;
  state->previous_descriptor = context.args.descriptor;
  state->operation = context.operation;
}

// The same where no barrier of the CTA is at hand.
MYELON_DEVICE void advance_operation(const Context& context, MailboxUse use) {
  // ORDER: [epoch] [lane-epoch] load-sync: every thread's reads of the counters are before its CTA's arrival.
  sync_cta();
  step_counters(context, use);
}

}  // namespace myelon

// ring_copy_engine: the ring of `ring`, whose bytes travel by copy engines, whole chunks at a time.
//
// WHAT   Shards go round once to be reduced and once more as the result. The host issues the copies (src/comm/copies.rs); this
//        kernel lets them go, and reduces what they bring (proto/copy_ring.cuh).
//        in --copy--> slot of r + 1;  slot + in --> out --copy--> slot of r + 1;  slot --> out --copy--> slot of r + 1
//        Direct: results are copied from output to output (kDirect). Landing: all is, and reduced in the output (kLanding).
// WHO    All CTAs, as proto/copy_loop.cuh says.
// ORDER  [copy-credit] slots that are free; [copy-go] bytes to a copy; [copy-arrived] a copy to the warps; [copy-taken] warps to
//        the copy that sends it on.
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour, and no SM stores any of them. A copy has a start of its own, so
//        for the largest messages. 16- and 8-bit floats are rounded at every hop.
#pragma once
#include "proto/copy_loop.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring_copy_engine(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  const RingSchedule<kWorldSize> schedule(args, copied_share<T>(args), args.copy_chunk_bytes);
  const CopyRing<kWorldSize, Config::kDirect, Config::kLanding> ring(context, schedule.rounds());
  Announcement(context, kWorldSize).check(context);
  MailboxUse use = {};
  use.copy_credits = ring.credits_after();
  advance_operation(context, use);
  copy_loop<T, Op, Config>(args, schedule, ring);
}

}  // namespace myelon

// ring: reduce-scatter and all-gather around the ring of ranks, through slots, in one persistent loop a lane.
//
// WHAT   Shards go round once to be reduced and once more as the result, chunk by chunk (proto/ring_step.cuh).
//        in, slots of r --> slots of r + 1, out
//        Direct: the result goes round from output to output (kDirect).
// WHO    A lane has its own ring and share of the message. All threads of the CTA produce and consume (proto/ring_loop.cuh). A
//        launch does all steps, or one: then what a step leaves for the next lies in the slots.
// ORDER  [slot-publish] data to the next rank; [slot-release] credit back (proto/slot_ring.cuh).
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour: traffic stays a permutation. 2n - 2 hops, so for large messages.
//        Direct saves each rank a copy of (n - 1) / n x S.
//        16- and 8-bit floats are rounded at every hop.
#pragma once
#include "proto/ring_loop.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  // Launches of one operation have one number: the first announces it, the last steps it.
  if (args.first_step == 0) Announcement(context, kWorldSize).check(context);
  advance_operation(context, MailboxUse{}, args.end_step == RingSchedule<kWorldSize>::kSteps);
  ring_loop<T, Op, Config>(args, lane_share(pack_count<T>(args.count)), producer, consumer);
}

}  // namespace myelon

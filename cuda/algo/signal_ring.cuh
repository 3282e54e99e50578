// signal_ring: the hybrid of signal barrier and ring: ranks meet at a lane barrier, then run the ring's loop.
//
// WHAT   As ring, behind a barrier:
//        --barrier--> in, slots of r --> slots of r + 1, out
// WHO    As ring.
// ORDER  [signal] once: behind it all slots of the lane are free, whatever the operation before was, so the first round needs no
//        look at a credit. Then [slot-publish] and [slot-release] as in ring.
// COST   As ring, and one hop more.
#pragma once
#include "proto/ring_loop.cuh"
#include "sync/barrier.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_ring(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  LaneBarrier barrier(context, kWorldSize);
  Announcement(context, kWorldSize).check(context);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;

  producer.take_all_credit();
  if (ring_loop<T, Op, Config>(args, lane_share(pack_count<T>(args.count)), producer, consumer)) barrier.finish();
}

}  // namespace myelon

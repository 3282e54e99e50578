// stream_barrier: the streams of all ranks meet. No variant: nothing is reduced, and nothing is there to choose.
//
// WHAT   No rank's kernel ends before every rank's has begun.
// WHO    One CTA, with a thread for each rank; it meets as lane 0 of the others.
// ORDER  [signal] once: what a rank's stream did before is visible to what the stream of any rank does behind.
// COST   One hop: a store to every peer, and a poll for each.
#pragma once
#include "sync/barrier.cuh"

namespace myelon {

template <u32 kWorldSize>
MYELON_DEVICE void stream_barrier(const Args& args) {
  const Context context(args);
  LaneBarrier barrier(context, kWorldSize);
  const Announcement announcement(context, kWorldSize);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;
  barrier.finish();
  announcement.check(context);
}

}  // namespace myelon

// ring_with_copies: the ring of `ring` on the first part of a message, and that of `ring_copy_engine` on the rest, both at once.
//
// WHAT   As each of the two. The links carry the stores of kernels where a copy starts, and copies have larger packets than stores.
// WHO    The first lanes are as those of `ring`, the last `args.copy_lanes` as those of `ring_copy_engine` (proto/copy_loop.cuh).
// ORDER  Those of both; the two share nothing but the counters of the operation, which CTAs of either kind step.
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour. For the largest messages: both parts have to be long.
#pragma once
#include "proto/copy_loop.cuh"
#include "proto/ring_loop.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void ring_with_copies(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  const Share copied = copied_share<T>(args);
  const RingSchedule<kWorldSize> schedule(args, copied, args.copy_chunk_bytes);
  const CopyRing<kWorldSize, false, false> copies(context, schedule.rounds());
  Producer producer(context, (args.rank + 1) % kWorldSize);
  Consumer consumer(context, (args.rank + kWorldSize - 1) % kWorldSize);
  Announcement(context, kWorldSize).check(context);
  MailboxUse use = {};
  if (copied.packs > 0) use.copy_credits = copies.credits_after();
  advance_operation(context, use);

  const u32 ring_lanes = cta_count() - args.copy_lanes;
  if (context.lane < ring_lanes) {
    ring_loop<T, Op, Config>(args, cut(0, copied.first, ring_lanes, context.lane), producer, consumer);
  } else if (copied.packs > 0) {
    copy_loop<T, Op, Config>(args, schedule, copies);
  }
}

}  // namespace myelon

// signal_two_shot: reduce-scatter, then all-gather, both by loads from the peers' staging, with a barrier before each.
//
// WHAT   A lane's share is cut into n shards; rank r reduces shard r of all ranks, in rank order, and everybody fetches it.
//        in --copy--> staging --barrier--> reduce own shard into own staging --barrier--> load every rank's shard --> out
// WHO    A lane works on its share of the message alone: its own staging cell, its own barriers.
// ORDER  [signal] twice: inputs are data after the first, reduced shards after the second.
// COST   A rank of n loads 2 (n - 1) / n x S bytes from its peers; three hops.
#pragma once
#include "proto/staging.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_two_shot(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Staging<T> staging(context);
  LaneBarrier barrier(context, kWorldSize);
  const Share share = lane_share(pack_count<T>(args.count));

  staging.copy_in(share);
  end_phase();
  const Announcement announcement(context, kWorldSize);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;

  // Own shard, in place in the own cell: no peer reads this part of it before the second barrier.
  const Share own = cut(0, share.packs, kWorldSize, args.rank);
  for_each_pack<1, T>(
      own.packs,
      [&](u64 i) {
        Pack<T> packs[kWorldSize];
        MYELON_UNROLL
        for (u32 source = 0; source < kWorldSize; ++source) packs[source] = staging.load(source, own.first + i);
        return reduce_in_order<T, Op>(packs);
      },
      [&](u64 i, Pack<T> result) { staging.store(own.first + i, result); });
  end_phase();
  if (!barrier.arrive_and_wait()) return;

  for (u32 step = 0; step < kWorldSize; ++step) {
    // Each rank starts with another peer, so that they do not all load from one.
    const u32 source = (args.rank + step) % kWorldSize;
    const Share shard = cut(0, share.packs, kWorldSize, source);
    for_each_pack<4, T>(
        shard.packs, [&](u64 i) { return staging.load(source, shard.first + i); },
        [&](u64 i, Pack<T> pack) { store_pack(args.output, share.first + shard.first + i, args.count, pack); });
  }
  end_phase();

  barrier.finish();
  staging.finish();
  announcement.check(context);
}

}  // namespace myelon

// low_latency_two_shot: signal_two_shot whose loads go through a pipeline of cp.async stages in shared memory.
//
// WHAT   A lane's share is cut into n shards; rank r reduces shard r of all ranks, in rank order, and everybody fetches it.
//        in --copy--> staging --barrier--> cp.async of own shard from all ranks --> reduce into own staging
//        --barrier--> cp.async of every rank's shard --> out
// WHO    A thread fetches pack i of the own shard of every rank and reduces them, then pack i of every reduced shard and keeps
//        them (proto/prefetch.cuh).
// ORDER  [signal] twice: inputs are data after the first, reduced shards after the second; cp.async is a weak access.
// COST   As signal_two_shot, with kStages - 1 rounds of n loads in flight, besides the one waited for, without holding registers.
//        Shared memory: kStages x n x 16 bytes a thread.
#pragma once
#include "proto/prefetch.cuh"
#include "proto/staging.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void low_latency_two_shot(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  Staging<T> staging(context);
  LaneBarrier barrier(context, kWorldSize);
  const Share share = lane_share(pack_count<T>(args.count));
  auto shard = [&](u32 rank) { return cut(0, share.packs, kWorldSize, rank); };

  staging.copy_in(share);
  end_phase();
  const Announcement announcement(context, kWorldSize);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;

  // Own shard, in place in the own cell: no peer reads this part of it before the second barrier.
  const Share own = shard(args.rank);
  Prefetch<T, Config>::run(
      own.packs, [](u32, u64) { return true; },
      [&](u32 source, u64 i) { return staging.address(source, own.first + i); },
      [&](u64 i, const Pack<T>(&pack)[kWorldSize]) { staging.store(own.first + i, reduce_in_order<T, Op>(pack)); });
  if (!barrier.arrive_and_wait()) return;

  // Each rank starts with another peer, so that they do not all load from one. Shard 0 is the longest.
  auto peer = [&](u32 k) { return (args.rank + k) % kWorldSize; };
  auto has = [&](u32 k, u64 i) { return i < shard(peer(k)).packs; };
  Prefetch<T, Config>::run(
      shard(0).packs, has, [&](u32 k, u64 i) { return staging.address(peer(k), shard(peer(k)).first + i); },
      [&](u64 i, const Pack<T>(&pack)[kWorldSize]) {
        MYELON_UNROLL
        for (u32 k = 0; k < kWorldSize; ++k) {
          if (has(k, i)) store_pack(args.output, share.first + shard(peer(k)).first + i, args.count, pack[k]);
        }
      });

  barrier.finish();
  staging.finish();
  announcement.check(context);
}

}  // namespace myelon

// two_shot_tma: signal_two_shot by bulk copies, with warps that copy and warps that reduce.
//
// WHAT   A lane's share is cut into n shards; rank r reduces shard r of all ranks, in rank order, and pushes it to everybody.
//        in --copy--> staging --barrier--> bulk loads of own shard from all ranks --> stages --> reduce --> bulk stores into
//        the shard's place in every rank's staging --barrier--> copy --> out
// WHO    One thread of each producer warp loads a piece of every rank's staging into a stage, and, when the consumer warps have
//        reduced it in place, stores it to every rank. All threads copy in and out. Lanes share nothing.
// ORDER  [signal] twice: inputs are data after the first, pushed shards after the second. [bulk-load] and [bulk-store] take
//        both across the async proxy. [stage-filled], [stage-emptied] between warps (proto/stages.cuh).
// COST   A rank of n loads (n - 1) / n x S bytes from its peers and stores as many; three hops. Few threads keep the link busy.
//        Shared memory: kStages x n x 16 bytes a consumer thread.
#pragma once
#include "proto/stages.cuh"
#include "proto/staging.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void two_shot_tma(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  constexpr u32 kStages = Config::kStages;
  using Pipeline = Stages<Config, kWorldSize>;
  const Context context(args);
  Staging<T> staging(context);
  LaneBarrier barrier(context, kWorldSize);
  const Pipeline stages(context);
  const Share share = lane_share(pack_count<T>(args.count));

  staging.copy_in(share);
  end_phase();
  Announcement(context, kWorldSize).check(context);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;

  const Share own = cut(0, share.packs, kWorldSize, args.rank);
  const u64 pieces = (own.packs + Pipeline::kPiecePacks - 1) / Pipeline::kPiecePacks;
  auto piece = [&](u64 k) {
    const u64 first = k * Pipeline::kPiecePacks;
    const u64 left = own.packs - first;
    return Share{own.first + first, left < Pipeline::kPiecePacks ? left : Pipeline::kPiecePacks};
  };

  bool done = true;
  if (stages.is_producer()) {
    auto push = [&](u64 k) {
      const Share part = piece(k);
      for (u32 step = 0; step < kWorldSize; ++step) {
        // Each rank starts with another peer.
        const u32 rank = (args.rank + step) % kWorldSize;
        // ORDER: [bulk-store] publish: nobody else reads or writes this part of the peer's staging any more: its content was
        // loaded before it was reduced.
        bulk_store(staging.address(rank, part.first), stages.place(k, 0), static_cast<u32>(part.packs * kPackBytes));
      }
      // ORDER: [bulk-store] publish: closes the group that is waited for.
      bulk_store_commit();
    };
    if (warp_lane() == 0) {
      // Piece k follows piece k - kStages in its stage, which is pushed first; the last ones of each stage have no successor.
      u64 k = 0;
      for (; k < pieces + kStages; ++k) {
        if (!stages.fills(k)) continue;
        if (k >= kStages && k - kStages < pieces) {
          done = stages.claim(k);
          if (!done) break;
          push(k - kStages);
          // ORDER: [bulk-store] reuse: the stage is loaded into again: its content must have left.
          bulk_store_wait_read();
        }
        if (k >= pieces) continue;
        const Share part = piece(k);
        const u32 bytes = static_cast<u32>(part.packs * kPackBytes);
        // What the peers staged was acquired by the barrier.
        stages.publish(k, bytes * kWorldSize);
        for (u32 step = 0; step < kWorldSize; ++step) {
          const u32 source = (args.rank + step) % kWorldSize;
          stages.load(k, source, staging.address(source, part.first), bytes);
        }
      }
      stages.drain(k < pieces ? k : pieces);
      stages.settle();
    }
    // ORDER: [bulk-store] load-sync: the warp comes to the CTA's barrier as one; that one orders the rest.
    sync_warp();
  } else {
    const Strided mine = stages.consumers();
    for (u64 k = 0; k < pieces; ++k) {
      done = stages.wait(k);
      if (!done) break;
      for_each_pack<Pipeline::kThreadPacks, T>(
          mine, piece(k).packs,
          [&](u64 i) {
            Pack<T> pack;
            pack.bytes = *stages.pack(k, 0, i);
            PackReducer<T, Op> reducer(pack);
            MYELON_UNROLL
            for (u32 source = 1; source < kWorldSize; ++source) {
              pack.bytes = *stages.pack(k, source, i);
              reducer.add(pack);
            }
            return reducer.result(kWorldSize);
          },
          [&](u64 i, Pack<T> result) { *stages.pack(k, 0, i) = result.bytes; });
      // ORDER: [bulk-store] [stage-emptied] publish: each thread's results are before the producer's bulk stores of them.
      fence_proxy_async();
      stages.release(k);
    }
  }
  // ORDER: [stage-filled] [stage-emptied] load-sync: all go on, or none; the barrier between ranks orders the rest.
  if (!sync_cta_and(done)) return;
  if (!barrier.arrive_and_wait()) return;

  for_each_pack<4, T>(
      share.packs, [&](u64 i) { return staging.load(args.rank, i); },
      [&](u64 i, Pack<T> pack) { store_pack(args.output, share.first + i, args.count, pack); });
  end_phase();

  barrier.finish();
  staging.finish();
}

}  // namespace myelon

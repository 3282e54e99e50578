// low_latency: signal_one_shot whose loads go through a pipeline of cp.async stages in shared memory.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --copy--> staging of r --barrier--> cp.async from all ranks, kStages deep --> reduce --> out
// WHO    A thread fetches pack i of every rank into its own places in shared memory and reduces them from there: no thread
//        reads what another fetched, so the pipeline needs no CTA barrier.
// ORDER  [signal] once, before the first cp.async: those are weak accesses, which an acquire must precede.
// COST   As signal_one_shot, with kStages - 1 rounds of loads in flight, besides the one waited for, without holding registers.
//        One stage fetches, waits and reduces. No stage, loads straight into registers, is signal_one_shot itself.
//        Shared memory: kStages x n x 16 bytes a thread.
#pragma once
#include "proto/staging.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void low_latency(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  constexpr u32 kStages = Config::kStages;
  const Context context(args);
  Staging<T> staging(context);
  LaneBarrier barrier(context, kWorldSize);
  const Share share = lane_share(pack_count<T>(args.count));
  const u64 threads = thread_count();

  // This thread's place for a pack of `source` in a stage.
  Bytes16* const places = reinterpret_cast<Bytes16*>(shared_memory());
  auto place = [&](u64 round, u32 source) {
    return &places[((round % kStages) * kWorldSize + source) * threads + thread_index()];
  };
  auto fetch = [&](u64 round) {
    const u64 index = round * threads + thread_index();
    if (index < share.packs) {
      MYELON_UNROLL
      // ORDER: [signal] [stage] consume: a weak load of what the barrier acquired.
      for (u32 source = 0; source < kWorldSize; ++source) cp_async_16(place(round, source), staging.address(source, index));
    }
    // ORDER: [stage] publish: closes the group that is waited for; empty ones keep the count of groups equal to the rounds'.
    cp_async_commit();
  };

  staging.copy_in(share);
  const Announcement announcement(context, kWorldSize);
  barrier.arrive();
  step_counters(context, MailboxUse{});
  if (!barrier.wait()) return;

  for (u32 round = 0; round + 1 < kStages; ++round) fetch(round);
  const u64 rounds = (share.packs + threads - 1) / threads;
  for (u64 round = 0; round < rounds; ++round) {
    // The stage this refills was reduced in the round before, by this very thread.
    fetch(round + kStages - 1);
    // ORDER: [stage] load-sync: this thread's copies of the round are in shared memory; no other thread reads them.
    cp_async_wait<kStages - 1>();
    const u64 index = round * threads + thread_index();
    if (index >= share.packs) continue;
    Pack<T> pack;
    pack.bytes = *place(round, 0);
    PackReducer<T, Op> reducer(pack);
    MYELON_UNROLL
    for (u32 source = 1; source < kWorldSize; ++source) {
      pack.bytes = *place(round, source);
      reducer.add(pack);
    }
    store_pack(args.output, share.first + index, args.count, reducer.result(kWorldSize));
  }

  barrier.finish();
  staging.finish();
  announcement.check(context);
}

}  // namespace myelon

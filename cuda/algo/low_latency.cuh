// low_latency: signal_one_shot whose loads go through a pipeline of cp.async stages in shared memory.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --copy--> staging of r --barrier--> cp.async from all ranks, kStages deep --> reduce --> out
// WHO    A thread fetches pack i of every rank and reduces them (proto/prefetch.cuh).
// ORDER  [signal] once, before the first cp.async: those are weak accesses, which an acquire must precede.
// COST   As signal_one_shot, with kStages - 1 rounds of loads in flight, besides the one waited for, without holding registers.
//        One stage fetches, waits and reduces. No stage, loads straight into registers, is signal_one_shot itself.
//        Shared memory: kStages x n x 16 bytes a thread.
#pragma once
#include "proto/prefetch.cuh"
#include "proto/staging.cuh"
#include "reduce/operator.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void low_latency(const Args& args) {
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

  Prefetch<T, Config>::run(
      share.packs, [](u32, u64) { return true; }, [&](u32 source, u64 i) { return staging.address(source, i); },
      [&](u64 i, const Pack<T>(&pack)[kWorldSize]) {
        store_pack(args.output, share.first + i, args.count, reduce_in_order<T, Op>(pack));
      });

  barrier.finish();
  staging.finish();
  announcement.check(context);
}

}  // namespace myelon

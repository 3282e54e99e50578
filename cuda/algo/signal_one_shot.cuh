// signal_one_shot: ranks stage their inputs, meet at a barrier, and every rank reads and reduces everything.
//
// WHAT   out[i] = op over r of in[r][i], in rank order.
//        in[r] --copy--> staging of r --barrier--> loads from all ranks --> reduce --> out
// WHO    A lane works on its share of the message alone: its own staging cell, its own barrier.
// ORDER  [signal] once: inputs are data after it. The other staging half makes a second barrier unnecessary.
// COST   A rank of n loads (n - 1) x S bytes from its peers; two hops. The baseline that the others are measured against.
#pragma once
#include "proto/staging.cuh"
#include "reduce/operator.cuh"
#include "sync/phase.cuh"

namespace myelon {

template <class T, class Op, class Config>
MYELON_DEVICE void signal_one_shot(const Args& args) {
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

  for_each_pack<1, T>(
      share.packs,
      [&](u64 i) {
        Pack<T> packs[kWorldSize];
        MYELON_UNROLL
        for (u32 source = 0; source < kWorldSize; ++source) packs[source] = staging.load(source, i);
        return reduce_in_order<T, Op>(packs);
      },
      [&](u64 i, Pack<T> result) { store_pack(args.output, share.first + i, args.count, result); });
  end_phase();

  barrier.finish();
  staging.finish();
  announcement.check(context);
}

}  // namespace myelon

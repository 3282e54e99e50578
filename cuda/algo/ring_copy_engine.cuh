// ring_copy_engine: the ring of `ring`, whose bytes travel by copy engines, whole chunks at a time.
//
// WHAT   Shards go round once to be reduced and once more as the result. The host issues the copies (src/comm/copies.rs); this
//        kernel lets them go, and reduces what they bring (proto/copy_ring.cuh).
//        in --copy--> slot of r + 1;  slot + in --> out --copy--> slot of r + 1;  slot --> out --copy--> slot of r + 1
//        Direct: results are copied from output to output (kDirect). Landing: all is, and reduced in the output (kLanding).
// WHO    All warps of the grid take part in each chunk, but the first: one of its threads lets copies go. Warps never meet; each
//        waits for a chunk by itself.
// ORDER  [copy-credit] slots that are free; [copy-go] bytes to a copy; [copy-arrived] a copy to the warps; [copy-taken] warps to
//        the copy that sends it on.
// COST   A rank sends 2 (n - 1) / n x S bytes, all to one neighbour, and no SM stores any of them. A copy has a start of its own, so
//        for the largest messages. 16- and 8-bit floats are rounded at every hop.
#pragma once
#include "proto/copy_ring.cuh"

namespace myelon {

constexpr u32 kCopyUnroll = 4;

template <class T, class Op, class Config>
MYELON_DEVICE void ring_copy_engine(const Args& args) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const Context context(args);
  const RingSchedule<kWorldSize> schedule(args, {0, pack_count<T>(args.count)});
  const CopyRing<kWorldSize, Config::kDirect, Config::kLanding> ring(context, schedule.rounds());
  Announcement(context, kWorldSize).check(context);
  MailboxUse use = {};
  use.copy_credits = ring.credits_after();
  advance_operation(context, use);

  const u64 cta_warps = thread_count() / kWarpThreads;
  const u64 warps = cta_warps * cta_count() - 1;
  const u64 warp = cta_warps * cta_index() + warp_index();
  if (warp == 0) {
    if (warp_lane() == 0) ring.let_go(warps);
    return;
  }
  const Strided mine = {(warp - 1) * kWarpThreads + warp_lane(), warps * kWarpThreads};
  auto input = [&](u64 i) { return load_pack<T>(args.input, i, args.count); };
  auto keep = [&](u64 i, Pack<T> pack) { store_pack(args.output, i, args.count, pack); };
  if (kWorldSize == 1) {
    const u64 packs = pack_count<T>(args.count);
    for_each_pack<kCopyUnroll, T>(mine, packs, [&](u64 i) { return PackReducer<T, Op>(input(i)).result(1); }, keep);
  }
  for (u64 copy = 0; copy < ring.copies(); ++copy) {
    const bool ready = warp_lane() != 0 || ring.wait(copy);
    // ORDER: [copy-arrived] load-sync: what one thread acquired is visible to its warp, and all go on or none.
    if (!sync_warp_and(ready)) return;

    const u32 step = ring.step(copy) + 1;
    const Share chunk = schedule.chunk(schedule.part(ring.round(copy)), step);
    const u8* received = Config::kLanding ? nullptr : ring.slot(copy);
    auto slot = [&](u64 i) {
      if (Config::kLanding) return load_pack<T>(args.output, chunk.first + i, args.count);
      Pack<T> pack;
      pack.bytes = ld_weak_16(received + i * kPackBytes);
      return pack;
    };
    auto reduced = [&](u64 i) {
      PackReducer<T, Op> reducer(slot(i));
      reducer.add(input(chunk.first + i));
      return reducer;
    };
    auto keep_of_chunk = [&](u64 i, Pack<T> pack) { keep(chunk.first + i, pack); };
    if (step < kWorldSize - 1) {
      for_each_pack<kCopyUnroll, T>(mine, chunk.packs, [&](u64 i) { return reduced(i).partial(); }, keep_of_chunk);
    } else if (step == kWorldSize - 1) {
      for_each_pack<kCopyUnroll, T>(mine, chunk.packs, [&](u64 i) { return reduced(i).result(kWorldSize); }, keep_of_chunk);
    } else if (!Config::kDirect) {
      for_each_pack<kCopyUnroll, T>(mine, chunk.packs, slot, keep_of_chunk);
    }

    // ORDER: [copy-taken] [copy-credit] load-sync: the warp's accesses are before its count.
    sync_warp();
    if (warp_lane() == 0) ring.take(copy, warps);
  }
}

}  // namespace myelon

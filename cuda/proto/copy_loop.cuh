// copy_loop: what the CTAs of `args.copy_lanes` do with the packs at the end of the operands: let copies go, and reduce what they bring.
//
// All warps take part in each chunk, but the first: one of its threads lets copies go. Warps never meet; each waits for a chunk by
// itself.
#pragma once
#include "proto/copy_ring.cuh"

namespace myelon {

constexpr u32 kCopyUnroll = 4;

template <class T>
MYELON_DEVICE Share copied_share(const Args& args) {
  return {pack_count<T>(args.count) - args.copied_packs, args.copied_packs};
}

template <class T, class Op, class Config>
MYELON_DEVICE void copy_loop(const Args& args, const RingSchedule<Config::kWorldSize>& schedule,
                             const CopyRing<Config::kWorldSize, Config::kDirect, Config::kLanding>& ring) {
  constexpr u32 kWorldSize = Config::kWorldSize;
  const u64 cta_warps = thread_count() / kWarpThreads;
  const u64 warps = cta_warps * args.copy_lanes - 1;
  const u64 warp = cta_warps * (cta_index() + args.copy_lanes - cta_count()) + warp_index();
  if (warp == 0) {
    if (warp_lane() == 0) ring.let_go(warps);
    return;
  }
  const Strided mine = {(warp - 1) * kWarpThreads + warp_lane(), warps * kWarpThreads};
  auto input = [&](u64 i) { return load_pack<T>(args.input, i, args.count); };
  auto keep = [&](u64 i, Pack<T> pack) { store_pack(args.output, i, args.count, pack); };
  if (kWorldSize == 1) {
    for_each_pack<kCopyUnroll, T>(mine, args.copied_packs, [&](u64 i) { return PackReducer<T, Op>(input(i)).result(1); }, keep);
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

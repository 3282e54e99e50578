// team: threads of one warp that work on one pack, a thread for each rank.
//
// What one thread would do for all ranks in turn, a team does at once: each member sends to one rank and polls one mailbox,
// and the packs meet in registers. A team has a power of two of threads, so that it never crosses a warp; members beyond
// the last rank only take part in the shuffles. Packs are counted in 32 bits: a mailbox has fewer.
#pragma once
#include "base/pack.cuh"

namespace myelon {

template <u32 kWorldSize>
struct Team {
  static constexpr u32 kThreads = kWorldSize <= 1 ? 1 : kWorldSize <= 2 ? 2 : kWorldSize <= 4 ? 4 : 8;
  static constexpr u32 kPerWarp = kWarpThreads / kThreads;

  const u32 member = warp_lane() % kThreads;
  const bool has_rank = member < kWorldSize;

  // The rank that this thread stands for: any, of a member beyond the last.
  MYELON_DEVICE u32 rank() const { return has_rank ? member : 0; }

  // Teams of a CTA take neighbouring packs, so that a warp's accesses to one rank lie together.
  MYELON_DEVICE u32 first_of_warp() const {
    return (cta_index() * thread_count() + thread_index()) / kWarpThreads * kPerWarp;
  }
  // The pack that this thread's team begins with: can be past the last pack.
  MYELON_DEVICE u32 first_pack() const { return first_of_warp() + warp_lane() / kThreads; }
  MYELON_DEVICE u32 of_grid() const { return cta_count() * thread_count() / kThreads; }

  // Runs `visit(index, pack)` for the packs of this thread's team, the whole warp together: `index` can be past the last pack.
  // The first one is `first`; a later one is what `load(index)` gives. Stops where `visit` returns false.
  template <class T, class Load, class Visit>
  MYELON_DEVICE void for_each_pack(u32 packs, Pack<T> first, Load load, Visit visit) const {
    const u32 place = warp_lane() / kThreads;
    u32 base = first_of_warp();
    if (base >= packs) return;
    MYELON_NO_UNROLL
    for (;;) {
      if (!visit(base + place, first)) return;
      base += of_grid();
      if (base >= packs) return;
      if (base + place < packs) first = load(base + place);
    }
  }

  // The pack that member `from` of this team gives. The whole warp takes part.
  template <class T>
  MYELON_DEVICE Pack<T> pack_of(u32 from, Pack<T> own) const {
    Pack<T> pack;
    // ORDER: [team] load-sync: members meet in registers; no memory is read behind it.
    pack.bytes = warp_shuffle(own.bytes, warp_lane() - member + from);
    return pack;
  }
};

}  // namespace myelon

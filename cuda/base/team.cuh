// team: threads of one warp that work on one pack, a thread for each rank.
//
// What one thread would do for all ranks in turn, a team does at once: each member sends to one rank and polls one mailbox,
// and the packs meet in registers. A team has a power of two of threads, so that it never crosses a warp; members beyond
// the last rank only take part in the shuffles.
#pragma once
#include "base/pack.cuh"

namespace myelon {

template <u32 kWorldSize>
struct Team {
  static constexpr u32 kThreads = kWorldSize <= 1 ? 1 : kWorldSize <= 2 ? 2 : kWorldSize <= 4 ? 4 : 8;
  static constexpr u32 kPerWarp = kWarpThreads / kThreads;

  const u32 member = warp_lane() % kThreads;
  const bool has_rank = member < kWorldSize;

  // Teams of a CTA take neighbouring packs, so that a warp's accesses to one rank lie together.
  MYELON_DEVICE u64 first_of_warp() const {
    const u64 warp = (static_cast<u64>(cta_index()) * thread_count() + thread_index()) / kWarpThreads;
    return warp * kPerWarp;
  }
  MYELON_DEVICE u64 of_grid() const { return static_cast<u64>(cta_count()) * thread_count() / kThreads; }

  // Runs `visit(index)` for the packs of this thread's team, the whole warp together: `index` can be past the last pack.
  // Stops where `visit` returns false.
  template <class Visit>
  MYELON_DEVICE void for_each_pack(u64 packs, Visit visit) const {
    MYELON_NO_UNROLL
    for (u64 first = first_of_warp(); first < packs; first += of_grid()) {
      if (!visit(first + warp_lane() / kThreads)) return;
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

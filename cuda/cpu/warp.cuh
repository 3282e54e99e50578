// warp: what the threads of a warp tell each other (CPU form of ptx/warp.cuh).
#pragma once
#include "cpu/memory.cuh"

namespace myelon {

inline Bytes16 warp_shuffle(Bytes16 value, u32 from) {
  Cta& cta = *current->cta;
  const u32 generation = __atomic_load_n(&cta.warp_barrier[warp_index()].generation, __ATOMIC_ACQUIRE);
  // INVARIANT: a place is written again two barriers later, when everybody has read it.
  u64(*given)[2] = cta.given[warp_index()][generation & 1];
  given[warp_lane()][0] = value.half[0];
  given[warp_lane()][1] = value.half[1];
  sync_warp();
  return {{given[from][0], given[from][1]}};
}

}  // namespace myelon

// warp: what the threads of a warp tell each other (CPU form of ptx/warp.cuh).
#pragma once
#include "cpu/memory.cuh"

namespace myelon {

MYELON_DEVICE u32 warp_lane() { return current->thread % kWarpThreads; }

inline Bytes16 warp_shuffle(Bytes16 value, u32 from) {
  Warp& warp = *current->warp;
  // INVARIANT: a place is written again two meetings later, when everybody has read it.
  u64(*given)[2] = warp.given[__atomic_load_n(&warp.meeting.generation, __ATOMIC_ACQUIRE) & 1];
  given[warp_lane()][0] = value.half[0];
  given[warp_lane()][1] = value.half[1];
  meet(warp.meeting, true);
  return {{given[from][0], given[from][1]}};
}

MYELON_DEVICE bool warp_and(bool vote) { return meet(current->warp->meeting, vote); }

}  // namespace myelon

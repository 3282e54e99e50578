// warp: what the threads of a warp tell each other. All 32 take part in every call, or the call has no meaning.
#pragma once
#include "ptx/memory.cuh"

namespace myelon {

// The value that thread `from` of the warp gives.
MYELON_DEVICE Bytes16 warp_shuffle(Bytes16 value, u32 from) {
  return {{__shfl_sync(~0u, value.half[0], from), __shfl_sync(~0u, value.half[1], from)}};
}

}  // namespace myelon

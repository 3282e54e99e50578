// peers: the other ranks, numbered from 0 as each rank sees them.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

// Which of the peers of `owner` is `rank`. Means nothing where they are the same.
MYELON_DEVICE u32 peer_index(u32 owner, u32 rank) { return rank > owner ? rank - 1 : rank; }

}  // namespace myelon

// phase: what a kernel does between two points at which its CTA could meet. Where nothing has to be ordered, it need not.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

// How many barriers of the CTA a kernel has. Mirror of `SyncPolicy` in src/types.rs.
// light    those that an ordering needs
// strict   one more at the end of every phase: what it costs is what a barrier costs
enum class Sync : u8 { light, strict };

#ifndef MYELON_SYNC
#define MYELON_SYNC light
#endif
// The policy of this kernel, named like its wait policy (sync/wait.cuh).
constexpr Sync kSync = Sync::MYELON_SYNC;

// The end of a phase behind which no thread relies on another's. By all threads of the CTA, which all get the same answer under
// strict: whether `ready` was true on all.
MYELON_DEVICE bool end_phase(bool ready = true) {
  if (kSync == Sync::light) return ready;
  // ORDER: [strict] load-sync: orders nothing that is needed.
  return sync_cta_and(ready);
}

}  // namespace myelon

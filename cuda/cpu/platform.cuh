// platform: how a function and a kernel are declared, and who the calling thread is (CPU form of ptx/platform.cuh).
#pragma once
#include "cpu/runtime.cuh"

#define MYELON_DEVICE inline __attribute__((always_inline))
#define MYELON_DEVICE_COLD inline __attribute__((noinline))
#define MYELON_UNROLL
#define MYELON_NO_UNROLL

#define MYELON_KERNEL(threads, ArgsType, args)                                                      \
  static void myelon_kernel_body(const ArgsType& args);                                             \
  extern "C" __attribute__((visibility("default"))) void myelon_kernel(const CpuLaunch* launch) {   \
    run_grid(launch, [](const void* raw) { myelon_kernel_body(*static_cast<const ArgsType*>(raw)); }); \
  }                                                                                                 \
  static void myelon_kernel_body(const ArgsType& args)

namespace myelon {

constexpr u32 kHotPolls = 4;

MYELON_DEVICE u32 thread_index() { return current->thread; }
MYELON_DEVICE u32 thread_count() { return current->cta->threads; }
MYELON_DEVICE u32 warp_index() { return thread_index() / kWarpThreads; }
MYELON_DEVICE u32 warp_lane() { return thread_index() % kWarpThreads; }
MYELON_DEVICE u32 cta_index() { return current->cta->index; }
MYELON_DEVICE u32 cta_count() { return grid->launch->grid; }
MYELON_DEVICE u8* shared_memory() { return current->cta->shared; }

MYELON_DEVICE void poll_pause() { yield(); }

// Passes when `threads` threads have come; true when all voted so.
inline bool pass_barrier(Barrier& barrier, u32 threads, bool vote) {
  if (barrier.ended != 0) fail("a barrier after a thread of the CTA has returned");
  const u32 generation = __atomic_load_n(&barrier.generation, __ATOMIC_ACQUIRE);
  if (!vote) __atomic_add_fetch(&barrier.vetoes[generation & 1], 1, __ATOMIC_RELAXED);
  if (__atomic_add_fetch(&barrier.arrived, 1, __ATOMIC_ACQ_REL) == threads) {
    __atomic_store_n(&barrier.arrived, 0, __ATOMIC_RELAXED);
    // INVARIANT: all threads have read the votes of the time before: they have come again.
    __atomic_store_n(&barrier.vetoes[(generation + 1) & 1], 0, __ATOMIC_RELAXED);
    note_progress();
    note_blocked(1 - static_cast<i32>(threads));
    __atomic_store_n(&barrier.generation, generation + 1, __ATOMIC_RELEASE);
  } else {
    note_blocked(1);
    while (__atomic_load_n(&barrier.generation, __ATOMIC_ACQUIRE) == generation) yield();
  }
  return __atomic_load_n(&barrier.vetoes[generation & 1], __ATOMIC_RELAXED) == 0;
}

inline bool sync_cta_and(bool vote) { return pass_barrier(current->cta->barrier, thread_count(), vote); }
inline void sync_cta() { sync_cta_and(true); }

inline bool sync_warp_and(bool vote) {
  return pass_barrier(current->cta->warp_barrier[warp_index()], kWarpThreads, vote);
}
inline void sync_warp() { sync_warp_and(true); }

}  // namespace myelon

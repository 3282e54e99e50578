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
MYELON_DEVICE u32 cta_index() { return current->cta->index; }
MYELON_DEVICE u32 cta_count() { return grid->launch->grid; }
MYELON_DEVICE u8* shared_memory() { return current->cta->shared; }

MYELON_DEVICE void poll_pause() { yield(); }

MYELON_DEVICE bool sync_cta_and(bool vote) { return meet(current->cta->meeting, vote); }

MYELON_DEVICE void sync_cta() { sync_cta_and(true); }

}  // namespace myelon

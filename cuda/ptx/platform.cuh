// platform: how a function and a kernel are declared, and who the calling thread is (GPU form; cpu/platform.cuh is the other).
#pragma once
#include "abi.cuh"

#define MYELON_DEVICE __device__ __forceinline__
#define MYELON_DEVICE_COLD __device__ __noinline__
#define MYELON_UNROLL _Pragma("unroll")
// For loops over a message: a launch starts with a cold instruction cache, where every unrolled copy has to be fetched.
#define MYELON_NO_UNROLL _Pragma("unroll 1")

// Defines the entry point `myelon_kernel`, launched with at most `threads` threads a CTA and one by-value argument struct.
#define MYELON_KERNEL(threads, ArgsType, args) \
  extern "C" __global__ void __launch_bounds__(threads, 1) myelon_kernel(const __grid_constant__ ArgsType args)

namespace myelon {

// Bare polls before a wait goes cold. Each is a round trip to L2, so ranks that keep step read neither clock nor abort word.
constexpr u32 kHotPolls = 1000;
constexpr u32 kWarpThreads = 32;

MYELON_DEVICE u32 thread_index() { return threadIdx.x; }
MYELON_DEVICE u32 thread_count() { return blockDim.x; }
MYELON_DEVICE u32 warp_index() { return threadIdx.x / kWarpThreads; }
MYELON_DEVICE u32 warp_lane() { return threadIdx.x % kWarpThreads; }
MYELON_DEVICE u32 cta_index() { return blockIdx.x; }
MYELON_DEVICE u32 cta_count() { return gridDim.x; }

// The CTA's dynamic shared memory, 128-byte aligned.
MYELON_DEVICE u8* shared_memory() {
  extern __shared__ __align__(128) u8 dynamic_shared[];
  return dynamic_shared;
}

// Barrier of all threads of the CTA; orders their memory accesses among themselves.
MYELON_DEVICE void sync_cta() { __syncthreads(); }

// As sync_cta; true when `vote` is true on every thread.
MYELON_DEVICE bool sync_cta_and(bool vote) { return __syncthreads_and(vote) != 0; }

// Barrier of the threads of a warp; orders their memory accesses among themselves.
MYELON_DEVICE void sync_warp() { __syncwarp(); }

// As sync_warp; true when `vote` is true on every thread.
MYELON_DEVICE bool sync_warp_and(bool vote) {
  __syncwarp();
  return __all_sync(~0u, vote) != 0;
}

// Called between two failed polls. Does nothing here; the CPU form lets other threads run.
MYELON_DEVICE void poll_pause() {}

}  // namespace myelon

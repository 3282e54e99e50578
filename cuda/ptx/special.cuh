// special: clock, sleep, and programmatic dependent launch.
#pragma once
#include "ptx/platform.cuh"

namespace myelon {

// Nanoseconds of a clock that all multiprocessors share; ticks coarsely (about a microsecond on Hopper).
MYELON_DEVICE u64 global_timer_ns() {
  u64 now;
  asm volatile("mov.u64 %0, %%globaltimer;" : "=l"(now)::"memory");
  return now;
}

MYELON_DEVICE void nanosleep(u32 ns) { asm volatile("nanosleep.u32 %0;" ::"r"(ns) : "memory"); }

// Lets the launch after this one on the stream start, if it was made dependent: its CTAs come up and wait below.
MYELON_DEVICE void allow_next_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the launch before this one on the stream has ended and its writes are visible.
// A no-op for a launch that was not made dependent.
MYELON_DEVICE void wait_for_previous_launch() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

}  // namespace myelon

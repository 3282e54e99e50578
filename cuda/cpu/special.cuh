// special: the clock of ptx/special.cuh. There is no sleep shorter than a yield here, and no dependent launch.
#pragma once
#include "cpu/platform.cuh"

namespace myelon {

inline u64 global_timer_ns() {
  timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return static_cast<u64>(now.tv_sec) * 1000000000ull + static_cast<u64>(now.tv_nsec);
}

MYELON_DEVICE void nanosleep(u32) { yield(); }

MYELON_DEVICE void allow_next_launch() {}

MYELON_DEVICE void wait_for_previous_launch() {}

}  // namespace myelon

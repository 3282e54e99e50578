// launch: what the host passes to `myelon_kernel` of a kernel compiled for the CPU. Mirror of src/device/cpu/kernel.rs.
#pragma once
#include "abi.cuh"

namespace myelon {

struct CpuLaunch {
  const void* args;  // the argument struct, 16-byte aligned
  void* order;       // one address per device: launches of a device are ordered, and ThreadSanitizer is told so through it
  u8* stacks;        // grid x block x stack_bytes, at least
  u64 stack_bytes;   // of one fiber
  u64 delay_seed;    // zero: no injected delays
  u32 grid;
  u32 block;
  u32 shared_bytes;
  u32 ordinal;
};

}  // namespace myelon

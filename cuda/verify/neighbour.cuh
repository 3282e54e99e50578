// neighbour: a kernel that has nothing to do with an all-reduce, to see what one that waits costs whoever shares its GPU.
//
// WHAT   A fixed amount of work a thread. `compute`: chains of multiply-adds, which keep the units of an SM busy. `memory`:
//        loads of a buffer that no cache holds. Both with few registers, so that a CTA finds room beside another kernel's.
// WHO    Every thread by itself.
// COST   No barriers; one word a thread is stored, so that no work is left out.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

constexpr u32 kChains = 4;
constexpr u32 kSteps = 16;  // of each chain, a round

MYELON_DEVICE u64 global_thread() { return static_cast<u64>(cta_index()) * thread_count() + thread_index(); }

MYELON_DEVICE void compute(const NeighbourArgs& args) {
  float chain[kChains];
  MYELON_UNROLL
  for (u32 k = 0; k < kChains; ++k) chain[k] = static_cast<float>(thread_index() + k);
  MYELON_NO_UNROLL
  for (u64 round = 0; round < args.rounds; ++round) {
    MYELON_UNROLL
    for (u32 step = 0; step < kSteps; ++step) {
      MYELON_UNROLL
      for (u32 k = 0; k < kChains; ++k) chain[k] = chain[k] * 0.5f + 1.0f;
    }
  }
  float sum = 0;
  MYELON_UNROLL
  for (u32 k = 0; k < kChains; ++k) sum += chain[k];
  args.words[global_thread()] = static_cast<u64>(sum);
}

MYELON_DEVICE void memory(const NeighbourArgs& args) {
  const u64 threads = static_cast<u64>(cta_count()) * thread_count();
  u64 word = 0;
  for (u64 round = 0; round < args.rounds; ++round) {
    MYELON_NO_UNROLL
    for (u64 pack = global_thread(); pack < args.packs; pack += threads * kNeighbourLoads) {
      Bytes16 loaded[kNeighbourLoads];
      MYELON_UNROLL
      for (u32 k = 0; k < kNeighbourLoads; ++k) loaded[k] = ld_weak_16(args.data + (pack + k * threads) * kPackBytes);
      MYELON_UNROLL
      for (u32 k = 0; k < kNeighbourLoads; ++k) word ^= loaded[k].half[0] ^ loaded[k].half[1];
    }
  }
  args.words[global_thread()] = word;
}

}  // namespace myelon

// fill: writes a rank's test data of the current operation.
#pragma once
#include "verify/pattern.cuh"

namespace myelon {

template <class T, class Op>
MYELON_DEVICE void fill(const VerifyArgs& args) {
  // ORDER: [verify] epoch: stepped by a launch of its own; the kernel boundary orders it.
  const u64 operation = ld_relaxed_sys(args.operation);
  const u64 threads = static_cast<u64>(cta_count()) * thread_count();
  T* data = static_cast<T*>(args.data);
  for (u64 i = static_cast<u64>(cta_index()) * thread_count() + thread_index(); i < args.count; i += threads) {
    data[i] = Accumulation<T>::narrow(pattern_value<T, Op>(pattern_bits(args.seed, operation, args.rank, i)));
  }
}

}  // namespace myelon

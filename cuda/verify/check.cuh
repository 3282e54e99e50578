// check: counts the elements of a result that are not exactly the reduction of the test data of some ranks.
#pragma once
#include "verify/pattern.cuh"

namespace myelon {

template <class T, class Op>
MYELON_DEVICE void check(const VerifyArgs& args) {
  using A = Accumulation<T>;
  // ORDER: [verify] epoch: stepped by a launch of its own; the kernel boundary orders it.
  const u64 operation = ld_relaxed_sys(args.operation);
  const u64 threads = static_cast<u64>(cta_count()) * thread_count();
  const T* data = static_cast<const T*>(args.data);
  u64 wrong = 0;
  for (u64 i = static_cast<u64>(cta_index()) * thread_count() + thread_index(); i < args.count; i += threads) {
    const u64 place = args.first + i;
    auto expected = pattern_value<T, Op>(pattern_bits(args.seed, operation, args.rank, place));
    for (u32 other = 1; other < args.world_size; ++other) {
      // As the variants do, round trips through the element type included: what is exact stays exact.
      expected = Op::combine(expected, pattern_value<T, Op>(pattern_bits(args.seed, operation, args.rank + other, place)));
    }
    const auto rounded = A::widen(A::narrow(Op::finish(expected, args.world_size)));
    if (!(A::widen(data[i]) == rounded)) ++wrong;
  }
  // ORDER: [verify] publish: a count that many threads add to; the host reads it behind the stream.
  if (wrong != 0) atomic_add_relaxed_gpu(args.wrong, wrong);
}

// Steps the operation's number, so that a replayed graph works on new data every time. One thread.
MYELON_DEVICE void next_operation(const VerifyArgs& args) {
  // ORDER: [verify] epoch: alone in its launch.
  if (thread_index() == 0 && cta_index() == 0) *args.operation += 1;
}

}  // namespace myelon

// operator: sum, prod, min, max, avg over accumulators. `finish` is applied once, when all ranks are in.
#pragma once
#include "base/pack.cuh"
#include "reduce/dtype.cuh"

namespace myelon {

template <class A>
MYELON_DEVICE bool is_nan(A value) {
  return value != value;
}

struct sum {
  template <class A>
  static MYELON_DEVICE A combine(A a, A b) {
    using W = typename Wrapping<A>::Type;
    return static_cast<A>(static_cast<W>(a) + static_cast<W>(b));
  }
  template <class A>
  static MYELON_DEVICE A finish(A value, u32) {
    return value;
  }
};

struct prod {
  template <class A>
  static MYELON_DEVICE A combine(A a, A b) {
    using W = typename Wrapping<A>::Type;
    return static_cast<A>(static_cast<W>(a) * static_cast<W>(b));
  }
  template <class A>
  static MYELON_DEVICE A finish(A value, u32) {
    return value;
  }
};

// A NaN on either side wins, so that every order of ranks gives one.
struct min {
  template <class A>
  static MYELON_DEVICE A combine(A a, A b) {
    return is_nan(a) || a < b ? a : b;
  }
  template <class A>
  static MYELON_DEVICE A finish(A value, u32) {
    return value;
  }
};

struct max {
  template <class A>
  static MYELON_DEVICE A combine(A a, A b) {
    return is_nan(a) || a > b ? a : b;
  }
  template <class A>
  static MYELON_DEVICE A finish(A value, u32) {
    return value;
  }
};

struct avg {
  template <class A>
  static MYELON_DEVICE A combine(A a, A b) {
    return sum::combine(a, b);
  }
  template <class A>
  static MYELON_DEVICE A finish(A value, u32 world_size) {
    return static_cast<A>(value / static_cast<A>(world_size));
  }
};

// Reduces packs of T element by element. Start with `first`, `add` the others in the order that defines the result,
// `result` once. `partial` hands on an unfinished reduction, rounded to T.
template <class T, class Op>
struct PackReducer {
  using A = Accumulation<T>;
  static constexpr u32 kElements = Pack<T>::kElements;
  typename A::Type value[kElements];

  MYELON_DEVICE explicit PackReducer(Pack<T> first) {
    MYELON_UNROLL
    for (u32 k = 0; k < kElements; ++k) value[k] = A::widen(first.element[k]);
  }

  MYELON_DEVICE void add(Pack<T> pack) {
    MYELON_UNROLL
    for (u32 k = 0; k < kElements; ++k) value[k] = Op::combine(value[k], A::widen(pack.element[k]));
  }

  MYELON_DEVICE Pack<T> partial() const {
    Pack<T> pack;
    MYELON_UNROLL
    for (u32 k = 0; k < kElements; ++k) pack.element[k] = A::narrow(value[k]);
    return pack;
  }

  MYELON_DEVICE Pack<T> result(u32 world_size) const {
    Pack<T> pack;
    MYELON_UNROLL
    for (u32 k = 0; k < kElements; ++k) pack.element[k] = A::narrow(Op::finish(value[k], world_size));
    return pack;
  }
};

// The packs of all ranks reduced in rank order.
template <class T, class Op, u32 kWorldSize>
MYELON_DEVICE Pack<T> reduce_in_order(const Pack<T> (&pack)[kWorldSize]) {
  PackReducer<T, Op> reducer(pack[0]);
  MYELON_UNROLL
  for (u32 rank = 1; rank < kWorldSize; ++rank) reducer.add(pack[rank]);
  return reducer.result(kWorldSize);
}

}  // namespace myelon

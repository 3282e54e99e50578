// pattern: test data that every rank can compute for every other, and the exact result of reducing it.
//
// Values depend on seed, operation, rank and element, so stale, lost and doubled data all show. They are chosen so that every
// reduction of up to eight of them is exact in every order: small whole numbers for float sums, powers of two for float
// products, any bits for integers. Nothing on the host mirrors this: fill and check both use it, and the conformance tests
// compare with data and a model of their own (tests/support/reference.rs).
#pragma once
#include "base/pack.cuh"
#include "reduce/operator.cuh"

namespace myelon {

// SplitMix64's finaliser over the four coordinates.
MYELON_DEVICE u64 pattern_bits(u64 seed, u64 operation, u32 rank, u64 element) {
  u64 z = seed + operation * 0x9e3779b97f4a7c15ull + (static_cast<u64>(rank) + 1) * 0xd1b54a32d192ed03ull +
          element * 0x8cb92ba72f3d8dd7ull;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9ull;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebull;
  return z ^ (z >> 31);
}

// Largest magnitude of a float summand: eight of them add up exactly within the type's significand.
template <class T>
struct Summands {
  static constexpr u32 kLargest = 1;  // the 8-bit floats
};
template <>
struct Summands<f32> {
  static constexpr u32 kLargest = 65535;
};
template <>
struct Summands<f64> {
  static constexpr u32 kLargest = 65535;
};
template <>
struct Summands<f16> {
  static constexpr u32 kLargest = 255;
};
template <>
struct Summands<bf16> {
  static constexpr u32 kLargest = 31;
};

template <class T>
struct IsInteger {
  static constexpr bool kValue = false;
};
template <> struct IsInteger<i8> { static constexpr bool kValue = true; };
template <> struct IsInteger<u8> { static constexpr bool kValue = true; };
template <> struct IsInteger<i32> { static constexpr bool kValue = true; };
template <> struct IsInteger<u32> { static constexpr bool kValue = true; };
template <> struct IsInteger<i64> { static constexpr bool kValue = true; };
template <> struct IsInteger<u64> { static constexpr bool kValue = true; };

template <class Op>
struct IsProduct {
  static constexpr bool kValue = false;
};
template <> struct IsProduct<prod> { static constexpr bool kValue = true; };

// Element of a rank's input, as an accumulator.
template <class T, class Op>
MYELON_DEVICE typename Accumulation<T>::Type pattern_value(u64 bits) {
  using A = typename Accumulation<T>::Type;
  if (IsInteger<T>::kValue) return static_cast<A>(bits);
  if (IsProduct<Op>::kValue) return (bits & 2 ? A(-1) : A(1)) * (bits & 1 ? A(2) : A(1));
  const u32 span = 2 * Summands<T>::kLargest + 1;
  return A(static_cast<i32>(static_cast<u32>(bits >> 32) % span) - static_cast<i32>(Summands<T>::kLargest));
}

}  // namespace myelon

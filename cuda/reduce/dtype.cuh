// dtype: element types under the names the host uses, and the type each is accumulated in.
#pragma once
#include "ptx/ptx.cuh"

namespace myelon {

using f32 = float;
using f64 = double;
struct f16 {
  u16 bits;
};
struct bf16 {
  u16 bits;
};
struct e4m3 {
  u8 bits;
};
struct e5m2 {
  u8 bits;
};

// How a type is accumulated: `widen` on the way in, `narrow` once on the way out.
// Integers and wide floats accumulate as themselves; 16- and 8-bit floats in f32.
template <class T>
struct Accumulation {
  using Type = T;
  static MYELON_DEVICE T widen(T value) { return value; }
  static MYELON_DEVICE T narrow(T value) { return value; }
};

// Signed integers wrap, so they are added and multiplied as unsigned (signed overflow is undefined in C++).
template <class T>
struct Wrapping {
  using Type = T;
};
template <>
struct Wrapping<i8> {
  using Type = u8;
};
template <>
struct Wrapping<i32> {
  using Type = u32;
};
template <>
struct Wrapping<i64> {
  using Type = u64;
};

#define MYELON_NARROW_FLOAT(T)                                                        \
  template <>                                                                         \
  struct Accumulation<T> {                                                            \
    using Type = f32;                                                                 \
    static MYELON_DEVICE f32 widen(T value) { return f32_from_##T(value.bits); }      \
    static MYELON_DEVICE T narrow(f32 value) { return T{T##_from_f32(value)}; }       \
  };

MYELON_NARROW_FLOAT(f16)
MYELON_NARROW_FLOAT(bf16)
// The 8-bit floats exist where the conversions do: sm_89 and newer, and the CPU.
#if defined(MYELON_CPU) || __CUDA_ARCH__ >= 890
MYELON_NARROW_FLOAT(e4m3)
MYELON_NARROW_FLOAT(e5m2)
#endif

#undef MYELON_NARROW_FLOAT

}  // namespace myelon

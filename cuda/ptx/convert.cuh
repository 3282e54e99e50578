// convert: narrow floats to and from f32, round to nearest even. Narrow floats are passed as their bits.
#pragma once
#include "ptx/platform.cuh"

namespace myelon {

MYELON_DEVICE float f32_from_f16(u16 bits) {
  float value;
  asm("cvt.f32.f16 %0, %1;" : "=f"(value) : "h"(bits));
  return value;
}

MYELON_DEVICE u16 f16_from_f32(float value) {
  u16 bits;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

MYELON_DEVICE float f32_from_bf16(u16 bits) { return __uint_as_float(static_cast<u32>(bits) << 16); }

MYELON_DEVICE u16 bf16_from_f32(float value) {
  u16 bits;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(value));
  return bits;
}

// The 8-bit conversions work on pairs; the upper element is zero here. They saturate to the largest finite value.
#if __CUDA_ARCH__ >= 890
MYELON_DEVICE float f32_from_f16x2_low(u32 pair) { return f32_from_f16(static_cast<u16>(pair)); }

MYELON_DEVICE float f32_from_e4m3(u8 bits) {
  u32 pair;
  asm("cvt.rn.f16x2.e4m3x2 %0, %1;" : "=r"(pair) : "h"(static_cast<u16>(bits)));
  return f32_from_f16x2_low(pair);
}

MYELON_DEVICE u8 e4m3_from_f32(float value) {
  u16 pair;
  asm("cvt.rn.satfinite.e4m3x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
  return static_cast<u8>(pair);
}

MYELON_DEVICE float f32_from_e5m2(u8 bits) {
  u32 pair;
  asm("cvt.rn.f16x2.e5m2x2 %0, %1;" : "=r"(pair) : "h"(static_cast<u16>(bits)));
  return f32_from_f16x2_low(pair);
}

MYELON_DEVICE u8 e5m2_from_f32(float value) {
  u16 pair;
  asm("cvt.rn.satfinite.e5m2x2.f32 %0, %1, %2;" : "=h"(pair) : "f"(0.0f), "f"(value));
  return static_cast<u8>(pair);
}
#endif

}  // namespace myelon

// convert: the conversions of ptx/convert.cuh in integer arithmetic, bit for bit.
#pragma once
#include "cpu/platform.cuh"

namespace myelon {

inline u32 bits_of(float value) {
  u32 bits;
  memcpy(&bits, &value, 4);
  return bits;
}

inline float float_of(u32 bits) {
  float value;
  memcpy(&value, &bits, 4);
  return value;
}

// A float of 1 sign bit, `kExponent` exponent bits and `kMantissa` mantissa bits, widened exactly.
// `kFinite`: no infinity, and only the all-ones pattern is a NaN (e4m3).
template <u32 kExponent, u32 kMantissa, bool kFinite>
inline float widen(u32 bits) {
  const u32 sign = (bits >> (kExponent + kMantissa)) << 31;
  const u32 exponent = (bits >> kMantissa) & ((1u << kExponent) - 1);
  const u32 mantissa = bits & ((1u << kMantissa) - 1);
  constexpr u32 kTop = (1u << kExponent) - 1;
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  if (exponent == kTop && (!kFinite || mantissa == (1u << kMantissa) - 1)) {
    return float_of(sign | 0x7f800000u | (mantissa << (23 - kMantissa)));
  }
  if (exponent == 0) {
    const float magnitude = __builtin_ldexpf(static_cast<float>(mantissa), 1 - kBias - static_cast<int>(kMantissa));
    return sign ? -magnitude : magnitude;
  }
  return float_of(sign | ((exponent - kBias + 127) << 23) | (mantissa << (23 - kMantissa)));
}

// The inverse, rounded to nearest even. `kSaturate`: what overflows becomes the largest finite value.
template <u32 kExponent, u32 kMantissa, bool kFinite, bool kSaturate>
inline u32 narrow(float value) {
  constexpr u32 kTop = (1u << kExponent) - 1;
  constexpr int kBias = (1 << (kExponent - 1)) - 1;
  constexpr u32 kInfinity = kTop << kMantissa;
  constexpr u32 kLargest = kFinite ? kInfinity + (1u << kMantissa) - 2 : kInfinity - 1;
  constexpr u32 kNan = kFinite || kSaturate || kMantissa == 10 ? (kInfinity | ((1u << kMantissa) - 1)) : kInfinity | 1;
  const u32 bits = bits_of(value);
  const u32 sign = (bits >> 31) << (kExponent + kMantissa);
  const u32 magnitude = bits & 0x7fffffffu;
  if (magnitude > 0x7f800000u) return kNan;
  if (magnitude == 0x7f800000u) return sign | (kSaturate || kFinite ? kLargest : kInfinity);
  const int exponent = static_cast<int>(magnitude >> 23) - 127;
  // Bits below the result's last place; a subnormal result loses more of them.
  const int lowest = 1 - kBias;
  int shift = 23 - static_cast<int>(kMantissa) + (exponent < lowest ? lowest - exponent : 0);
  if (shift > 25) return sign;
  const u32 significand = (magnitude & 0x7fffffu) | (magnitude >> 23 ? 0x800000u : 0);
  u32 rounded = significand >> shift;
  const u32 rest = significand & ((1u << shift) - 1);
  const u32 half = 1u << (shift - 1);
  if (rest > half || (rest == half && (rounded & 1))) ++rounded;
  // A carry out of the mantissa walks into the exponent, which is what it should do.
  const u32 result = exponent < lowest ? rounded : rounded + (static_cast<u32>(exponent + kBias - 1) << kMantissa);
  if (result > kLargest) return sign | (kSaturate || kFinite ? kLargest : kInfinity);
  return sign | result;
}

inline float f32_from_f16(u16 bits) { return widen<5, 10, false>(bits); }
inline u16 f16_from_f32(float value) { return static_cast<u16>(narrow<5, 10, false, false>(value)); }
inline float f32_from_bf16(u16 bits) { return float_of(static_cast<u32>(bits) << 16); }
inline u16 bf16_from_f32(float value) {
  const u32 bits = bits_of(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
  return static_cast<u16>((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}
inline float f32_from_e4m3(u8 bits) { return widen<4, 3, true>(bits); }
inline u8 e4m3_from_f32(float value) { return static_cast<u8>(narrow<4, 3, true, true>(value)); }
inline float f32_from_e5m2(u8 bits) { return widen<5, 2, false>(bits); }
inline u8 e5m2_from_f32(float value) { return static_cast<u8>(narrow<5, 2, false, true>(value)); }

}  // namespace myelon

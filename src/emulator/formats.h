// Element formats as the conversion instructions of sm_90 treat them (PTX ISA 9.7.9.21, cvt): nearest even, NaN becomes the canonical one.
#pragma once

#include <cmath>

#include "plan/types.h"

namespace hopfill::emulator {

inline float from_bits(u32 v) { return __builtin_bit_cast(float, v); }
inline u32 to_bits(float v) { return __builtin_bit_cast(u32, v); }

constexpr u32 kArithmeticNan = 0x7fffffffu;  // what arithmetic instructions make of any NaN

inline u16 to_bf16(float v) {
    const u32 b = to_bits(v);
    if ((b & 0x7fffffffu) > 0x7f800000u) return 0x7fff;
    return static_cast<u16>((b + 0x7fffu + (b >> 16 & 1)) >> 16);
}
inline float from_bf16(u16 v) { return from_bits(u32{v} << 16); }

inline u16 to_f16(float v) {
    const u32 sign = to_bits(v) >> 16 & 0x8000u;
    const float a = std::fabs(v);
    if (!(a <= 3.4028235e38f)) return static_cast<u16>(std::isnan(v) ? 0x7fffu : sign | 0x7c00u);
    if (a >= 65520.0f) return static_cast<u16>(sign | 0x7c00u);
    // Below 2^-14 the step is 2^-24: adding 1.5 * 2^(23-24) rounds there; else the mantissa is rounded in place.
    if (a < 6.103515625e-5f) return static_cast<u16>(sign | (to_bits(a + 0.5f) - to_bits(0.5f)));
    const u32 b = to_bits(a);
    return static_cast<u16>(sign | ((b + 0xfffu + (b >> 13 & 1)) - (112u << 23)) >> 13);
}
inline float from_f16(u16 v) {
    const u32 magnitude = u32{v & 0x7fffu} << 13;
    float f = from_bits(magnitude) * 0x1p112f;
    if ((v & 0x7c00u) == 0x7c00u) f = from_bits(magnitude | 0x7f800000u);
    return (v & 0x8000u) != 0 ? -f : f;
}

// Saturating: 448 is the largest, there is no infinity.
inline u8 to_e4m3(float v) {
    const u32 sign = to_bits(v) >> 24 & 0x80u;
    const float a = std::fabs(v);
    if (std::isnan(v)) return 0x7f;
    if (a >= 448.0f) return static_cast<u8>(sign | 0x7e);
    if (a < 0.015625f) return static_cast<u8>(sign | static_cast<u32>(std::nearbyint(a * 512.0f)));
    const u32 b = to_bits(a);
    return static_cast<u8>(sign | ((b + 0x7ffffu + (b >> 20 & 1)) - (120u << 23)) >> 20);
}
inline float from_e4m3(u8 v) {
    const u32 magnitude = v & 0x7fu;
    float f = magnitude == 0x7f ? from_bits(0x7fc00000u) : from_bits(magnitude << 20) * 0x1p120f;
    return (v & 0x80u) != 0 ? -f : f;
}

}  // namespace hopfill::emulator

// Element conversions without branches, so that the compiler turns loops over them into the vector code of each target.
#pragma once

#include <bit>
#include <cstdint>

namespace hopfill::cpu {

inline float from_bf16(std::uint16_t x) { return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16); }

// Exponent and mantissa moved to float's places are the number times 2^-112, subnormals included; infinities and NaNs then need float's exponent.
inline float from_f16(std::uint16_t x) {
    const std::uint32_t magnitude = static_cast<std::uint32_t>(x & 0x7fff) << 13;
    const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) * 0x1p112f);
    const std::uint32_t special = magnitude | 0x7f800000u;
    const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x8000) << 16;
    return std::bit_cast<float>((magnitude >= 0x0f800000u ? special : finite) | sign);
}

// As from_f16, with a factor of 2^120; e4m3 has no infinity and one NaN a sign.
inline float from_e4m3(std::uint8_t x) {
    const std::uint32_t magnitude = x & 0x7fu;
    const std::uint32_t finite = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude << 20) * 0x1p120f);
    const std::uint32_t sign = static_cast<std::uint32_t>(x & 0x80u) << 24;
    return std::bit_cast<float>((magnitude == 0x7f ? 0x7fc00000u : finite) | sign);
}

// To nearest, ties to even; NaN stays NaN.
inline std::uint16_t to_bf16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const bool nan = (bits & 0x7fffffffu) > 0x7f800000u;
    const std::uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return static_cast<std::uint16_t>(nan ? bits >> 16 | 0x40 : rounded);
}

inline std::uint16_t to_f16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = bits >> 16 & 0x8000, magnitude = bits & 0x7fffffffu;
    // Below 2^-14 the sum with 0.5 drops what does not fit: 2^-24 is the last place of 0.5.
    const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0.5f) - 0x3f000000u;
    const std::uint32_t normal = (magnitude - (112u << 23) + 0xfff + (magnitude >> 13 & 1)) >> 13;
    std::uint32_t result = magnitude < 0x38800000u ? small : normal;
    if (magnitude >= 0x477ff000u) result = 0x7c00;  // 65520 and above
    if (magnitude > 0x7f800000u) result = 0x7e00;
    return static_cast<std::uint16_t>(result | sign);
}

// Saturates at 448, infinities too; NaN has no sign.
inline std::uint8_t to_e4m3(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    const std::uint32_t sign = bits >> 24 & 0x80, magnitude = bits & 0x7fffffffu;
    // Below 2^-6 the sum with 2^14 drops what does not fit: 2^-9 is the last place of 2^14.
    const std::uint32_t small = std::bit_cast<std::uint32_t>(std::bit_cast<float>(magnitude) + 0x1p14f) - 0x46800000u;
    const std::uint32_t normal = (magnitude - (120u << 23) + 0x7ffff + (magnitude >> 20 & 1)) >> 20;
    std::uint32_t result = magnitude < 0x3c800000u ? small : normal;
    if (magnitude >= 0x43e00000u) result = 0x7e;
    return static_cast<std::uint8_t>(magnitude > 0x7f800000u ? 0x7f : result | sign);
}

}  // namespace hopfill::cpu

// Element formats, read and written bit by bit: the oracle's own, so that a fault in a backend's conversions cannot hide here.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "hopfill/tensor.h"

namespace hopfill::oracle {

// A binary format with an implicit leading bit, subnormals and, unless `finite_only`, infinities (IEEE 754-2019, 3.4). e4m3 (OCP OFP8, table 1)
// has no infinity and one NaN pattern per sign, all ones, so its top binade holds numbers up to 448.
struct Format {
    int exponent_bits;
    int mantissa_bits;
    bool finite_only;

    constexpr int bias() const { return (1 << (exponent_bits - 1)) - 1; }
    constexpr std::uint32_t exponent_mask() const { return (1u << exponent_bits) - 1; }
    constexpr std::uint32_t mantissa_mask() const { return (1u << mantissa_bits) - 1; }
};

constexpr Format format_of(DType t) {
    return t == DType::f16    ? Format{5, 10, false}
           : t == DType::bf16 ? Format{8, 7, false}
           : t == DType::e4m3 ? Format{4, 3, true}
                              : Format{8, 23, false};
}

// Exact.
inline double decode(const Format& f, std::uint32_t bits) {
    const std::uint32_t mantissa = bits & f.mantissa_mask();
    const std::uint32_t exponent = bits >> f.mantissa_bits & f.exponent_mask();
    const bool negative = (bits >> (f.exponent_bits + f.mantissa_bits) & 1) != 0;
    double x = 0;
    if (exponent == f.exponent_mask() && (!f.finite_only || mantissa == f.mantissa_mask())) {
        x = mantissa == 0 ? std::numeric_limits<double>::infinity() : std::numeric_limits<double>::quiet_NaN();
    } else if (exponent == 0) {
        x = std::ldexp(mantissa, 1 - f.bias() - f.mantissa_bits);
    } else {
        x = std::ldexp(mantissa + (1u << f.mantissa_bits), static_cast<int>(exponent) - f.bias() - f.mantissa_bits);
    }
    return negative ? -x : x;
}

// Rounds to nearest, ties to even, once. Above the largest number: infinity, or for e4m3 the NaN.
inline std::uint32_t encode(const Format& f, double x) {
    const std::uint32_t sign = std::signbit(x) ? 1u << (f.exponent_bits + f.mantissa_bits) : 0;
    const std::uint32_t infinity = f.exponent_mask() << f.mantissa_bits;
    const std::uint32_t nan = infinity | (f.finite_only ? f.mantissa_mask() : 1u << (f.mantissa_bits - 1));
    const std::uint32_t overflow = f.finite_only ? nan : infinity;
    if (std::isnan(x)) return sign | nan;
    if (std::isinf(x)) return sign | overflow;
    if (x == 0) return sign;
    int e = 0;
    std::frexp(x, &e);  // |x| in [2^(e-1), 2^e)
    const int lowest = 1 - f.bias();
    const int binade = e - 1 < lowest ? lowest : e - 1;
    // In units of the binade's last place; a carry into the next binade falls out of the addition below.
    const auto units = static_cast<std::uint64_t>(std::nearbyint(std::ldexp(std::fabs(x), f.mantissa_bits - binade)));
    const auto bits = (static_cast<std::uint64_t>(binade - lowest) << f.mantissa_bits) + units;
    const std::uint64_t limit = f.finite_only ? nan : infinity;
    return sign | (bits >= limit ? overflow : static_cast<std::uint32_t>(bits));
}

// The number that a tensor of the format keeps of x: e4m3 saturates, infinity included, and has one NaN, as in the conversions of sm_90 (PTX ISA,
// cvt.satfinite).
inline std::uint32_t encode_saturated(const Format& f, double x) {
    constexpr double largest = 448;
    if (f.finite_only && std::isnan(x)) return encode(f, std::fabs(x));
    return encode(f, f.finite_only && std::fabs(x) > largest ? std::copysign(largest, x) : x);
}

// An element of a tensor of dtype f32, f16, bf16 or e4m3, `index` elements from `data`.
inline double load(DType t, const void* data, std::int64_t index) {
    const auto* p = static_cast<const unsigned char*>(data) + index * size_of(t);
    std::uint32_t bits = 0;
    std::memcpy(&bits, p, static_cast<std::size_t>(size_of(t)));
    return decode(format_of(t), bits);
}

inline void store(DType t, void* data, std::int64_t index, double x) {
    const std::uint32_t bits = encode_saturated(format_of(t), x);
    std::memcpy(static_cast<unsigned char*>(data) + index * size_of(t), &bits, static_cast<std::size_t>(size_of(t)));
}

}  // namespace hopfill::oracle

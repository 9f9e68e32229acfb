#include "emulator/matmul.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "emulator/formats.h"

namespace hopfill::emulator {

#if defined(__x86_64__) && defined(__GNUC__) && !defined(__clang__)
#define HOPFILL_WIDE __attribute__((target_clones("avx2", "default")))
#else
#define HOPFILL_WIDE
#endif

HOPFILL_WIDE void multiply(float* __restrict d, const float* __restrict a, const float* __restrict b, int n, int k) {
    for (int m = 0; m < 64; ++m) {
        float* __restrict row = d + m * n;
        // Four terms a pass keep the accumulators in registers longer; the order of the sums stays.
        for (int i = 0; i < k; i += 4) {
            const float a0 = a[m * k + i], a1 = a[m * k + i + 1], a2 = a[m * k + i + 2], a3 = a[m * k + i + 3];
            const float* __restrict b0 = b + i * n;
            for (int j = 0; j < n; ++j) {
                float v = row[j];
                v += a0 * b0[j];
                v += a1 * b0[n + j];
                v += a2 * b0[2 * n + j];
                v += a3 * b0[3 * n + j];
                row[j] = v;
            }
        }
    }
}

namespace {

constexpr i32 kNone = -4096;  // the exponent of zero: below all others, also when added to one

struct Format {
    i32 fraction;  // bits of an element's
    i32 least;     // exponent of a normal element
    i32 kept;      // fraction bits of an aligned term
};

constexpr Format format_of(Elem e) { return e == Elem::bf16 ? Format{7, -126, 25} : e == Elem::f16 ? Format{10, -14, 25} : Format{3, -6, 13}; }

// 2^e of a normal double.
double power_of_two(i32 e) { return __builtin_bit_cast(double, static_cast<u64>(e + 1023) << 52); }

i32 exponent_of(float v, i32 least) {
    const i32 own = static_cast<i32>(to_bits(v) >> 23 & 0xff) - 127;
    return v == 0 ? kNone : own < least ? least : own;
}

// sum * 2^exponent, cut to FP32 and, for e4m3, to its fraction.
float cut(double v, Elem elem) {
    if (std::fabs(v) < 0x1p-126) v = std::trunc(v * 0x1p149) * 0x1p-149;
    const float f = static_cast<float>(__builtin_bit_cast(double, __builtin_bit_cast(u64, v) & ~u64{0x1fffffff}));
    return elem == Elem::e4m3 ? from_bits(to_bits(f) & ~0x3ffu) : f;
}

// One element of the result, whatever the operands are; b's are n apart.
float element(float d, const float* a, const float* b, int n, int k, Elem elem) {
    const Format f = format_of(elem);
    bool finite = std::isfinite(d);
    i32 top = exponent_of(d, -126);
    for (int i = 0; i < k; ++i) {
        finite = finite && std::isfinite(a[i]) && std::isfinite(b[i * n]);
        top = std::max(top, exponent_of(a[i], f.least) + exponent_of(b[i * n], f.least));
    }
    if (!finite) {
        // Infinities are those of operands: finite products do not overflow before the end.
        double sum = d;
        for (int i = 0; i < k; ++i) sum += static_cast<double>(a[i]) * b[i * n];
        return std::isnan(sum) ? from_bits(kArithmeticNan) : static_cast<float>(sum);
    }
    if (top < -1000) return 0;
    const double up = power_of_two(f.kept - top);
    double sum = std::trunc(d * up);
    for (int i = 0; i < k; ++i) sum += std::trunc(static_cast<double>(a[i]) * b[i * n] * up);
    return cut(sum * power_of_two(top - f.kept), elem);
}

// Exponents for which FP32 holds every product, and its lowest bit that counts.
constexpr i32 kLowest = -90, kHighest = 100;

// A row d of n sums, all exponents below kHighest; top, up, low and high are room for n. The terms, in units of 2^(top[j] - kept), are added in two
// halves that each fit. Where top[j] is kLowest on return, d[j] is to be had another way.
HOPFILL_WIDE void add_row(float* __restrict d, const float* __restrict a, const i32* __restrict ea, const float* __restrict b,
                          const i32* __restrict eb, i32* __restrict top, float* __restrict up, i32* __restrict low, i32* __restrict high, int n,
                          int k, i32 kept, u32 mask) {
    for (int j = 0; j < n; ++j) {
        const i32 own = static_cast<i32>(__builtin_bit_cast(u32, d[j]) >> 23 & 0xff) - 127;
        top[j] = own > kLowest ? own : kLowest;
    }
    for (int i = 0; i < k; ++i) {
        const i32 e = ea[i];
        for (int j = 0; j < n; ++j) {
            const i32 p = e + eb[i * n + j];
            top[j] = top[j] > p ? top[j] : p;
        }
    }
    for (int j = 0; j < n; ++j) {
        up[j] = __builtin_bit_cast(float, static_cast<u32>(kept - top[j] + 127) << 23);
        low[j] = static_cast<i32>(d[j] * up[j]);
        high[j] = 0;
    }
    // Four terms a pass, as above.
    for (int i = 0; i < k; i += 4) {
        const float a0 = a[i], a1 = a[i + 1], a2 = a[i + 2], a3 = a[i + 3];
        const float* __restrict b0 = b + i * n;
        i32* __restrict sum = i < k / 2 ? low : high;
        for (int j = 0; j < n; ++j)
            sum[j] += static_cast<i32>(a0 * b0[j] * up[j]) + static_cast<i32>(a1 * b0[n + j] * up[j]) + static_cast<i32>(a2 * b0[2 * n + j] * up[j]) +
                      static_cast<i32>(a3 * b0[3 * n + j] * up[j]);
    }
    for (int j = 0; j < n; ++j) {
        const double down = __builtin_bit_cast(double, static_cast<u64>(static_cast<i64>(top[j]) - kept + 1023) << 52);
        const double v = (static_cast<double>(low[j]) + static_cast<double>(high[j])) * down;
        const float f = static_cast<float>(__builtin_bit_cast(double, __builtin_bit_cast(u64, v) & ~u64{0x1fffffff}));
        const float result = __builtin_bit_cast(float, __builtin_bit_cast(u32, f) & mask);
        d[j] = top[j] > kLowest ? result : d[j];
    }
}

}  // namespace

void multiply_exactly(float* d, const float* a, const float* b, int n, int k, Elem elem) {
    const Format f = format_of(elem);
    const std::size_t columns = static_cast<std::size_t>(n), terms = static_cast<std::size_t>(k);
    std::vector<i32> eb(terms * columns), ea(terms), top(columns), low(columns), high(columns);
    std::vector<float> up(columns);
    // A row that meets what is not finite, or too large, goes element by element.
    i32 highest_b = kNone;
    for (std::size_t i = 0; i < eb.size(); ++i) highest_b = std::max(highest_b, eb[i] = exponent_of(b[i], f.least));
    const u32 mask = elem == Elem::e4m3 ? ~0x3ffu : ~0u;
    for (int m = 0; m < 64; ++m) {
        float* row = d + m * n;
        const float* from = a + m * k;
        i32 highest = kNone;
        for (std::size_t i = 0; i < terms; ++i) highest = std::max(highest, ea[i] = exponent_of(from[i], f.least));
        bool wide = highest < 128 && highest_b < 128;  // all finite
        highest += highest_b;
        for (int j = 0; j < n; ++j) highest = std::max(highest, static_cast<i32>(to_bits(row[j]) >> 23 & 0xff) - 127);
        wide = wide && highest < kHighest;
        if (wide) add_row(row, from, ea.data(), b, eb.data(), top.data(), up.data(), low.data(), high.data(), n, k, f.kept, mask);
        for (int j = 0; j < n; ++j)
            if (!wide || top[static_cast<std::size_t>(j)] == kLowest) row[j] = element(row[j], from, b + j, n, k, elem);
    }
}

}  // namespace hopfill::emulator

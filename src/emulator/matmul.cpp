#include "emulator/matmul.h"

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

HOPFILL_WIDE void reduced_row(float* __restrict row, const float* __restrict a, const float* __restrict b, u32* __restrict top, i32* __restrict sum,
                              int n, int k) {
    constexpr u32 kMagnitude = 0x7fffffffu;
    for (int j = 0; j < n; ++j) top[j] = __builtin_bit_cast(u32, row[j]) & kMagnitude;
    for (int i = 0; i < k; ++i) {
        for (int j = 0; j < n; ++j) {
            const i32 p = static_cast<i32>(__builtin_bit_cast(u32, a[i] * b[i * n + j]) & kMagnitude);
            top[j] = static_cast<u32>(static_cast<i32>(top[j]) > p ? static_cast<i32>(top[j]) : p);
        }
    }
    // top[j] becomes 2^(13 - exponent), bounded so that neither it nor its inverse leaves the range.
    for (int j = 0; j < n; ++j) {
        const i32 exponent = static_cast<i32>(top[j] >> 23);
        const i32 bounded = exponent < 16 ? 16 : exponent > 250 ? 250 : exponent;
        top[j] = static_cast<u32>(254 + 13 - bounded) << 23;
        sum[j] = static_cast<i32>(row[j] * __builtin_bit_cast(float, top[j]));
    }
    for (int i = 0; i < k; ++i) {
        for (int j = 0; j < n; ++j) sum[j] += static_cast<i32>(a[i] * b[i * n + j] * __builtin_bit_cast(float, top[j]));
    }
}

}  // namespace

void multiply_reduced(float* d, const float* a, const float* b, int n, int k) {
    std::vector<u32> top(static_cast<std::size_t>(n));
    std::vector<i32> sum(static_cast<std::size_t>(n));
    std::vector<bool> finite_column(static_cast<std::size_t>(n), true);
    for (int i = 0; i < k; ++i)
        for (int j = 0; j < n; ++j)
            if (!std::isfinite(b[i * n + j])) finite_column[static_cast<std::size_t>(j)] = false;
    for (int m = 0; m < 64; ++m) {
        float* row = d + m * n;
        bool finite = true;
        for (int i = 0; i < k; ++i) finite = finite && std::isfinite(a[m * k + i]);
        reduced_row(row, a + m * k, b, top.data(), sum.data(), n, k);
        for (int j = 0; j < n; ++j) {
            if (!finite || !std::isfinite(row[j]) || !finite_column[static_cast<std::size_t>(j)]) {
                for (int i = 0; i < k; ++i) row[j] += a[m * k + i] * b[i * n + j];
                continue;
            }
            // 13 fraction bits of the sum; its value is sum * 2^(exponent - 13).
            const float inverse = from_bits((254u << 23) - top[static_cast<std::size_t>(j)]);
            const float exact = static_cast<float>(sum[static_cast<std::size_t>(j)]);
            row[j] = from_bits(to_bits(exact) & ~0x3ffu) * inverse;
        }
    }
}

}  // namespace hopfill::emulator

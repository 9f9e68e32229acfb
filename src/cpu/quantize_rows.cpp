// The loops of the quantiser over a head's channels, compiled once for each SIMD target by Highway.
#include <algorithm>
#include <cmath>

#include "cpu/convert.h"
#include "cpu/quantize.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/quantize_rows.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace hopfill::cpu::HWY_NAMESPACE {

constexpr std::int64_t kMaxHeadDim = 256, kTile = 64;  // tokens that a transposition gathers: a cache line of a channel

HWY_ATTR void load_channels(const QuantizeRows& r, std::int64_t token, float* HWY_RESTRICT to) {
    const auto* p = static_cast<const std::uint16_t*>(r.in) + token * r.in_seq;
    if (r.dtype == DType::bf16) {
        for (std::int64_t c = 0; c < r.head_dim; ++c) to[c] = from_bf16(p[c]);
    } else {
        for (std::int64_t c = 0; c < r.head_dim; ++c) to[c] = from_f16(p[c]);
    }
    if (r.mean == nullptr) return;
    for (std::int64_t c = 0; c < r.head_dim; ++c) to[c] -= r.mean[c];
}

HWY_ATTR void add(const QuantizeRows& r, std::int64_t first, std::int64_t n, float* HWY_RESTRICT sum) {
    alignas(64) float x[kMaxHeadDim];
    for (std::int64_t j = first; j < first + n; ++j) {
        load_channels(r, j, x);
        for (std::int64_t c = 0; c < r.head_dim; ++c) sum[c] += x[c];
    }
}

HWY_ATTR void greatest(const QuantizeRows& r, std::int64_t first, std::int64_t n, float* HWY_RESTRICT most) {
    alignas(64) float x[kMaxHeadDim];
    for (std::int64_t j = first; j < first + n; ++j) {
        load_channels(r, j, x);
        for (std::int64_t c = 0; c < r.head_dim; ++c) {
            const float size = std::fabs(x[c]);
            const float finite = size <= 3.4028235e38f ? size : 0;  // a NaN fails the comparison too
            most[c] = most[c] > finite ? most[c] : finite;
        }
    }
}

HWY_ATTR void round(const QuantizeRows& r, std::int64_t first, std::int64_t n, const float* HWY_RESTRICT inverse) {
    alignas(64) float x[kMaxHeadDim];
    alignas(64) std::uint8_t tile[kTile][kMaxHeadDim];
    for (std::int64_t j0 = first; j0 < first + n; j0 += kTile) {
        const std::int64_t rows = std::min(kTile, first + n - j0);
        for (std::int64_t j = 0; j < rows; ++j) {
            load_channels(r, j0 + j, x);
            std::uint8_t* HWY_RESTRICT to = r.transposed ? tile[j] : r.out + (j0 + j) * r.out_seq;
            for (std::int64_t c = 0; c < r.head_dim; ++c) to[c] = to_e4m3(x[c] * inverse[c]);
        }
        if (!r.transposed) continue;
        for (std::int64_t c = 0; c < r.head_dim; ++c) {
            std::uint8_t* HWY_RESTRICT to = r.out + c * r.out_seq + j0;
            for (std::int64_t j = 0; j < rows; ++j) to[j] = tile[j][c];
        }
    }
}

}  // namespace hopfill::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hopfill::cpu {

HWY_EXPORT(add);
HWY_EXPORT(greatest);
HWY_EXPORT(round);

void add_rows(const QuantizeRows& rows, std::int64_t first, std::int64_t n, float* sum) { HWY_DYNAMIC_DISPATCH(add)(rows, first, n, sum); }
void greatest_magnitudes(const QuantizeRows& rows, std::int64_t first, std::int64_t n, float* most) {
    HWY_DYNAMIC_DISPATCH(greatest)(rows, first, n, most);
}
void round_rows(const QuantizeRows& rows, std::int64_t first, std::int64_t n, const float* inverse) {
    HWY_DYNAMIC_DISPATCH(round)(rows, first, n, inverse);
}

}  // namespace hopfill::cpu
#endif

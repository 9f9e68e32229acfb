// Blocked online softmax (Milakov and Gimelshein 2018; Dao et al. 2022, algorithm 1) in float32, compiled once for each SIMD target by Highway.
#include "cpu/job.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "cpu/convert.h"

// Arrays of vectors, which the register blocks are, need targets whose vectors have a size at compile time.
#define HWY_DISABLED_TARGETS (HWY_SVE | HWY_SVE2 | HWY_SVE_256 | HWY_SVE2_128 | HWY_RVV)
#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/attend.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>
// After highway.h.
#include <hwy/contrib/math/math-inl.h>

HWY_BEFORE_NAMESPACE();
namespace hopfill::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<float>;
using V = hn::Vec<D>;
constexpr D kD;
constexpr std::int64_t kLanes = static_cast<std::int64_t>(hn::MaxLanes(kD));
constexpr std::int64_t kPanel = 2 * kLanes;  // columns of a packed panel
// Rows of a register block: with 32 vector registers 12 x 2 sums, with 16 registers 6 x 2, and room for the operands.
constexpr int kStrip = HWY_TARGET <= HWY_AVX3 || HWY_ARCH_ARM_A64 ? 12 : 6;
constexpr float kNone = -std::numeric_limits<float>::infinity();

constexpr std::int64_t panels(std::int64_t columns) { return (columns + kPanel - 1) / kPanel; }

HWY_ATTR void load_row(DType t, const void* from, std::int64_t at, std::int64_t n, float* HWY_RESTRICT to) {
    if (t == DType::f32) {
        const float* p = static_cast<const float*>(from) + at;
        for (std::int64_t i = 0; i < n; ++i) to[i] = p[i];
    } else if (t == DType::bf16) {
        const auto* p = static_cast<const std::uint16_t*>(from) + at;
        for (std::int64_t i = 0; i < n; ++i) to[i] = from_bf16(p[i]);
    } else if (t == DType::e4m3) {
        const auto* p = static_cast<const std::uint8_t*>(from) + at;
        for (std::int64_t i = 0; i < n; ++i) to[i] = from_e4m3(p[i]);
    } else {
        const auto* p = static_cast<const std::uint16_t*>(from) + at;
        for (std::int64_t i = 0; i < n; ++i) to[i] = from_f16(p[i]);
    }
}

HWY_ATTR void store_row(DType t, void* to, std::int64_t at, std::int64_t n, const float* HWY_RESTRICT from) {
    if (t == DType::f32) {
        float* p = static_cast<float*>(to) + at;
        for (std::int64_t i = 0; i < n; ++i) p[i] = from[i];
    } else if (t == DType::bf16) {
        auto* p = static_cast<std::uint16_t*>(to) + at;
        for (std::int64_t i = 0; i < n; ++i) p[i] = to_bf16(from[i]);
    } else if (t == DType::e4m3) {
        auto* p = static_cast<std::uint8_t*>(to) + at;
        for (std::int64_t i = 0; i < n; ++i) p[i] = to_e4m3(from[i]);
    } else {
        auto* p = static_cast<std::uint16_t*>(to) + at;
        for (std::int64_t i = 0; i < n; ++i) p[i] = to_f16(from[i]);
    }
}

// The buffers of a job, in one workspace.
struct Buffers {
    float* q;    // [rows][head_dim]
    float* o;    // [rows][o_width], unnormalised
    float* top;  // [rows] running maximum of the scaled logits
    float* sum;  // [rows] of exp(logit - top)
    float* k;    // panels of kPanel keys: [panel][head_dim][kPanel]
    float* v;    // panels of kPanel columns: [panel][kBlock][kPanel]
    float* s;    // [kStrip][kBlock] logits, then weights
    float* row;  // one converted row
    std::int64_t o_width;
};

Buffers lay_out(const Job& job, std::vector<float>& workspace) {
    const std::int64_t d = job.head_dim, width = panels(d) * kPanel;
    const std::int64_t sizes[] = {kRows * d, kRows * width, kRows, kRows, kBlock * d, kBlock * width, kStrip * kBlock, width};
    static_assert(kBlock % kPanel == 0);
    std::int64_t total = kLanes;
    for (std::int64_t n : sizes) total += (n + kPanel - 1) / kPanel * kPanel;
    if (static_cast<std::int64_t>(workspace.size()) < total) workspace.resize(static_cast<std::size_t>(total));
    const auto address = reinterpret_cast<std::uintptr_t>(workspace.data());
    constexpr std::uintptr_t bytes = static_cast<std::uintptr_t>(kLanes) * sizeof(float);
    float* next = workspace.data() + (bytes - address % bytes) % bytes / sizeof(float);
    float* part[8];
    for (int i = 0; i < 8; ++i) {
        part[i] = next;
        next += (sizes[i] + kPanel - 1) / kPanel * kPanel;
    }
    return {part[0], part[1], part[2], part[3], part[4], part[5], part[6], part[7], width};
}

HWY_ATTR void pack_keys(const Job& job, const Buffers& b, std::int64_t first, std::int64_t n) {
    for (std::int64_t j = 0; j < panels(n) * kPanel; ++j) {
        float* HWY_RESTRICT to = b.k + j / kPanel * job.head_dim * kPanel + j % kPanel;
        if (j < n) {
            load_row(job.kv_dtype, job.k, (first + j) * job.k_seq, job.head_dim, b.row);
            const float scale = job.k_scale.of(0, first + j);
            for (std::int64_t c = 0; c < job.head_dim; ++c) to[c * kPanel] = b.row[c] * scale;
        } else {
            for (std::int64_t c = 0; c < job.head_dim; ++c) to[c * kPanel] = 0;
        }
    }
}

HWY_ATTR void pack_transposed_values(const Job& job, const Buffers& b, std::int64_t first, std::int64_t n) {
    alignas(64) float scale[kBlock], channel[kBlock];
    for (std::int64_t j = 0; j < n; ++j) scale[j] = job.v_scale.of(0, first + j);
    for (std::int64_t c = 0; c < b.o_width; ++c) {
        float* HWY_RESTRICT to = b.v + c / kPanel * kBlock * kPanel + c % kPanel;
        if (c >= job.head_dim) {
            for (std::int64_t j = 0; j < n; ++j) to[j * kPanel] = 0;
            continue;
        }
        load_row(job.kv_dtype, job.v, c * job.v_seq + first, n, channel);
        const float by_channel = job.v_scale.channel != 0 ? job.v_scale.data[c * job.v_scale.channel] : 1;
        for (std::int64_t j = 0; j < n; ++j) to[j * kPanel] = channel[j] * (scale[j] * by_channel);
    }
}

HWY_ATTR void pack_values(const Job& job, const Buffers& b, std::int64_t first, std::int64_t n) {
    if (job.v_transposed) return pack_transposed_values(job, b, first, n);
    for (std::int64_t j = 0; j < n; ++j) {
        load_row(job.kv_dtype, job.v, (first + j) * job.v_seq, job.head_dim, b.row);  // columns past head_dim are zero from the start
        if (job.v_scale.channel != 0) {
            for (std::int64_t c = 0; c < job.head_dim; ++c) b.row[c] *= job.v_scale.data[c * job.v_scale.channel];
        } else if (const float scale = job.v_scale.of(0, first + j); scale != 1) {
            for (std::int64_t c = 0; c < job.head_dim; ++c) b.row[c] *= scale;
        }
        for (std::int64_t p = 0; p < b.o_width / kPanel; ++p) {
            float* to = b.v + (p * kBlock + j) * kPanel;
            hn::Store(hn::Load(kD, b.row + p * kPanel), kD, to);
            hn::Store(hn::Load(kD, b.row + p * kPanel + kLanes), kD, to + kLanes);
        }
    }
}

// c[m][0 .. kVectors * kLanes) = factor[m] * c + scale * sum over i < n of a[m][i] * panel[i][...]. A factor of zero ignores what c held.
template <int kHeight, int kVectors, bool kAccumulate>
HWY_ATTR void multiply(const float* HWY_RESTRICT a, std::int64_t a_stride, const float* HWY_RESTRICT panel, std::int64_t n, float scale,
                       float* HWY_RESTRICT c, std::int64_t c_stride) {
    V sums[kHeight][kVectors];
#pragma GCC unroll 16
    for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) sums[m][v] = hn::Zero(kD);
    }
    for (std::int64_t i = 0; i < n; ++i) {
        V right[kVectors];
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) right[v] = hn::Load(kD, panel + i * kPanel + v * kLanes);
#pragma GCC unroll 16
        for (int m = 0; m < kHeight; ++m) {
            const V left = hn::Set(kD, a[m * a_stride + i]);
#pragma GCC unroll 2
            for (int v = 0; v < kVectors; ++v) sums[m][v] = hn::MulAdd(left, right[v], sums[m][v]);
        }
    }
    const V factor = hn::Set(kD, scale);
#pragma GCC unroll 16
    for (int m = 0; m < kHeight; ++m) {
#pragma GCC unroll 2
        for (int v = 0; v < kVectors; ++v) {
            float* to = c + m * c_stride + v * kLanes;
            hn::Store(kAccumulate ? hn::Add(hn::Load(kD, to), sums[m][v]) : hn::Mul(sums[m][v], factor), kD, to);
        }
    }
}

// Turns the first `n` logits of a row into weights, those up to `end`, a multiple of the vector, into zeros; returns what to multiply the row's o by.
HWY_ATTR float soften(float* HWY_RESTRICT s, std::int64_t n, std::int64_t end, float& top, float& sum) {
    for (std::int64_t j = n; j < end; ++j) s[j] = kNone;
    V high = hn::Set(kD, top);
    for (std::int64_t j = 0; j < end; j += kLanes) {
        const V x = hn::Load(kD, s + j);
        high = hn::IfThenElse(hn::Gt(x, high), x, high);  // passes NaN over: it comes back through the exponential
    }
    const float new_top = hn::GetLane(hn::MaxOfLanes(kD, high));
    const float base = new_top == kNone ? 0 : new_top;
    const V shift = hn::Set(kD, base);
    V total = hn::Zero(kD);
    for (std::int64_t j = 0; j < end; j += kLanes) {
        const V x = hn::Sub(hn::Load(kD, s + j), shift);
        const V p = hn::IfThenElse(hn::IsNaN(x), x, hn::Exp(kD, x));  // Exp alone gives 0 for NaN
        total = hn::Add(total, p);
        hn::Store(p, kD, s + j);
    }
    const float keep = top == kNone ? 0 : std::exp(top - base);
    sum = sum * keep + hn::GetLane(hn::SumOfLanes(kD, total));
    top = new_top;
    return keep;
}

HWY_ATTR void scale_row(float* HWY_RESTRICT o, std::int64_t width, float factor) {
    const V f = hn::Set(kD, factor);
    for (std::int64_t c = 0; c < width; c += kLanes) hn::Store(hn::Mul(hn::Load(kD, o + c), f), kD, o + c);
}

// One strip of rows against the packed block of keys [first, first + n).
template <int kHeight>
HWY_ATTR void strip(const Job& job, const Buffers& b, std::int64_t row, std::int64_t first, std::int64_t n) {
    const std::int64_t d = job.head_dim;
    const auto seen = [&](std::int64_t r) {
        const std::int64_t keys = job.visible(job.first_row + r) - first;
        return keys < 0 ? 0 : keys > n ? n : keys;
    };
    const std::int64_t most = seen(row + kHeight - 1), least = seen(row);
    if (most == 0) return;
    for (std::int64_t j = 0; j < most; j += kPanel) {
        const float* panel = b.k + j / kPanel * d * kPanel;
        if (most - j > kLanes) {
            multiply<kHeight, 2, false>(b.q + row * d, d, panel, d, job.scale, b.s + j, kBlock);
        } else {
            multiply<kHeight, 1, false>(b.q + row * d, d, panel, d, job.scale, b.s + j, kBlock);
        }
    }
    const std::int64_t end = (most + kLanes - 1) / kLanes * kLanes;
    for (int m = 0; m < kHeight; ++m) {
        const std::int64_t keys = seen(row + m);
        if (keys == 0) continue;
        const float keep = soften(b.s + m * kBlock, keys, end, b.top[row + m], b.sum[row + m]);
        if (keep != 1) scale_row(b.o + (row + m) * b.o_width, b.o_width, keep);
    }
    // Keys that all rows of the strip see go through the register block. Those beyond, at most kHeight - 1 under a causal mask, go row by row,
    // so that a NaN in a row of V that a query does not see never meets its weight of zero.
    for (std::int64_t c = 0; least > 0 && c < d; c += kPanel) {
        const float* panel = b.v + c / kPanel * kBlock * kPanel;
        if (d - c > kLanes) {
            multiply<kHeight, 2, true>(b.s, kBlock, panel, least, 1, b.o + row * b.o_width + c, b.o_width);
        } else {
            multiply<kHeight, 1, true>(b.s, kBlock, panel, least, 1, b.o + row * b.o_width + c, b.o_width);
        }
    }
    for (int m = 0; m < kHeight; ++m) {
        for (std::int64_t j = least; j < seen(row + m); ++j) {
            const V p = hn::Set(kD, b.s[m * kBlock + j]);
            for (std::int64_t c = 0; c < b.o_width; c += kLanes) {
                float* o = b.o + (row + m) * b.o_width + c;
                const V v = hn::Load(kD, b.v + (c / kPanel * kBlock + j) * kPanel + c % kPanel);
                hn::Store(hn::MulAdd(p, v, hn::Load(kD, o)), kD, o);
            }
        }
    }
}

HWY_ATTR void block(const Job& job, const Buffers& b, std::int64_t first, std::int64_t n) {
    pack_keys(job, b, first, n);
    pack_values(job, b, first, n);
    std::int64_t row = 0;
    for (; row + kStrip <= job.rows; row += kStrip) strip<kStrip>(job, b, row, first, n);
    for (; row + 4 <= job.rows; row += 4) strip<4>(job, b, row, first, n);
    for (; row < job.rows; ++row) strip<1>(job, b, row, first, n);
}

HWY_ATTR void attend_rows(const Job& job, std::vector<float>& workspace) {
    const Buffers b = lay_out(job, workspace);
    for (std::int64_t c = 0; c < b.o_width; ++c) b.row[c] = 0;
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::int64_t row = job.first_row + r;
        load_row(job.dtype, job.q, row / job.group * job.q_seq + row % job.group * job.q_head, job.head_dim, b.q + r * job.head_dim);
        if (const float scale = job.q_scale.of(row % job.group, row / job.group); scale != 1) {
            for (std::int64_t c = 0; c < job.head_dim; ++c) b.q[r * job.head_dim + c] *= scale;
        }
        for (std::int64_t c = 0; c < b.o_width; ++c) b.o[r * b.o_width + c] = 0;
        b.top[r] = kNone;
        b.sum[r] = 0;
    }
    const std::int64_t keys = job.visible(job.first_row + job.rows - 1);
    for (std::int64_t first = 0; first < keys; first += kBlock) block(job, b, first, std::min(kBlock, keys - first));
    for (std::int64_t r = 0; r < job.rows; ++r) {
        const std::int64_t row = job.first_row + r, query = row / job.group, head = row % job.group;
        float* o = b.o + r * b.o_width;
        // No key, or no logit above minus infinity: zero, which o already holds unless V was not finite.
        const bool none = b.sum[r] == 0;
        for (std::int64_t c = 0; c < job.head_dim; ++c) o[c] = none ? 0 : o[c] / b.sum[r];
        store_row(job.out_dtype, job.o, query * job.o_seq + head * job.o_head, job.head_dim, o);
        if (job.lse != nullptr) job.lse[head * job.lse_head + query * job.lse_seq] = none ? kNone : b.top[r] + std::log(b.sum[r]);
    }
}

}  // namespace hopfill::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace hopfill::cpu {

HWY_EXPORT(attend_rows);

void attend(const Job& job, std::vector<float>& workspace) { HWY_DYNAMIC_DISPATCH(attend_rows)(job, workspace); }

}  // namespace hopfill::cpu
#endif

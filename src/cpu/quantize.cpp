#include "cpu/quantize.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <functional>
#include <thread>
#include <vector>

#include "cpu/backend.h"
#include "cpu/convert.h"

namespace hopfill::cpu {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;
constexpr std::int64_t kElementsPerThread = 1 << 20;

using Channels = std::array<float, kMaxHeadDim>;

float scale_for(float greatest) { return std::max(greatest / kGreatestE4m3, kLeastScale); }

// f(0) ... f(n - 1), on as many threads as the elements are worth.
void parallel(std::int64_t n, std::int64_t elements, const std::function<void(std::int64_t)>& f) {
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        for (std::int64_t i = next++; i < n; i = next++) f(i);
    };
    const std::int64_t cores = std::max(1u, std::thread::hardware_concurrency());
    std::vector<std::thread> threads;
    for (std::int64_t t = 1; t < std::min({cores, n, elements / kElementsPerThread + 1}); ++t) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
}

// One (sequence, KV head).
struct Unit {
    QuantizeRows rows;
    float* mean = nullptr;  // that of the rows
    std::int64_t sequence = 0, head = 0, length = 0;
};

std::vector<Unit> make_units(const AttentionProblem& p, const TensorView& cu_seqlens_k, const planner::QuantizeWork& work) {
    const std::size_t seq = p.packed ? 0 : 1, head = seq + 1;
    std::vector<Unit> units;
    for (std::int64_t s = 0; s < p.batch; ++s) {
        const auto* cu = static_cast<const std::int32_t*>(cu_seqlens_k.data);
        const std::int64_t begin = p.packed ? cu[s] : 0, length = p.packed ? cu[s + 1] - cu[s] : p.max_seqlen_kv;
        for (std::int64_t h = 0; h < p.kv_heads; ++h) {
            Unit unit{{}, nullptr, s, h, length};
            QuantizeRows& r = unit.rows;
            r.dtype = work.in.dtype;
            r.head_dim = p.head_dim;
            r.transposed = work.transposed;
            r.in_seq = work.in.strides[seq];
            r.out_seq = work.out.strides[work.transposed ? head : seq];
            const auto first = [&](const TensorView& t, bool transposed) {
                return (p.packed ? 0 : s * t.strides[0]) + (transposed ? h * t.strides[seq] + begin : begin * t.strides[seq] + h * t.strides[head]);
            };
            r.in = static_cast<const std::uint16_t*>(work.in.data) + first(work.in, false);
            r.out = static_cast<std::uint8_t*>(work.out.data) + first(work.out, work.transposed);
            if (work.mean.present()) unit.mean = static_cast<float*>(work.mean.data) + (s * p.kv_heads + h) * p.head_dim;
            r.mean = unit.mean;
            units.push_back(unit);
        }
    }
    return units;
}

// Sums of up to 128 tokens at a time, so that long sequences stay exact to a few units in the last place.
void compute_mean(const Unit& unit) {
    QuantizeRows rows = unit.rows;
    rows.mean = nullptr;
    std::array<double, kMaxHeadDim> total{};
    for (std::int64_t first = 0; first < unit.length; first += 128) {
        Channels part{};
        add_rows(rows, first, std::min<std::int64_t>(128, unit.length - first), part.data());
        for (std::size_t c = 0; c < static_cast<std::size_t>(rows.head_dim); ++c) total[c] += part[c];
    }
    for (std::size_t c = 0; c < static_cast<std::size_t>(rows.head_dim); ++c) {
        unit.mean[c] = unit.length == 0 ? 0 : static_cast<float>(total[c] / static_cast<double>(unit.length));
    }
}

float greatest_of(const Unit& unit, std::int64_t first, std::int64_t n) {
    Channels most{};
    greatest_magnitudes(unit.rows, first, n, most.data());
    return *std::max_element(most.begin(), most.end());
}

}  // namespace

Result<void> quantize(const AttentionProblem& p, const TensorView& cu_seqlens_k, const planner::QuantizeWork& work) {
    if (p.packed) {
        if (auto r = check_lengths(cu_seqlens_k, "cu_seqlens_k", p.batch, p.tokens_kv, p.max_seqlen_kv); !r) return r;
    }
    const std::vector<Unit> units = make_units(p, cu_seqlens_k, work);
    const std::int64_t n = std::ssize(units), elements = p.tokens_kv * p.kv_heads * p.head_dim;
    auto* scale = static_cast<float*>(work.scale.data);
    const auto at = [&](const Unit& u, std::int64_t block, std::int64_t channel) -> float& {
        return scale[u.sequence * work.layout.batch + u.head * work.layout.head + block * work.layout.block + channel * work.layout.channel];
    };
    const ScaleKind kind = work.layout.kind;
    const std::int64_t step = kind == ScaleKind::block ? work.scale_block : std::max<std::int64_t>(1, p.max_seqlen_kv);
    const bool by_channel = kind == ScaleKind::channel, by_block = kind == ScaleKind::block;
    // Greatest magnitudes of each unit, of its channels where they are scaled apart; units of one scale meet in its group.
    std::vector<Channels> greatest(by_block ? 0 : units.size()), groups(greatest.size());
    const auto group_of = [&](const Unit& u) {
        const std::int64_t i = kind == ScaleKind::tensor ? 0 : kind == ScaleKind::sequence ? u.sequence * p.kv_heads + u.head : u.head;
        return static_cast<std::size_t>(i);
    };
    parallel(n, elements, [&](std::int64_t i) {
        const Unit& u = units[static_cast<std::size_t>(i)];
        if (u.mean != nullptr) compute_mean(u);
        for (std::int64_t first = 0; by_block && first < u.length; first += step) {
            at(u, first / step, 0) = scale_for(greatest_of(u, first, std::min(step, u.length - first)));
        }
        if (by_block) return;
        Channels& most = greatest[static_cast<std::size_t>(i)];
        most.fill(0);
        greatest_magnitudes(u.rows, 0, u.length, most.data());
        if (!by_channel) most[0] = *std::max_element(most.begin(), most.end());
    });
    for (Channels& group : groups) group.fill(0);
    const std::size_t channels = by_channel ? static_cast<std::size_t>(p.head_dim) : 1;
    for (std::size_t i = 0; i < greatest.size(); ++i) {
        Channels& group = groups[group_of(units[i])];
        for (std::size_t c = 0; c < channels; ++c) group[c] = std::max(group[c], greatest[i][c]);
    }
    for (std::size_t i = 0; i < greatest.size(); ++i) {
        for (std::size_t c = 0; c < channels; ++c) at(units[i], 0, static_cast<std::int64_t>(c)) = scale_for(groups[group_of(units[i])][c]);
    }
    parallel(n, elements, [&](std::int64_t i) {
        const Unit& u = units[static_cast<std::size_t>(i)];
        Channels inverse;
        for (std::int64_t first = 0; first < u.length; first += step) {
            for (std::int64_t c = 0; c < p.head_dim; ++c) {
                inverse[static_cast<std::size_t>(c)] = 1 / at(u, by_block ? first / step : 0, by_channel ? c : 0);
            }
            round_rows(u.rows, first, std::min(step, u.length - first), inverse.data());
        }
    });
    return {};
}

void shift_lse(const AttentionProblem& p, const AttentionTensors& t, const float* k_mean) {
    const std::size_t seq = p.packed ? 0 : 1, head = seq + 1;
    const auto load = [&](std::int64_t at) {
        if (p.dtype == DType::f32) return static_cast<const float*>(t.q.data)[at];
        if (p.dtype == DType::e4m3) return from_e4m3(static_cast<const std::uint8_t*>(t.q.data)[at]);
        const std::uint16_t bits = static_cast<const std::uint16_t*>(t.q.data)[at];
        return p.dtype == DType::bf16 ? from_bf16(bits) : from_f16(bits);
    };
    parallel(p.batch * p.heads, p.tokens_q * p.heads * p.head_dim, [&](std::int64_t unit) {
        const std::int64_t s = unit / p.heads, h = unit % p.heads, kv_head = h / (p.heads / p.kv_heads);
        const auto* cu = static_cast<const std::int32_t*>(t.cu_seqlens_q.data);
        const std::int64_t begin = p.packed ? cu[s] : 0, length = p.packed ? cu[s + 1] - cu[s] : p.max_seqlen_q;
        const float* mean = k_mean + (s * p.kv_heads + kv_head) * p.head_dim;
        const ScaleLayout& layout = p.q_scale;
        for (std::int64_t i = 0; i < length; ++i) {
            const std::int64_t q = (p.packed ? 0 : s * t.q.strides[0]) + (begin + i) * t.q.strides[seq] + h * t.q.strides[head];
            double sum = 0;
            for (std::int64_t c = 0; c < p.head_dim; ++c) sum += static_cast<double>(load(q + c)) * mean[c];
            if (layout.kind != ScaleKind::none) {
                const std::int64_t block = p.scale_block > 0 ? i / p.scale_block : 0;
                sum *= static_cast<const float*>(
                    t.q_scale.data)[s * layout.batch + (layout.kind == ScaleKind::head ? h : kv_head) * layout.head + block * layout.block];
            }
            const std::int64_t at =
                p.packed ? h * t.lse.strides[0] + (begin + i) * t.lse.strides[1] : s * t.lse.strides[0] + h * t.lse.strides[1] + i * t.lse.strides[2];
            static_cast<float*>(t.lse.data)[at] += static_cast<float>(p.scale * sum);
        }
    });
}

}  // namespace hopfill::cpu

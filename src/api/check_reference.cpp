// What rounding costs: an exact online softmax in the formats of the problem (P rounded to q's dtype before P.V, to e4m3 as 2^8 P, float32 sums, o
// rounded once), and a model of how far two correct kernels may differ. On the tensor cores, products of e4m3 are summed with 13 fraction bits, and
// so are, where they add them up, the rounded P of a row.
#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <numbers>
#include <numeric>
#include <span>

#include "api/check_internal.h"
#include "oracle/formats.h"

namespace hopfill::check {
namespace {

constexpr std::int64_t kBlock = 128;  // keys between two updates of the running maximum
constexpr float kNone = -std::numeric_limits<float>::infinity();

float round_to_bf16(float x) {
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return std::bit_cast<float>((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000u);
}
// 0 <= x <= 1: above 2^-14 drops 13 bits, below rounds to multiples of 2^-24, which is the last place of 0.75.
float round_to_f16(float x) {
    if (x < 0x1p-14f) return (x + 0.75f) - 0.75f;
    const auto bits = std::bit_cast<std::uint32_t>(x);
    return std::bit_cast<float>((bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000u);
}
// 0 <= x <= 1, times 2^8: above 2^-6 drops 20 bits, below rounds to multiples of 2^-9, which is the last place of 2^14.
float round_to_e4m3(float x) {
    const float scaled = x * 256;
    if (scaled < 0x1p-6f) return ((scaled + 0x1p14f) - 0x1p14f) / 256;
    const auto bits = std::bit_cast<std::uint32_t>(scaled);
    return std::bit_cast<float>((bits + 0x7ffff + (bits >> 20 & 1)) & 0xfff00000u) / 256;
}
constexpr double kMostFromLogits = 4;  // variance: v is about N(0, 1), and a row cannot stray further than from one key's to another's

float round_weight(DType t, float x) {
    return t == DType::bf16 ? round_to_bf16(x) : t == DType::f16 ? round_to_f16(x) : t == DType::e4m3 ? round_to_e4m3(x) : x;
}

// Largest relative error of a rounding to the format's nearest.
double unit_roundoff(DType t) { return std::ldexp(1.0, -oracle::format_of(t).mantissa_bits - 1); }

// Distance of neighbouring numbers around x.
double spacing(DType t, double x) {
    const oracle::Format f = oracle::format_of(t);
    const int lowest = 1 - f.bias();
    const int binade = x == 0 || !std::isfinite(x) ? lowest : std::max(lowest, std::ilogb(x));
    return std::ldexp(1.0, binade - f.mantissa_bits);
}

// Rows of one head of k or v as float; k is transposed, so that sums over columns run in order for many keys side by side.
struct Keys {
    std::int64_t n = 0, d = 0;
    std::vector<float> k;        // [d][n], of FP8 without its scale, so that sums are cut off where the tensor cores' are
    std::vector<float> k_scale;  // [n]
    std::vector<float> v;        // [n][d]
    std::vector<float> k_size;   // [n] Euclidean
    std::vector<float> v_most;   // [d] greatest finite magnitude, of all n
};

Keys load_keys(const Built& b, std::int64_t sequence, std::int64_t kv_head, std::int64_t n) {
    const auto i = static_cast<std::size_t>(sequence);
    Keys keys{n, b.problem.head_dim, {}, {}, {}, {}, {}};
    keys.k.resize(static_cast<std::size_t>(n * keys.d));
    keys.v.resize(static_cast<std::size_t>(n * keys.d));
    keys.k_size.resize(static_cast<std::size_t>(n));
    keys.v_most.resize(static_cast<std::size_t>(keys.d));
    for (std::int64_t j = 0; j < n; ++j) {
        const std::int64_t k_at = offset(b.host.k, sequence, b.kv_begin[i], j, kv_head);
        double size = 0;
        for (std::int64_t c = 0; c < keys.d; ++c) {
            const double x = oracle::load(b.host.k.dtype, b.host.k.data, k_at + c);
            size += x * x;
            keys.k[static_cast<std::size_t>(c * n + j)] = static_cast<float>(x);
            const double y = oracle::load(b.host.v.dtype, b.host.v.data, value_offset(b, sequence, b.kv_begin[i], j, kv_head, c)) *
                             multiplier(b, b.host.v_scale, b.problem.v_scale, sequence, kv_head, j, c);
            keys.v[static_cast<std::size_t>(j * keys.d + c)] = static_cast<float>(y);
            float& most = keys.v_most[static_cast<std::size_t>(c)];
            if (std::isfinite(y)) most = std::max(most, static_cast<float>(std::fabs(y)));
        }
        const float scale = multiplier(b, b.host.k_scale, b.problem.k_scale, sequence, kv_head, j, 0);
        keys.k_scale.push_back(scale);
        keys.k_size[static_cast<std::size_t>(j)] = static_cast<float>(std::sqrt(size) * std::fabs(scale));
    }
    return keys;
}

// q k^T of one query with n keys. `reduced`: sums of 32 products and what was there before, aligned to the greatest of them and cut off 13 bits
// below.
void multiply(const std::vector<float>& q, const Keys& keys, std::int64_t n, bool reduced, std::vector<float>& logits, std::vector<float>& top,
              std::vector<float>& sum) {
    const auto d = static_cast<std::int64_t>(q.size());
    std::fill_n(logits.begin(), n, 0.0f);
    if (!reduced) {
        for (std::int64_t c = 0; c < d; ++c) {
            const float* k = keys.k.data() + c * keys.n;
            const float left = q[static_cast<std::size_t>(c)];
            for (std::int64_t j = 0; j < n; ++j) logits[static_cast<std::size_t>(j)] += left * k[j];
        }
        return;
    }
    float *most = top.data(), *total = sum.data(), *at = logits.data();
    for (std::int64_t c0 = 0; c0 < d; c0 += 32) {
        for (std::int64_t j = 0; j < n; ++j) most[j] = std::fabs(at[j]);
        for (std::int64_t c = c0; c < std::min(d, c0 + 32); ++c) {
            const float* k = keys.k.data() + c * keys.n;
            const float left = q[static_cast<std::size_t>(c)];
            for (std::int64_t j = 0; j < n; ++j) {
                const float p = std::fabs(left * k[j]);
                most[j] = most[j] > p ? most[j] : p;
            }
        }
        // The factor that makes the last place kept 1; sums stay below 2^20.
        for (std::int64_t j = 0; j < n; ++j) {
            const std::uint32_t exponent = std::clamp(std::bit_cast<std::uint32_t>(most[j]) >> 23, 32u, 240u);
            most[j] = std::bit_cast<float>((254 + 13 - exponent) << 23);
            total[j] = static_cast<float>(static_cast<std::int32_t>(at[j] * most[j]));
        }
        for (std::int64_t c = c0; c < std::min(d, c0 + 32); ++c) {
            const float* k = keys.k.data() + c * keys.n;
            const float left = q[static_cast<std::size_t>(c)];
            for (std::int64_t j = 0; j < n; ++j) total[j] += static_cast<float>(static_cast<std::int32_t>(left * k[j] * most[j]));
        }
        for (std::int64_t j = 0; j < n; ++j) {
            at[j] = std::bit_cast<float>(std::bit_cast<std::uint32_t>(total[j]) & ~0x3ffu) / most[j];
        }
    }
}

// Standard deviation of a weight whose logit has standard deviation s (log-normal), which is no more than the whole.
double moved(double weight, double s) {
    const double squares = std::min(s * s, 30.0);
    return std::min(0.5, weight * std::sqrt(std::exp(squares) * std::expm1(squares)));
}

struct Softmax {
    std::vector<float> o;
    float top = kNone, sum = 0;
    float most = kNone;    // the greatest of all tops: the last may be lower
    double lost = 0;  // of the sum, by cutting off
};

// A block's rounded P as the tensor cores sum them: 32 and what was there before, aligned to the greatest of them and cut off 13 bits below.
float sum_of_products(const std::vector<float>& p) {
    float total = 0;
    for (std::size_t first = 0; first < p.size(); first += 32) {
        const std::span<const float> step = std::span(p).subspan(first, std::min<std::size_t>(32, p.size() - first));
        const float most = std::max(total, std::ranges::max(step));
        if (most == 0) continue;
        const float unit = std::ldexp(1.0f, std::ilogb(most) - 13);
        total = std::floor(total / unit);
        for (const float x : step) total += std::floor(x / unit);
        total = std::bit_cast<float>(std::bit_cast<std::uint32_t>(total) & ~0x3ffu) * unit;
    }
    return total;
}

// Raw logits in, o unnormalised out.
Softmax online(const std::vector<float>& logits, const Keys& keys, std::int64_t n, float scale_log2, DType dtype, bool sums_by_products) {
    std::vector<float> block;
    Softmax r{std::vector<float>(static_cast<std::size_t>(keys.d), 0.0f)};
    for (std::int64_t j0 = 0; j0 < n; j0 += kBlock) {
        const std::int64_t j1 = std::min(n, j0 + kBlock);
        // Sums of products go by each block's own maximum (prefill_fp8/softmax.cuh), others by the running one.
        float top = sums_by_products && r.sum < 0x1p52f ? r.top - 16 : r.top;
        for (std::int64_t j = j0; j < j1; ++j) top = std::max(top, logits[static_cast<std::size_t>(j)] * scale_log2);
        r.most = std::max(r.most, top);
        const float keep = r.top == kNone ? 0.0f : std::exp2(r.top - top);
        r.sum *= keep;
        r.lost *= keep;
        block.clear();
        for (float& x : r.o) x *= keep;
        r.top = top;
        for (std::int64_t j = j0; j < j1; ++j) {
            const float p = std::exp2(logits[static_cast<std::size_t>(j)] * scale_log2 - top);
            const float rounded = round_weight(dtype, p);
            if (sums_by_products)
                block.push_back(rounded);
            else
                r.sum += p;
            const float* v = keys.v.data() + j * keys.d;
            for (std::int64_t c = 0; c < keys.d; ++c) r.o[static_cast<std::size_t>(c)] += rounded * v[c];
        }
        if (sums_by_products) {
            const float sum = sum_of_products(block);
            r.lost += std::accumulate(block.begin(), block.end(), 0.0) - sum;
            r.sum += sum;
        }
    }
    return r;
}

}  // namespace

std::vector<Simulated> simulate(const Built& b, std::int64_t sequence, std::int64_t head, const std::vector<std::int64_t>& queries) {
    const AttentionProblem& p = b.problem;
    const auto index = static_cast<std::size_t>(sequence);
    const std::int64_t q_len = b.q_lens[index], kv_len = b.kv_lens[index];
    const auto visible = [&](std::int64_t i) { return p.causal ? std::clamp<std::int64_t>(i + kv_len - q_len + 1, 0, kv_len) : kv_len; };
    std::int64_t longest = 0;
    for (std::int64_t i : queries) longest = std::max(longest, visible(i));
    const Keys keys = load_keys(b, sequence, head / (p.heads / p.kv_heads), longest);
    const auto d = static_cast<std::size_t>(p.head_dim);
    const float scale_log2 = static_cast<float>(p.scale * 1.4426950408889634);
    const bool tensor_cores = b.options.backend != Backend::cpu && b.options.backend != Backend::oracle;
    const bool reduced = p.dtype == DType::e4m3 && tensor_cores;
    // The kernels of hd256, and those with multipliers by block, add up P as float32, before it is rounded (plan/geometry.h).
    const bool rounded_sums = reduced && p.head_dim <= 128 && p.scale_block == 0;
    // Relative roundings of a weight: to its dtype (0.5 is the mean over a binade of the standard deviation over the largest error), and of the
    // exponential.
    const double weight_error = std::hypot(p.dtype == DType::f32 ? 0 : 0.5 * unit_roundoff(p.dtype), 0x1p-23);
    // Below 2^-14 an f16 weight is rounded to multiples of 2^-24 (0.29 of it, a uniform error's standard deviation), or to 0, whatever its size: as
    // a share of weight_error, in weights before they are divided by their sum. A kernel that meets the greatest logit first has it for every key,
    // the reference, in its own order, perhaps for none. An e4m3 weight, stored as 2^8 P, to multiples of 2^-17.
    const double last_place = p.dtype == DType::f16 ? 0x1p-24 : p.dtype == DType::e4m3 ? 0x1p-17 : 0;
    const double coarse = 0.29 * last_place / weight_error;
    std::vector<float> q(d), logits(static_cast<std::size_t>(longest)), top(logits.size()), sum(logits.size());
    std::vector<float> weighted(d), weighted1(d), spread1(d), spread2(d);
    std::vector<Simulated> result;
    for (std::int64_t i : queries) {
        const std::int64_t n = visible(i), at = offset(b.host.q, sequence, b.q_begin[index], i, head);
        double q_size = 0;
        for (std::size_t c = 0; c < d; ++c) {
            q[c] = static_cast<float>(oracle::load(b.host.q.dtype, b.host.q.data, at + static_cast<std::int64_t>(c)));
            q_size += static_cast<double>(q[c]) * q[c];
        }
        const float q_scale = multiplier(b, b.host.q_scale, p.q_scale, sequence, head, i, 0);
        q_size *= static_cast<double>(q_scale) * q_scale;
        multiply(q, keys, n, reduced, logits, top, sum);
        if (p.kv_dtype == DType::e4m3) {
            for (std::int64_t j = 0; j < n; ++j) logits[static_cast<std::size_t>(j)] *= q_scale * keys.k_scale[static_cast<std::size_t>(j)];
        }
        const Softmax s = online(logits, keys, n, scale_log2, p.dtype, rounded_sums);
        Simulated& row = result.emplace_back(Simulated{std::vector<float>(d), std::vector<double>(d), kNone, 0});
        if (s.sum != 0) row.lse = s.top * 0.69314718f + std::log(s.sum);
        // A float32 sum of d products strays by about 2^-24 sqrt(d) of the greater of its value and of its terms' size: error of logit j. It and
        // weight_error move o by p_j times the distance of v_j from o, independently for each key.
        // With 13 fraction bits, the 32 products and the sum of a step are each cut off by up to 2^-13 of the greatest.
        const double steps = std::ceil(static_cast<double>(d) / 32);
        const double logit_unit = (reduced ? 0x1.4p-13 * std::sqrt(steps) : 0x1p-23 * std::sqrt(static_cast<double>(d))) * std::fabs(p.scale);
        const double least = coarse * std::exp2(static_cast<double>(s.most) - s.top) / s.sum;
        double logit_squares = 0, weight_squares = 0, rounded_squares = 0, mean_size = 0;
        double small = 0;  // weights that are left out below, all together
        std::fill(weighted.begin(), weighted.end(), 0.0f);
        std::fill(weighted1.begin(), weighted1.end(), 0.0f);
        std::fill(spread1.begin(), spread1.end(), 0.0f);
        std::fill(spread2.begin(), spread2.end(), 0.0f);
        for (std::int64_t j = 0; j < n; ++j) {
            const float logit = logits[static_cast<std::size_t>(j)];
            const float w = std::exp2(logit * scale_log2 - s.top) / s.sum;
            if (!(w > 1e-9f) && !reduced) {
                small += w;
                continue;
            }
            const double size = std::fabs(static_cast<double>(logit)) +
                                std::sqrt(q_size) * keys.k_size[static_cast<std::size_t>(j)] / std::sqrt(static_cast<double>(d));
            const double error = reduced ? moved(w, logit_unit * size) : w * logit_unit * size;
            if (reduced && !(w > 1e-9f) && !(error > 1e-9)) {
                small += w;
                continue;
            }
            logit_squares += error * error;
            mean_size += w * std::fabs(static_cast<double>(logit) * p.scale);
            weight_squares += static_cast<double>(w) * w;
            const auto e2 = static_cast<float>(error * error);
            const double rounded = std::max<double>(w, std::min<double>(least, w / weight_error));
            const auto w2 = static_cast<float>(rounded * rounded);
            rounded_squares += w2;
            const float* v = keys.v.data() + j * keys.d;
            for (std::size_t c = 0; c < d; ++c) {
                weighted[c] += w2 * v[c] * v[c];
                weighted1[c] += w2 * v[c];
                spread1[c] += e2 * v[c];
                spread2[c] += e2 * v[c] * v[c];
            }
        }
        const double count = static_cast<double>(n);
        for (std::size_t c = 0; c < d; ++c) {
            const float o = s.sum == 0 ? 0.0f : s.o[c] / s.sum;
            row.o[c] =
                static_cast<float>(oracle::decode(oracle::format_of(p.out_dtype), oracle::encode_saturated(oracle::format_of(p.out_dtype), o)));
            const double from_logits = spread2[c] - 2.0 * o * spread1[c] + static_cast<double>(o) * o * logit_squares;
            // Sums of n terms in float32: errors of partial sums, for sequential order; blocked orders stray less.
            const double from_sums = 0x1p-48 * count * (0.16 * weighted[c] + 0.1 * static_cast<double>(o) * o);
            const double rounding = 0.29 * spacing(p.out_dtype, o);
            // Divided by sums of rounded weights, a weight's rounding moves o by its share of v_j - o, not of v_j. That is less but for columns in
            // which a key of great weight has a small value.
            double from_weights = weighted[c];
            const double away = weighted[c] - 2.0 * o * weighted1[c] + static_cast<double>(o) * o * rounded_squares;
            if (rounded_sums) from_weights = std::max(from_weights, away);
            // A column in which every key of some weight is 0 is what the others make of it, and these may be 0 in a kernel: by P's format, or below
            // 2^-126.
            const double from_small = small * keys.v_most[c];
            row.sigma[c] = std::sqrt(weight_error * weight_error * from_weights + std::clamp(from_logits, 0.0, kMostFromLogits) + from_sums +
                                     rounding * rounding + from_small * from_small);
        }
        if (n > 0) {
            // The sum of P is 2^8 times as great where its maximum is, and its logarithm is so much the more coarse (lg2.approx errs by up to 2^-22
            // of its result: PTX ISA, lg2; a quarter of that is a standard deviation).
            const double offset_of_p = reduced ? 8 * std::numbers::ln2 : 0;
            const double rounding = 0x1p-24 * (1 + std::fabs(row.lse) + offset_of_p);
            // Tensor cores truncate where they add 16 products to an accumulator, so the logits of a row err to the same side and the LSE with
            // them: by half a unit in the last place an addition (4.4e-5 RMS at head_dim 256 and an LSE of 43 on an H100).
            const double truncation = p.dtype == DType::f32 ? 0 : 0x1p-24 * std::ceil(static_cast<double>(d) / 16) * mean_size;
            const double from_sums = 0x1p-46 * weight_squares + 0x1p-48 * (0.1 * count + 1);
            // Sums of rounded weights: each errs by its own rounding, and what is cut off is cut off on one side (in blocks of 192, up to half more).
            const double of_weights = rounded_sums ? weight_error * weight_error * rounded_squares : 0;
            const double lost = s.sum == 0 ? 0 : 1.5 * s.lost / s.sum;
            row.lse_sigma = std::sqrt(logit_squares + from_sums + rounding * rounding + truncation * truncation + of_weights + lost * lost);
        }
    }
    return result;
}

}  // namespace hopfill::check

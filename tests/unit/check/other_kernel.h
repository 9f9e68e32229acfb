// A correct kernel that is no copy of the checker's reference: the same formats (float32 scores and sums, weights rounded to the tensors' type before
// P.V), but another size and order of KV blocks and another way to the exponential. What a bound must pass.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "hopfill/check.h"
#include "oracle/formats.h"

namespace hopfill::check {

class OtherKernel : public Target {
public:
    explicit OtherKernel(std::int64_t block = 96, bool last_block_first = true) : Target(Backend::cpu), block_(block), backward_(last_block_first) {}

    // Dense tensors only.
    Result<void> run(const AttentionProblem& p, const AttentionTensors& t, const AttentionOptions&, std::uint64_t) override {
        for (std::int64_t b = 0; b < p.batch; ++b) {
            for (std::int64_t h = 0; h < p.heads; ++h) {
                const std::int64_t g = h / (p.heads / p.kv_heads);
                head(p, t, b, h, floats(t.q, b, p.max_seqlen_q, h), floats(t.k, b, p.max_seqlen_kv, g), floats(t.v, b, p.max_seqlen_kv, g));
            }
        }
        return {};
    }

private:
    static std::int64_t at(const TensorView& t, std::int64_t b, std::int64_t i, std::int64_t h) {
        return b * t.strides[0] + i * t.strides[1] + h * t.strides[2];
    }
    // The rows of one head.
    static std::vector<float> floats(const TensorView& t, std::int64_t b, std::int64_t rows, std::int64_t h) {
        std::vector<float> out;
        for (std::int64_t i = 0; i < rows; ++i)
            for (std::int64_t x = 0; x < t.shape[3]; ++x) out.push_back(static_cast<float>(oracle::load(t.dtype, t.data, at(t, b, i, h) + x)));
        return out;
    }

    void head(const AttentionProblem& p, const AttentionTensors& t, std::int64_t b, std::int64_t h, const std::vector<float>& q,
              const std::vector<float>& k, const std::vector<float>& v) const {
        const std::int64_t d = p.head_dim, kv = p.max_seqlen_kv;
        const oracle::Format format = oracle::format_of(p.dtype);
        const auto c = static_cast<float>(p.scale * 1.4426950408889634);
        for (std::int64_t i = 0; i < p.max_seqlen_q; ++i) {
            const std::int64_t n = p.causal ? std::clamp<std::int64_t>(i + kv - p.max_seqlen_q + 1, 0, kv) : kv;
            std::vector<float> o(static_cast<std::size_t>(d)), scores(static_cast<std::size_t>(n));
            const float* query = q.data() + i * d;
            for (std::int64_t j = 0; j < n; ++j) scores[static_cast<std::size_t>(j)] = std::inner_product(query, query + d, k.data() + j * d, 0.0f);
            const std::int64_t blocks = (n + block_ - 1) / block_;
            float top = -std::numeric_limits<float>::infinity(), sum = 0;
            for (std::int64_t step = 0; step < blocks; ++step) {
                const std::int64_t first = (backward_ ? blocks - 1 - step : step) * block_, last = std::min(n, first + block_);
                const float before = top;
                top = std::max(top, *std::max_element(scores.begin() + first, scores.begin() + last));
                const float keep = std::isinf(before) ? 0.0f : std::exp2((before - top) * c), shift = top * c;
                sum *= keep;
                for (float& x : o) x *= keep;
                for (std::int64_t j = first; j < last; ++j) {
                    const float weight = std::exp2(std::fma(scores[static_cast<std::size_t>(j)], c, -shift));
                    sum += weight;
                    const auto rounded = static_cast<float>(oracle::decode(format, oracle::encode(format, weight)));
                    for (std::int64_t x = 0; x < d; ++x) o[static_cast<std::size_t>(x)] += rounded * v[static_cast<std::size_t>(j * d + x)];
                }
            }
            for (std::int64_t x = 0; x < d; ++x)
                oracle::store(p.out_dtype, t.o.data, at(t.o, b, i, h) + x, n == 0 ? 0 : o[static_cast<std::size_t>(x)] / sum);
            if (t.lse.present()) {
                static_cast<float*>(t.lse.data)[b * t.lse.strides[0] + h * t.lse.strides[1] + i * t.lse.strides[2]] =
                    n == 0 ? top : static_cast<float>(top * p.scale) + std::log(sum);
            }
        }
    }

    std::int64_t block_;
    bool backward_;
};

}  // namespace hopfill::check

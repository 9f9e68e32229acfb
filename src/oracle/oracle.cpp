#include "oracle/oracle.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <string>
#include <thread>

#include "oracle/formats.h"

namespace hopfill::oracle {
namespace {

// One sequence of a batch: its first row in the tensors (packed) and its lengths.
struct Sequence {
    std::int64_t q_begin = 0, kv_begin = 0, q_len = 0, kv_len = 0;
};

Sequence sequence_of(const AttentionProblem& p, const AttentionTensors& t, std::int64_t index) {
    if (!p.packed) return {0, 0, p.max_seqlen_q, p.max_seqlen_kv};
    const auto* cu_q = static_cast<const std::int32_t*>(t.cu_seqlens_q.data);
    const auto* cu_k = static_cast<const std::int32_t*>(t.cu_seqlens_k.data);
    return {cu_q[index], cu_k[index], cu_q[index + 1] - cu_q[index], cu_k[index + 1] - cu_k[index]};
}

// Offset in elements of (sequence, token of the sequence, head, 0).
std::int64_t offset(const TensorView& v, bool packed, std::int64_t sequence, std::int64_t row, std::int64_t head) {
    return packed ? row * v.strides[0] + head * v.strides[1] : sequence * v.strides[0] + row * v.strides[1] + head * v.strides[2];
}

std::int64_t column_stride(const TensorView& v) { return v.strides[static_cast<std::size_t>(v.rank - 1)]; }

std::vector<double> decode_row(const TensorView& v, std::int64_t first, std::int64_t n) {
    std::vector<double> row(static_cast<std::size_t>(n));
    const Format f = format_of(v.dtype);
    const auto bytes = static_cast<std::size_t>(size_of(v.dtype));
    const auto* p = static_cast<const unsigned char*>(v.data) + first * size_of(v.dtype);
    for (double& x : row) {
        std::uint32_t bits = 0;
        std::memcpy(&bits, p, bytes);
        x = decode(f, bits);
        p += column_stride(v) * size_of(v.dtype);
    }
    return row;
}

// What (sequence, head, token of the sequence, channel) of an FP8 tensor is multiplied by.
double multiplier(const TensorView& scale, const ScaleLayout& layout, std::int64_t block, std::int64_t sequence, std::int64_t head,
                  std::int64_t token, std::int64_t channel) {
    if (layout.kind == ScaleKind::none) return 1;
    const std::int64_t at = sequence * layout.batch + head * layout.head + (block > 0 ? token / block : 0) * layout.block + channel * layout.channel;
    return static_cast<const float*>(scale.data)[at];
}

// Query i of a head, decoded and scaled.
std::vector<double> decode_query(const AttentionTensors& t, const AttentionProblem& p, const Sequence& s, std::int64_t sequence, std::int64_t head,
                                 std::int64_t i) {
    std::vector<double> q = decode_row(t.q, offset(t.q, p.packed, sequence, s.q_begin + i, head), p.head_dim);
    const std::int64_t scale_head = p.q_scale.kind == ScaleKind::head ? head : head / (p.heads / p.kv_heads);
    for (double& x : q) x *= multiplier(t.q_scale, p.q_scale, p.scale_block, sequence, scale_head, i, 0);
    return q;
}

// K or V of one (sequence, KV head), decoded and scaled: [kv_len][head_dim].
std::vector<double> decode_matrix(const TensorView& v, const TensorView& scale, const ScaleLayout& layout, bool transposed, const AttentionProblem& p,
                                  const Sequence& s, std::int64_t sequence, std::int64_t kv_head, std::int64_t rows) {
    std::vector<double> m(static_cast<std::size_t>(rows * p.head_dim));
    const auto scaled = [&](std::int64_t token, std::int64_t channel, double x) {
        m[static_cast<std::size_t>(token * p.head_dim + channel)] = x * multiplier(scale, layout, p.scale_block, sequence, kv_head, token, channel);
    };
    if (transposed) {
        const std::size_t heads = p.packed ? 0 : 1;
        for (std::int64_t c = 0; c < p.head_dim; ++c) {
            const std::int64_t first = (p.packed ? 0 : sequence * v.strides[0]) + kv_head * v.strides[heads] + c * v.strides[heads + 1];
            for (std::int64_t j = 0; j < rows; ++j) scaled(j, c, load(v.dtype, v.data, first + (s.kv_begin + j) * column_stride(v)));
        }
        return m;
    }
    for (std::int64_t j = 0; j < rows; ++j) {
        const std::vector<double> row = decode_row(v, offset(v, p.packed, sequence, s.kv_begin + j, kv_head), p.head_dim);
        for (std::int64_t c = 0; c < p.head_dim; ++c) scaled(j, c, row[static_cast<std::size_t>(c)]);
    }
    return m;
}

std::vector<double> decode_keys(const AttentionTensors& t, const AttentionProblem& p, const Sequence& s, std::int64_t sequence, std::int64_t kv_head,
                                std::int64_t rows) {
    return decode_matrix(t.k, t.k_scale, p.k_scale, false, p, s, sequence, kv_head, rows);
}
std::vector<double> decode_values(const AttentionTensors& t, const AttentionProblem& p, const Sequence& s, std::int64_t sequence,
                                  std::int64_t kv_head, std::int64_t rows) {
    return decode_matrix(t.v, t.v_scale, p.v_scale, p.v_transposed, p, s, sequence, kv_head, rows);
}

// Keys that query i sees: a prefix of the sequence's keys. Causal is bottom-right aligned, so the last query sees all of them.
std::int64_t visible_keys(bool causal, const Sequence& s, std::int64_t i) {
    return causal ? std::clamp<std::int64_t>(i + s.kv_len - s.q_len + 1, 0, s.kv_len) : s.kv_len;
}

// Softmax over the first `keys` rows of k and v ([keys][head_dim] each), o = sum of weights times v (Vaswani et al. 2017, equation 1).
Row attend(const std::vector<double>& q, const double* k, const double* v, std::int64_t keys, double scale) {
    const auto d = static_cast<std::int64_t>(q.size());
    Row row{std::vector<double>(q.size(), 0.0), -std::numeric_limits<double>::infinity()};
    std::vector<double> weight(static_cast<std::size_t>(keys));
    double top = -std::numeric_limits<double>::infinity();
    for (std::int64_t j = 0; j < keys; ++j) {
        double sum = 0;
        for (std::int64_t c = 0; c < d; ++c) sum += q[static_cast<std::size_t>(c)] * k[j * d + c];
        weight[static_cast<std::size_t>(j)] = scale * sum;
        top = std::max(top, scale * sum);  // a NaN on the right is passed over here and met again in the sum
    }
    double total = 0;
    for (double& w : weight) total += w = w == -std::numeric_limits<double>::infinity() ? 0 : std::exp(w - top);
    if (total == 0) return row;  // no key, or every logit is minus infinity
    for (std::int64_t j = 0; j < keys; ++j) {
        const double w = weight[static_cast<std::size_t>(j)];
        for (std::int64_t c = 0; c < d; ++c) row.o[static_cast<std::size_t>(c)] += w * v[j * d + c];
    }
    for (double& x : row.o) x /= total;
    row.lse = top + std::log(total);
    return row;
}

Result<void> check_lengths(const TensorView& cu, const char* name, const AttentionProblem& p, std::int64_t tokens, std::int64_t longest) {
    if (cu.data == nullptr || cu.dtype != DType::i32 || cu.rank != 1 || cu.shape[0] != p.batch + 1 || (p.batch > 0 && cu.strides[0] != 1)) {
        return Error{Code::invalid_argument, name, "must be a contiguous i32 tensor of batch + 1 = " + std::to_string(p.batch + 1) + " elements"};
    }
    const auto* x = static_cast<const std::int32_t*>(cu.data);
    if (x[0] != 0) return Error{Code::invalid_argument, name, "starts at " + std::to_string(x[0]) + "; must start at 0"};
    for (std::int64_t i = 0; i < p.batch; ++i) {
        const std::int64_t length = std::int64_t{x[i + 1]} - x[i];
        if (length < 0) return Error{Code::invalid_argument, name, "decreases at index " + std::to_string(i + 1) + "; must be non-decreasing"};
        if (length > longest) {
            return Error{
                Code::invalid_argument, name,
                "sequence " + std::to_string(i) + " has " + std::to_string(length) + " tokens; at most max_seqlen = " + std::to_string(longest)};
        }
    }
    if (x[p.batch] > tokens) {
        return Error{Code::invalid_argument, name,
                     "ends at " + std::to_string(x[p.batch]) + "; the tensor has " + std::to_string(tokens) + " tokens"};
    }
    return {};
}

}  // namespace

std::vector<Row> rows(const AttentionProblem& p, const AttentionTensors& t, std::int64_t sequence, std::int64_t head,
                      const std::vector<std::int64_t>& queries) {
    const Sequence s = sequence_of(p, t, sequence);
    const std::int64_t kv_head = head / (p.heads / p.kv_heads);
    std::int64_t keys = 0;
    for (std::int64_t i : queries) keys = std::max(keys, visible_keys(p.causal, s, i));
    const std::vector<double> k = decode_keys(t, p, s, sequence, kv_head, keys), v = decode_values(t, p, s, sequence, kv_head, keys);
    std::vector<Row> result;
    for (std::int64_t i : queries) {
        const std::vector<double> q = decode_query(t, p, s, sequence, head, i);
        result.push_back(attend(q, k.data(), v.data(), visible_keys(p.causal, s, i), p.scale));
    }
    return result;
}

Result<void> attention(const AttentionProblem& p, const AttentionTensors& t) {
    if (p.kv_heads <= 0 || p.heads % p.kv_heads != 0) {
        return Error{Code::invalid_argument, "kv_heads", std::to_string(p.kv_heads) + "; must divide heads = " + std::to_string(p.heads)};
    }
    if (p.packed) {
        if (auto r = check_lengths(t.cu_seqlens_q, "cu_seqlens_q", p, p.tokens_q, p.max_seqlen_q); !r) return r;
        if (auto r = check_lengths(t.cu_seqlens_k, "cu_seqlens_k", p, p.tokens_kv, p.max_seqlen_kv); !r) return r;
    }
    // One unit of work is a (sequence, KV head), so that its K and V are decoded once.
    std::atomic<std::int64_t> next{0};
    const auto work = [&] {
        for (std::int64_t unit = next++; unit < p.batch * p.kv_heads; unit = next++) {
            const std::int64_t b = unit / p.kv_heads, kv_head = unit % p.kv_heads, group = p.heads / p.kv_heads;
            const Sequence s = sequence_of(p, t, b);
            const std::int64_t keys = s.q_len > 0 ? s.kv_len : 0;
            const std::vector<double> k = decode_keys(t, p, s, b, kv_head, keys), v = decode_values(t, p, s, b, kv_head, keys);
            for (std::int64_t h = kv_head * group; h < (kv_head + 1) * group; ++h) {
                for (std::int64_t i = 0; i < s.q_len; ++i) {
                    const std::vector<double> q = decode_query(t, p, s, b, h, i);
                    const Row r = attend(q, k.data(), v.data(), visible_keys(p.causal, s, i), p.scale);
                    const std::int64_t first = offset(t.o, p.packed, b, s.q_begin + i, h);
                    for (std::int64_t c = 0; c < p.head_dim; ++c) {
                        store(t.o.dtype, t.o.data, first + c * column_stride(t.o), r.o[static_cast<std::size_t>(c)]);
                    }
                    if (!t.lse.present()) continue;
                    const std::int64_t at = p.packed ? h * t.lse.strides[0] + (s.q_begin + i) * t.lse.strides[1]
                                                     : b * t.lse.strides[0] + h * t.lse.strides[1] + i * t.lse.strides[2];
                    store(DType::f32, t.lse.data, at, r.lse);
                }
            }
        }
    };
    std::vector<std::thread> threads;
    const auto n = std::min<std::int64_t>(std::max(1u, std::thread::hardware_concurrency()), p.batch * p.kv_heads);
    for (std::int64_t i = 1; i < n; ++i) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
    return {};
}

}  // namespace hopfill::oracle

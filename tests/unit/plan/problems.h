// Problems with contiguous tensors.
#pragma once

#include <cmath>

#include "hopfill/attention.h"

namespace hopfill::testing {

inline void fill_strides(AttentionProblem& p) {
    const auto compact = [&p](std::int64_t heads, std::int64_t seq) {
        return Strides{p.packed ? 0 : seq * heads * p.head_dim, heads * p.head_dim, p.head_dim};
    };
    p.q = p.o = compact(p.heads, p.max_seqlen_q);
    p.k = p.v = compact(p.kv_heads, p.max_seqlen_kv);
}

inline AttentionProblem problem(std::int64_t batch, std::int64_t seq, std::int64_t head_dim, bool causal = true, std::int64_t heads = 32) {
    AttentionProblem p;
    p.causal = causal;
    p.batch = batch;
    p.heads = p.kv_heads = heads;
    p.head_dim = head_dim;
    p.max_seqlen_q = p.max_seqlen_kv = seq;
    p.tokens_q = p.tokens_kv = batch * seq;
    p.scale = 1 / std::sqrt(static_cast<double>(head_dim));
    fill_strides(p);
    return p;
}

inline AttentionProblem packed(AttentionProblem p) {
    p.packed = true;
    fill_strides(p);
    return p;
}

// [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens], rows of tokens padded to 16.
inline void transpose_v(AttentionProblem& p) {
    const std::int64_t row = ((p.packed ? p.tokens_kv : p.max_seqlen_kv) + 15) / 16 * 16;
    p.v_transposed = true;
    p.v = {p.packed ? 0 : p.kv_heads * p.head_dim * row, row, p.head_dim * row};
}

}  // namespace hopfill::testing

// K or V to E4M3, on the host.
#pragma once

#include "plan/quantize.h"

namespace hopfill::cpu {

// The problem tells packed, batch, kv_heads, head_dim, tokens_kv and max_seqlen_kv. Errors: cu_seqlens_k that do not rise from 0 to the tokens.
Result<void> quantize(const AttentionProblem& problem, const TensorView& cu_seqlens_k, const planner::QuantizeWork& work);

// lse += scale * q . k_mean for each row, k_mean [batch, kv_heads, head_dim].
void shift_lse(const AttentionProblem& problem, const AttentionTensors& tensors, const float* k_mean);

// Tokens [first, first + n) of one (sequence, KV head).
struct QuantizeRows {
    DType dtype = DType::f32;
    const void* in = nullptr;                            // first token of the sequence
    std::uint8_t* out = nullptr;                         // likewise
    std::int64_t in_seq = 0, out_seq = 0, head_dim = 0;  // strides of tokens; transposed: out_seq of channels
    bool transposed = false;
    const float* mean = nullptr;
};
void add_rows(const QuantizeRows& rows, std::int64_t first, std::int64_t n, float* sum);
void greatest_magnitudes(const QuantizeRows& rows, std::int64_t first, std::int64_t n, float* greatest);
void round_rows(const QuantizeRows& rows, std::int64_t first, std::int64_t n, const float* inverse);

}  // namespace hopfill::cpu

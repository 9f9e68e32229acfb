// The host backend: blocked online softmax, SIMD, all cores.
#pragma once

#include "hopfill/attention.h"

namespace hopfill::cpu {

// Computes on host tensors that agree with the problem (checked by the API). f32, f16, bf16 and e4m3 inputs, the last times their scales; float32
// arithmetic.
// Packed: errors name cu_seqlens_q / cu_seqlens_k when they are not non-decreasing from 0 to the tokens.
Result<void> attention(const AttentionProblem& problem, const AttentionTensors& tensors);

// Whether cu_seqlens rises from 0 to at most `tokens` by steps of at most `longest`. Errors name it.
Result<void> check_lengths(const TensorView& cu, const char* name, std::int64_t batch, std::int64_t tokens, std::int64_t longest);

}  // namespace hopfill::cpu

// The host backend: blocked online softmax, SIMD, all cores.
#pragma once

#include "hopfill/attention.h"

namespace hopfill::cpu {

// Computes on host tensors that agree with the problem (checked by the API). f32, f16, bf16 and e4m3 inputs, the last times their scales; float32
// arithmetic.
// Packed: errors name cu_seqlens_q / cu_seqlens_k when they are not non-decreasing from 0 to the tokens.
Result<void> attention(const AttentionProblem& problem, const AttentionTensors& tensors);

}  // namespace hopfill::cpu

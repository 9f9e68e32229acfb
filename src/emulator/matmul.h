// d[64 x n] += a[64 x k] b[k x n], as the tensor core does it.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill::emulator {

// FP32 accumulation, one product after the other: quick, and near.
void multiply(float* d, const float* a, const float* b, int n, int k);

// The bits of an H100 (evidence/instructions.json, 'sums'; k is one instruction's). The products, exact, and the accumulator are aligned to the
// largest exponent among them, a product's being the sum of its factors'. Each is cut to 25 fraction bits (e4m3: 13), their sum is exact, and is
// cut to FP32 (e4m3: FP32 of 13 fraction bits). Every NaN is 0x7fffffff. For FP8 this is what DeepSeek-V3, section 3.5.2, and SageAttention2,
// section 3.3, found.
void multiply_exactly(float* d, const float* a, const float* b, int n, int k, Elem elem);

}  // namespace hopfill::emulator

// d[64 x n] += a[64 x k] b[k x n], as the tensor core does it.
#pragma once

#include "plan/types.h"

namespace hopfill::emulator {

// FP32 accumulation, one product after the other.
void multiply(float* d, const float* a, const float* b, int n, int k);

// The tensor core's reduced precision for 8-bit inputs: all products of an instruction and the accumulator are aligned to the largest exponent
// among them, cut to 13 fraction bits, summed, and the sum is cut again (measured by DeepSeek-V3, section 3.5.2, and SageAttention2, section 3.3).
void multiply_reduced(float* d, const float* a, const float* b, int n, int k);

}  // namespace hopfill::emulator

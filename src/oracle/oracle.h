// The judge: naive float64 attention that shares no code with any backend.
#pragma once

#include <cstdint>
#include <vector>

#include "hopfill/attention.h"

namespace hopfill::oracle {

// Softmax over all allowed keys in float64 on the inputs as given, FP8 ones times their scales; o is rounded to its dtype once, lse to float32.
// Host tensors, any strides. Errors as the cpu backend's.
Result<void> attention(const AttentionProblem& problem, const AttentionTensors& tensors);

// float64 results of chosen queries of one (sequence, head): for long sequences, where all rows would take too long.
struct Row {
    std::vector<double> o;  // [head_dim]
    double lse = 0;
};
std::vector<Row> rows(const AttentionProblem& problem, const AttentionTensors& tensors, std::int64_t sequence, std::int64_t head,
                      const std::vector<std::int64_t>& queries);

}  // namespace hopfill::oracle

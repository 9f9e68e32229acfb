// What holds for each tensor by itself, and what a scale's shape says.
#pragma once

#include <cstdint>
#include <optional>

#include "hopfill/attention.h"

namespace hopfill {

// Present, of this rank, on this device, with data, extents and strides in range.
Result<void> check_view(const char* name, const TensorView& view, int rank, const Device& device);
Result<void> check_last_stride(const char* name, const TensorView& view);
// view.shape[i] == expected; `why` says what that is: "head_dim of q is needed".
Result<void> check_dimension(const char* name, const TensorView& view, std::size_t i, std::int64_t expected, const char* why);
Result<void> check_contiguous(const char* name, const TensorView& view, DType dtype);

// By the rules of AttentionTensors; of the problem it reads batch, heads, head_dim and the longest sequences. An absent scale is of kind none.
enum class Scaled : std::uint8_t { q, k, v };
Result<ScaleLayout> check_scale(const char* name, const TensorView& view, const AttentionProblem& p, const Device& device, Scaled of,
                                const std::optional<std::int64_t>& scale_block);

}  // namespace hopfill

// Returns the error of an expression that gives one.
#define HOPFILL_CHECK(expression) \
    if (auto checked = (expression); !checked) return checked.error()

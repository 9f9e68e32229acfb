// Shapes and strides of tensor views.
#pragma once

#include <string>

#include "hopfill/tensor.h"

namespace hopfill {

// "[2, 512, 32, 128]"
std::string shape_text(const TensorView& view);

// The view with the strides that mean nothing, those of dimensions that hold at most one index and all of an empty tensor's, replaced by those of a
// compact layout: so that equal layouts compare equal and meet TMA's stride rules.
TensorView canonical(const TensorView& view);

bool is_contiguous(const TensorView& view);

// Whether two elements of the view may share an address. Exact for layouts whose dimensions nest, which is all that occur; others count as
// overlapping.
bool overlaps_itself(const TensorView& view);

// Whether two tensors are known to overlap: contiguous ones by their ranges; others, which may interleave, only when they begin at one address.
bool share_memory(const TensorView& a, const TensorView& b);

}  // namespace hopfill

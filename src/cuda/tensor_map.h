// Tensor maps as the driver encodes them, remembered: encoding costs more than a look-up.
#pragma once

#include "cuda/driver.h"
#include "plan/tensor_map.h"

namespace hopfill::cuda {

// `tensor` names it in errors ("q"). Thread-safe, allocates nothing.
Result<void> encode(const Driver& cu, const TensorMapSpec& spec, const char* tensor, TensorMap& to);

}  // namespace hopfill::cuda

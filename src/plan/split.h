// Jobs which blocks share (KernelConfig::splits): how their parts' results lie in memory. Shared by host and kernels.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

// What a consumer warp leaves of a part of a job: float32, its 16 rows' references, their sums, then their outputs.
constexpr i32 part_sums_bytes() { return 2 * 16 * 4; }
constexpr i32 part_record_bytes(const KernelConfig& c) { return part_sums_bytes() + 16 * c.head_dim * 4; }

}  // namespace hopfill

// The tuning table's kernels, compiled when the bench is built.
#pragma once

#include <string_view>

namespace hopfill::gpu {

std::string_view tuning_catalogue();

}  // namespace hopfill::gpu

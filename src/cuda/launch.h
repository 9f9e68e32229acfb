// Launching, with the choices that plans do not make.
#pragma once

#include "cuda/backend.h"

namespace hopfill::cuda {

struct LaunchOptions {
    bool programmatic = true;  // may start while the launch before it ends: for kernels that call wait_for_previous_launch()
};

Result<void> launch(const planner::LaunchSpec& spec, Stream stream, LaunchOptions options);

}  // namespace hopfill::cuda

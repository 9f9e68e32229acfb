// The quantiser's kernels on host memory.
#pragma once

#include "emulator/emulate.h"
#include "plan/quantize.h"

namespace hopfill::emulator {

Report run(const planner::QuantizeLaunch& launch, const Options& options);

}  // namespace hopfill::emulator

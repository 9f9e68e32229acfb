// The quantiser's kernels on host memory.
#pragma once

#include "emulator/emulate.h"
#include "plan/quantize.h"

namespace hopfill::emulator {

Report run_quantizer(const planner::QuantizeLaunch& launch, const Options& options);

// With another kernel than the launch's config names.
using QuantizeFunction = void (*)(const planner::QuantizeLaunch&);
Report run_kernel(const planner::QuantizeLaunch& launch, QuantizeFunction kernel, const Options& options);

QuantizeFunction quantizer_of(const QuantizeConfig& config);

}  // namespace hopfill::emulator

// From a KernelConfig to machine code.
#pragma once

#include "cuda/kernel_image.h"
#include "cuda/nvrtc.h"
#include "plan/kernel_config.h"
#include "plan/quantize_params.h"

namespace hopfill::cuda {

// What NVRTC is given for a kernel. Errors: internal, when a header is not embedded.
Result<NvrtcProgram> program_for(const KernelConfig& config);
Result<NvrtcProgram> program_for(const QuantizeConfig& config);

// The fixed flags; every kernel is compiled with these and no others, so that keys are comparable.
const std::vector<std::string>& compile_options();

// Digest of everything that the machine code depends on: texts, flags, NVRTC, config.
std::string cache_key(const NvrtcProgram& program, const Nvrtc& nvrtc);

// Compiles and reads the log. Faults are in the image, for the caller to judge. Errors: unavailable, internal.
Result<KernelImage> compile_kernel(const KernelConfig& config);
Result<KernelImage> compile_program(const std::string& name, const NvrtcProgram& program);

}  // namespace hopfill::cuda

// The one-instruction kernels, and kernels that are compiled at first use, as machine code: compiled by hopfill_instruction_kernels, run on a GPU,
// and known by their keys.
#pragma once

#include <map>
#include <string>

#include "cuda/kernel_image.h"
#include "hopfill/result.h"

namespace hopfill::testing {

// By name expression, for every kernel of instruction_cases(); by kernel_name(), those of the planner's and the quantiser's that a GPU run needs and
// no catalogue holds. Errors: unavailable, internal.
using InstructionKernels = std::map<std::string, cuda::KernelImage>;

// Compiles with NVRTC what the user's cache does not hold; `header` is the file instructions.cuh.
Result<InstructionKernels> compile_instruction_kernels(const std::string& header);

// One file of them all. False, or empty, when it cannot be written or read.
bool write_instruction_kernels(const std::string& path, const InstructionKernels& kernels);
InstructionKernels read_instruction_kernels(const std::string& path);

}  // namespace hopfill::testing

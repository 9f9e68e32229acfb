// Memory that a launch needs for as long as it runs: stream-ordered, so that the host waits for nothing.
#pragma once

#include "cuda/driver.h"

namespace hopfill::cuda {

// The pool of the current context, so that the next launches create nothing.
Result<void> reserve_scratch(const Driver& cu, unsigned long long context);

// 256-byte aligned, from now on in the stream's order until release_scratch() there. While the stream is captured the memory is the graph's own, of
// each launch of which it is valid for as long. Thread-safe. Errors: device, naming kScratch.
Result<CUdeviceptr> allocate_scratch(const Driver& cu, unsigned long long context, std::int64_t bytes, CUstream stream);
Result<void> release_scratch(const Driver& cu, CUdeviceptr memory, CUstream stream);

}  // namespace hopfill::cuda

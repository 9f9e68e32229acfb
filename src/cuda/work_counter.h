// Counters that blocks of a launch draw their jobs from. Kernels leave theirs zero, so launches that follow one another on a stream may share one;
// launches that may run at the same time must not.
#pragma once

#include "cuda/driver.h"

namespace hopfill::cuda {

// Room for counters in the current context, so that the next launches allocate nothing (but words for kernels that transpose V once or split jobs, by
// stream).
Result<void> reserve_counters(const Driver& cu, unsigned long long context);

// A zeroed counter for a launch on `stream`: the stream's own, or, while the stream is captured, one for this launch alone, since graphs
// captured on one stream may be replayed on several at once.
Result<CUdeviceptr> work_counter(const Driver& cu, unsigned long long context, CUstream stream);

// Zeroed words, likewise: launches that follow one another on the stream may ask for other numbers of them. An error names kScratch.
Result<CUdeviceptr> counting_words(const Driver& cu, unsigned long long context, CUstream stream, std::size_t words);

}  // namespace hopfill::cuda

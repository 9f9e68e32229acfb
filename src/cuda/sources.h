// The device headers, embedded when the library is built: NVRTC reads these, never files.
#pragma once

#include <string_view>
#include <vector>

#include "hopfill/result.h"

namespace hopfill::cuda {

struct Source {
    const char* name;  // as #include lines say: "prefill/kernel.cuh", "plan/types.h"
    const char* text;
};

const std::vector<Source>& sources();

// `entry` and what it includes, each once, sorted by name. Errors: internal, when a header is not embedded.
Result<std::vector<Source>> include_closure(std::string_view entry);

}  // namespace hopfill::cuda

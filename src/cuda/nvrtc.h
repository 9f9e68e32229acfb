// NVRTC, opened at run time: HOPFILL_NVRTC, one that is already in the process, the Python wheel's, the system's.
#pragma once

#include <string>
#include <vector>

#include "cuda/sources.h"
#include "hopfill/result.h"

namespace hopfill::cuda {

struct NvrtcProgram {
    std::string text;
    std::vector<Source> headers;
    std::vector<std::string> options;
    std::string name_expression;
};

struct NvrtcOutput {
    std::string cubin;
    std::string lowered_name;  // of the name expression: the symbol in the cubin
    std::string log;           // the front end's and ptxas's messages
};

struct Nvrtc {
    std::string version;  // "13.0"
    std::string path;

    [[nodiscard]] Result<NvrtcOutput> compile(const NvrtcProgram& program) const;

    struct Functions;
    const Functions* functions = nullptr;
};

// Opens NVRTC once. Errors: unavailable, saying where it was looked for.
Result<const Nvrtc*> nvrtc();

}  // namespace hopfill::cuda

// The emulator as a backend: runs the kernels of src/kernels, compiled for the host, on one emulated Hopper SM after another.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "plan/launch.h"

namespace hopfill::emulator {

struct Options {
    std::uint64_t seed = 0;       // of every random choice: the same seed repeats a run exactly
    bool exact_sums = true;       // wgmma sums to the tensor core's bits, else in FP32, one term after the other, which is several times as fast
    int resident = 0;             // blocks interleaved; 0 draws 1 to 3 from the seed
    std::uint64_t max_steps = 0;  // a run that takes more scheduling steps is reported as a livelock; 0 is 400 million
};

// A fault that a GPU would have shown as a hang, a wrong result or nothing at all. src/emulator/README.md lists the kinds.
struct Fault {
    std::string kind;  // "deadlock", "race", "read-before-arrival", "overwrite-before-release", "missing-proxy-fence", ...
    std::string text;  // one or more lines: role, warp, barrier or address, phase, source line, seed
};

struct Report {
    std::vector<Fault> faults;  // empty when clean; a run stops at the first
    std::uint64_t steps = 0;    // scheduling steps taken
};

// Runs a launch on host memory. Errors: unsupported when the config is not compiled in.
Result<Report> run(const planner::LaunchSpec& spec, const Options& options);

}  // namespace hopfill::emulator

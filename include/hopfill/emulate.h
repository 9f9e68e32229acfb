// The emulated backend with a chosen schedule.
#pragma once

#include <cstdint>

#include "hopfill/attention.h"

namespace hopfill {

/// What run() does for an emulated plan, with every random choice of the emulator (order of fibers, time at which asynchronous copies and
/// matrix products land) drawn from `seed`: equal seeds repeat a run exactly. Returns the scheduling steps taken.
/// run() itself takes the seed from the environment variable HOPFILL_EMULATOR_SEED, or 0.
/// Errors: as run(); internal, with the emulator's report, when the kernel has a fault.
Result<std::uint64_t> emulate(const Plan& plan, const AttentionTensors& tensors, std::uint64_t seed);

}  // namespace hopfill

// Plans on tensors that have been checked against them.
#pragma once

#include <cstdint>

#include "hopfill/attention.h"

namespace hopfill {

// The view that backends get: strides made canonical (api/layout.h).
AttentionTensors canonical(const AttentionTensors& tensors);

// Whether the tensors are the plan's: layout for layout, and on the kind of device that its backend reads.
Result<void> check_against(const Plan& plan, const AttentionTensors& tensors);

// The second half of that alone: attention() has just made or found the plan for these very tensors.
Result<void> check_device(const Plan& plan, const AttentionTensors& tensors);

// HOPFILL_EMULATOR_SEED, or 0.
Result<std::uint64_t> emulator_seed();

// Runs without checks.
Result<void> dispatch(const Plan& plan, const AttentionTensors& tensors, Stream stream);
Result<std::uint64_t> dispatch_emulated(const Plan& plan, const AttentionTensors& tensors, std::uint64_t seed);

}  // namespace hopfill

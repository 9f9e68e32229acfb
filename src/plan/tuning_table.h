// Candidates that the planner does not choose: built for tuning runs only, never shipped.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

constexpr KernelConfig candidate(i32 head_dim, Mask mask, i32 tile_n, i32 stages, i32 consumers, bool pingpong, bool dynamic, bool packed = false) {
    return {Family::prefill, Elem::bf16, Elem::bf16, mask, head_dim, tile_n, stages, consumers, packed, dynamic, pingpong};
}

constexpr KernelConfig kTuningTable[] = {
    candidate(128, Mask::causal, 128, 2, 2, false, true),
    candidate(128, Mask::causal, 160, 2, 2, true, true),
    candidate(128, Mask::full, 160, 2, 2, true, true),
    candidate(256, Mask::causal, 64, 2, 2, false, true),
    candidate(256, Mask::full, 64, 2, 2, true, true),
    // As the table's, but with Q K^T behind the softmax.
    {Family::prefill_folded, Elem::bf16, Elem::bf16, Mask::causal, 128, 128, 2, 2, false, true, false},
};
constexpr i32 kTuningRows = sizeof(kTuningTable) / sizeof(kTuningTable[0]);

}  // namespace hopfill

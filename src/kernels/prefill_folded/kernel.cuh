// Prefill attention of short causal prompts: jobs that are alike, so that the blocks of a wave end together. See SCHEDULE.md.
#pragma once

#include "prefill/block.cuh"
#include "prefill/producer.cuh"
#include "prefill_folded/consumer_ahead.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_folded_kernel(HOPFILL_GRID_CONSTANT const PrefillParams params) {
    static_assert(C.family == Family::prefill_folded && C.mask == Mask::causal && C.consumers == 2 && !C.pingpong);
    run_block<C, StreamProducer<C>>(params, [&](const Shared<C>& shared, u32 warpgroup) {
        if constexpr (C.ahead)
            AheadConsumer<C>(params, shared, warpgroup).run();
        else
            FoldedConsumer<C>(params, shared, warpgroup).run();
    });
}

}  // namespace hopfill

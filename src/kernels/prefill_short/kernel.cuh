// Prefill attention of short prompts: jobs of 64 query rows whose KV blocks two warpgroups split, so that a prompt's work spreads evenly over
// one wave of blocks. See SCHEDULE.md.
#pragma once

#include "prefill/block.cuh"
#include "prefill_short/consumer.cuh"
#include "prefill_short/producer.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_short_kernel(HOPFILL_GRID_CONSTANT const PrefillParams params) {
    static_assert(C.family == Family::prefill_short && C.consumers == 2 && !C.pingpong);
    run_block<C, SplitProducer<C>>(params, [&](const Shared<C>& shared, u32 warpgroup) { SplitConsumer<C>(params, shared, warpgroup).run(); });
}

}  // namespace hopfill

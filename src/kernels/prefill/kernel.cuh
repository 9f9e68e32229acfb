// Prefill attention, the main family: a warp that loads, one that finds the next job, and two or three consumer warpgroups a block, one block an
// SM, jobs until none is left.
#pragma once

#include "prefill/block.cuh"
#include "prefill/consumer.cuh"
#include "prefill/scheduler.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_kernel(HOPFILL_GRID_CONSTANT const typename ParamsFor<C.splits>::Type params) {
    static_assert(C.tile_n % 16 == 0 && C.head_dim % 16 == 0);
    run_block<C, Loader<C>>(
        params,
        [&](const Shared<C>& shared, u32 warp) {
            if (warp == 1) Scheduler<C>(params, shared).run();
        },
        [&](const Shared<C>& shared, u32 warpgroup) { Consumer<C>(params, shared, warpgroup).run(); });
}

}  // namespace hopfill

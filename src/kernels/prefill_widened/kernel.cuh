// Prefill attention with 16-bit Q on e4m3 K and V, of which the launch before made 16-bit copies (quantize/widen.cuh): the prefill family, with their
// multipliers. See SCHEDULE.md.
#pragma once

#include "prefill/block.cuh"
#include "prefill/consumer.cuh"
#include "prefill/scheduler.cuh"
#include "prefill_widened/scales.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_widened_kernel(HOPFILL_GRID_CONSTANT const PrefillFp8Params params) {
    static_assert(C.family == Family::prefill_widened && C.tile_n % 16 == 0 && C.head_dim % 16 == 0);
    run_block<C, Loader<C>>(
        params,
        [&](const Shared<C>& shared, u32 warp) {
            if (warp == 1) Scheduler<C>(params, shared).run();
        },
        [&](const Shared<C>& shared, u32 warpgroup) { Consumer<C, WidenedScales<C>>(params, shared, warpgroup).run(); });
}

}  // namespace hopfill

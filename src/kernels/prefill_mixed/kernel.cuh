// Prefill attention with 16-bit Q on e4m3 K and V: one producer warp, three warps that convert K and V and two consumer warpgroups a block, one block
// an SM. The consumers are the prefill family's. See SCHEDULE.md.
#pragma once

#include "prefill/block.cuh"
#include "prefill/consumer.cuh"
#include "prefill/producer.cuh"
#include "prefill_mixed/convert.cuh"
#include "prefill_mixed/scales.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_mixed_kernel(HOPFILL_GRID_CONSTANT const PrefillFp8Params params) {
    static_assert(C.family == Family::prefill_mixed && C.consumers == 2);
    run_block<C, StreamProducer<C>>(
        params, [&](const Shared<C>& shared, u32 warp) { Converter<C>(shared, static_cast<i32>(warp) - 1).run(); },
        [&](const Shared<C>& shared, u32 warpgroup) { Consumer<C, MixedScales<C>>(params, shared, warpgroup).run(); });
}

}  // namespace hopfill

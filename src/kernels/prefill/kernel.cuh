// Prefill attention, the main family: one producer warp and two or three consumer warpgroups a block, one block an SM, jobs until none is left.
#pragma once

#include "prefill/block.cuh"
#include "prefill/consumer.cuh"
#include "prefill/producer.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_kernel(HOPFILL_GRID_CONSTANT const PrefillParams params) {
    static_assert(C.tile_n % 16 == 0 && C.head_dim % 16 == 0);
    run_block<C, StreamProducer<C>>(params, [&](const Shared<C>& shared, u32 warpgroup) { Consumer<C>(params, shared, warpgroup).run(); });
}

}  // namespace hopfill

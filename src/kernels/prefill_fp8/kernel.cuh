// Prefill attention on e4m3: one producer warp, three warps that transpose V (or fewer, where it comes transposed) and two or three consumer
// warpgroups a block, one block an SM.
#pragma once

#include "prefill/block.cuh"
#include "prefill/producer.cuh"
#include "prefill_fp8/consumer.cuh"
#include "prefill_fp8/consumer_folded.cuh"
#include "prefill_fp8/consumer_three.cuh"
#include "prefill_fp8/consumer_wide.cuh"
#include "prefill_fp8/transpose.cuh"
#include "prefill_fp8/turner.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_fp8_kernel(HOPFILL_GRID_CONSTANT const typename Fp8ParamsFor<C.v_transposed, C.v_turned, C.splits>::Type params) {
    static_assert(C.elem == Elem::e4m3 && C.tile_n % 64 == 0 && C.head_dim % 64 == 0 && (C.consumers == 2 || C.consumers == 3));
    // Its pieces lie where other kernels have P.
    static_assert(!C.v_turned || (C.scale_block == 0 && !C.packed && p_bytes(C) == 0));
    run_block<C, StreamProducer<C, DescribeScales<C>>>(
        params,
        [&](const Shared<C>& shared, u32 warp) {
            constexpr u32 kTransposers = Shared<C>::transposers();
            if constexpr (C.v_turned) {
                Turner<C>(params, shared, warp - 1).run();
            } else if (kTransposers == 3 || warp <= kTransposers) {
                sm90::wait_for_previous_launch();
                Transposer<C>(params, shared, static_cast<i32>(warp) - 1).run();
            }
        },
        [&](const Shared<C>& shared, u32 warpgroup) {
            if constexpr (is_folded(C.family))
                Fp8FoldedConsumer<C>(params, shared, warpgroup).run();
            else if constexpr (C.consumers == 3)
                Fp8ConsumerOfThree<C>(params, shared, warpgroup).run();
            else if constexpr (C.head_dim <= 128)
                Fp8Consumer<C>(params, shared, warpgroup).run();
            else
                Fp8WideConsumer<C>(params, shared, warpgroup).run();
        });
}

}  // namespace hopfill

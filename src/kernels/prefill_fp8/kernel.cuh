// Prefill attention on e4m3: one producer warp, three warps that transpose V (or fewer, of V given transposed) and two or three consumer warpgroups a
// block, one block an SM.
#pragma once

#include "prefill/producer.cuh"
#include "prefill_fp8/consumer.cuh"
#include "prefill_fp8/consumer_three.cuh"
#include "prefill_fp8/consumer_wide.cuh"
#include "prefill_fp8/transpose.cuh"
#include "sm90/regs.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_fp8_kernel(HOPFILL_GRID_CONSTANT const typename Fp8ParamsFor<C.v_transposed>::Type params) {
    static_assert(geometry(C).total <= kSharedLimit && geometry(C).o_staged > 0);
    static_assert(C.elem == Elem::e4m3 && C.tile_n % 64 == 0 && C.head_dim % 64 == 0 && (C.consumers == 2 || C.consumers == 3));
    const Shared<C> shared{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (warp < 4) {
        // 128 * (40 + 2 * 232) = 64,512 registers, what 384 threads launch with; 128 * (32 + 3 * 160) = 65,536, what 512 do.
        sm90::give_registers<C.consumers == 2 ? 40 : 32>();
        if (warp == 0) {
            if (sm90::elect_one()) {
                sm90::tma_prefetch_map(&params.q);
                sm90::tma_prefetch_map(&params.k);
                sm90::tma_prefetch_map(&params.v);
                if constexpr (C.v_transposed) sm90::tma_prefetch_map(C.packed ? &params.v_edge : &params.k_odd);
                shared.init_barriers();
                sm90::tma_prefetch_map(&params.o);
            }
            sm90::sync_warp();
            StreamProducer<C> producer(params, shared);
            producer.begin();
            sm90::sync_block();
            producer.run();
        } else {
            sm90::let_next_launch_start();
            sm90::sync_block();
            constexpr u32 kTransposers = Shared<C>::transposers();
            if (kTransposers == 3 || warp <= kTransposers) {
                sm90::wait_for_previous_launch();
                Transposer<C>(params, shared, static_cast<i32>(warp) - 1).run();
            }
        }
    } else {
        sm90::take_registers<C.consumers == 2 ? 232 : 160>();
        sm90::sync_block();
        sm90::wait_for_previous_launch();
        if constexpr (C.consumers == 3)
            Fp8ConsumerOfThree<C>(params, shared, warp / 4 - 1).run();
        else if constexpr (C.head_dim <= 128)
            Fp8Consumer<C>(params, shared, warp / 4 - 1).run();
        else
            Fp8WideConsumer<C>(params, shared, warp / 4 - 1).run();
    }
}

}  // namespace hopfill

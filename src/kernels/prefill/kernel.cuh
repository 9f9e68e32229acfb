// Prefill attention, the main family: one producer warp and two or three consumer warpgroups a block, one block an SM, jobs until none is left.
#pragma once

#include "prefill/consumer.cuh"
#include "prefill/producer.cuh"
#include "sm90/regs.cuh"

namespace hopfill {

// Registers after the hand-over. 65,536 an SM: 384 threads launch with 168 each, 512 with 128; the sums below stay within that
// (128 * (40 + 2 * 232) = 64,512; 128 * (32 + 3 * 160) = 65,536), or setmaxnreg would wait forever.
constexpr u32 producer_registers(i32 consumers) { return consumers == 1 ? 56 : consumers == 2 ? 40 : 32; }
constexpr u32 consumer_registers(i32 consumers) { return consumers == 1 ? 256 : consumers == 2 ? 232 : 160; }

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_kernel(HOPFILL_GRID_CONSTANT const PrefillParams params) {
    static_assert(geometry(C).total <= kSharedLimit && geometry(C).o_staged > 0);
    static_assert(C.tile_n % 16 == 0 && C.head_dim % 16 == 0);
    const Shared<C> shared{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (warp < 4) {
        sm90::give_registers<producer_registers(C.consumers)>();
        if (warp == 0) {
            if (sm90::elect_one()) {
                sm90::tma_prefetch_map(&params.q);
                sm90::tma_prefetch_map(&params.k);
                sm90::tma_prefetch_map(&params.v);
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
        }
    } else {
        sm90::take_registers<consumer_registers(C.consumers)>();
        sm90::sync_block();
        sm90::wait_for_previous_launch();
        Consumer<C>(params, shared, warp / 4 - 1).run();
    }
}

}  // namespace hopfill

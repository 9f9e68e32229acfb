// What a block of every prefill family does: barriers set up, registers handed over, the producer's warpgroup and the consumer warpgroups
// started.
#pragma once

#include "prefill/shared.cuh"
#include "sm90/regs.cuh"
#include "sm90/tma.cuh"

namespace hopfill {

// Whose consumers need more registers than the producers of 16-bit kernels up to hd128 spare. (Those have 56 since one warp did what two do now.)
constexpr bool wide_consumers(const KernelConfig& c) {
    return c.consumers == 2 && (c.head_dim > 192 || (c.family != Family::prefill && !repeats_jobs(c)));
}

// Registers after the hand-over. Of 384 threads, which launch with 168 each, and of 512, which launch with 128, the sums must stay within what was
// launched (128 * (56 + 2 * 224) = 128 * (40 + 2 * 232) = 384 * 168, 128 * (32 + 3 * 160) = 512 * 128), or setmaxnreg would wait forever.
constexpr u32 producer_registers(const KernelConfig& c) { return c.consumers == 3 ? 32 : wide_consumers(c) ? 40 : 56; }
constexpr u32 consumer_registers(const KernelConfig& c) { return c.consumers == 3 ? 160 : c.consumers == 1 ? 256 : wide_consumers(c) ? 232 : 224; }

// help(shared, warp) is what warps 1 to 3 do beside the one that loads, consume(shared, warpgroup) what a consumer warpgroup does, counted from 0.
template <KernelConfig C, class Producer, class Params, class Help, class Consume>
HOPFILL_INLINE void run_block(const Params& params, Help help, Consume consume) {
    static_assert(geometry(C).total <= kSharedLimit && geometry(C).o_staged > 0);
    const Shared<C> shared{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (warp < 4) {
        sm90::give_registers<producer_registers(C)>();
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
            Producer producer(params, shared);
            producer.begin();
            sm90::sync_block();
            producer.run();
        } else {
            sm90::let_next_launch_start();
            if constexpr (sums_by_products(C)) shared.write_ones(warp - 1, 3);
            sm90::sync_block();
            help(shared, warp);
        }
    } else {
        sm90::take_registers<consumer_registers(C)>();
        sm90::sync_block();
        sm90::wait_for_previous_launch();
        consume(shared, warp / 4 - 1);
    }
}

// Where the producer needs no help.
template <KernelConfig C, class Producer, class Params, class Consume>
HOPFILL_INLINE void run_block(const Params& params, Consume consume) {
    run_block<C, Producer>(params, [](const Shared<C>&, u32) {}, consume);
}

}  // namespace hopfill

// Prefill attention with 16-bit Q on e4m3 K and V: one producer warp, three warps that convert K and V and two consumer warpgroups a block, one block
// an SM. The consumers are the prefill family's. See SCHEDULE.md.
#pragma once

#include "prefill/consumer.cuh"
#include "prefill/producer.cuh"
#include "prefill_mixed/convert.cuh"
#include "prefill_mixed/scales.cuh"
#include "sm90/regs.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_mixed_kernel(HOPFILL_GRID_CONSTANT const PrefillFp8Params params) {
    static_assert(C.family == Family::prefill_mixed && C.consumers == 2);
    static_assert(geometry(C).total <= kSharedLimit && geometry(C).o_staged > 0);
    const Shared<C> shared{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (warp < 4) {
        // 128 * (40 + 2 * 232) = 64,512 registers, what 384 threads launch with.
        sm90::give_registers<40>();
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
            Converter<C>(shared, static_cast<i32>(warp) - 1).run();
        }
    } else {
        sm90::take_registers<232>();
        sm90::sync_block();
        sm90::wait_for_previous_launch();
        Consumer<C, MixedScales<C>>(params, shared, warp / 4 - 1).run();
    }
}

}  // namespace hopfill

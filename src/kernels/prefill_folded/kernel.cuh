// Prefill attention of short causal prompts: jobs that are alike, so that the blocks of a wave end together. See SCHEDULE.md.
#pragma once

#include "prefill_folded/consumer.cuh"
#include "prefill/producer.cuh"
#include "sm90/regs.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_KERNEL(geometry(C).threads)
void prefill_folded_kernel(HOPFILL_GRID_CONSTANT const PrefillParams params) {
    static_assert(C.family == Family::prefill_folded && C.mask == Mask::causal && C.consumers == 2 && !C.pingpong);
    static_assert(geometry(C).total <= kSharedLimit && geometry(C).o_staged > 0);
    const Shared<C> shared{sm90::shared_memory()};
    const u32 warp = sm90::warp_uniform(sm90::thread_index() / 32);
    if (warp < 4) {
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
        }
    } else {
        sm90::take_registers<232>();
        sm90::sync_block();
        sm90::wait_for_previous_launch();
        FoldedConsumer<C>(params, shared, warp / 4 - 1).run();
    }
}

}  // namespace hopfill

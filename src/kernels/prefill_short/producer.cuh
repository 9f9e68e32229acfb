// The producer warp of the short family: blocks go round robin to the warpgroups' own rings, K of a round before V of it.
#pragma once

#include "prefill/producer.cuh"

namespace hopfill {

template <KernelConfig C>
struct SplitProducer : Producer<C> {
    using Base = Producer<C>;
    using Blocks = typename Base::Blocks;

    HOPFILL_INLINE SplitProducer(const PrefillParams& p, Shared<C> s) : Base(p, s) {}

    struct Rings {
        Ring<C.stages> k, v;
        HOPFILL_INLINE Rings(const Shared<C>& s, u32 ring) : k(s.k_full(ring), s.k_empty(ring)), v(s.v_full(ring), s.v_empty(ring)) {}
    };

    HOPFILL_INLINE void load_k(u32 ring, i32 n) {
        if (n < blocks.first) return;
        Ring<C.stages>& k = ring == 0 ? even.k : odd.k;
        this->load_block(k, this->shared.k(ring, k.slot), &this->params.k, blocks, n);
    }
    HOPFILL_INLINE void load_v(u32 ring, i32 n) {
        if (n < blocks.first) return;
        Ring<C.stages>& v = ring == 0 ? even.v : odd.v;
        this->load_block(v, this->shared.v(ring, v.slot), &this->params.v, blocks, n);
    }

    // The whole warp, before the block's first barrier.
    HOPFILL_INLINE void begin() {
        if constexpr (C.packed) sm90::wait_for_previous_launch();
        some = this->decode(source.next, job, blocks);
        if constexpr (!C.packed) sm90::wait_for_previous_launch();
        if (some && leader) open();
    }

    // The whole warp, after it. Warpgroup w takes blocks last - w, last - w - 2, ...
    HOPFILL_INLINE void run() {
        while (some) {
            if (leader) {
                for (i32 n = blocks.last; n >= blocks.first; n -= 2) {
                    if (n != blocks.last) {
                        load_k(0, n);
                        load_k(1, n - 1);
                    }
                    load_v(0, n);
                    load_v(1, n - 1);
                }
                source.start_draw();
            }
            sm90::sync_warp();
            source.finish_draw(leader);
            some = this->decode(source.next, job, blocks);
            if (some && leader) open();
        }
        source.finish();
        if (leader) this->publish_end();
    }

private:
    bool leader = sm90::elect_one();
    bool some = false;
    JobSource<C> source{this->params};
    Rings even{this->shared, 0}, odd{this->shared, 1};
    Job job;
    Blocks blocks;

    HOPFILL_INLINE void open() {
        static_assert(C.consumers == 2);
        this->publish(job);
        this->load_q(job);
        load_k(0, blocks.last);
        load_k(1, blocks.last - 1);
    }
};

}  // namespace hopfill

// A consumer warpgroup of the folded family: 64 query rows of each job, near the end of a prompt or near its start, against the KV blocks that they
// see. See SCHEDULE.md.
#pragma once

#include "prefill/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct FoldedConsumer : Mainloop<C> {
    using Base = Mainloop<C>;
    using Base::k, Base::v, Base::q, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::wait_turn, Base::pass_turn, Base::release;

    HOPFILL_INLINE FoldedConsumer(const PrefillParams& p, Shared<C> s, u32 w) : Base(p, s, w, w, 0) {}

    // A block that only the other warpgroup's rows see. It is waited for, so that no phase of its barriers is left out; by all lanes, before one
    // releases it and the phase may end.
    HOPFILL_INLINE void skip_block() {
        k.wait_full();
        sm90::sync_warp();
        release(k);
        v.wait_full();
        sm90::sync_warp();
        release(v);
    }

    HOPFILL_INLINE void attend(u32 slot, float (&o)[kD / 2], Softmax& softmax) {
        const Job* job = shared.job(slot);
        const i32 q_len = sm90::load_shared(&job->q_len), kv_len = sm90::load_shared(&job->kv_len);
        const i32 row0 = folded_row(sm90::load_shared(&job->row0), q_len, warpgroup);
        const KvRange range = kv_range(C, row0, kRowsPerWarpgroup, q_len, kv_len);
        const i32 blocks = sm90::load_shared(&job->blocks);
        i32 limit[2];
        this->row_limits(job, limit);
        i32 n = blocks - 1;
        const i32 mine = row0 < q_len ? range.end : 0;
        // Before the skips: the job's V[0] is loaded after the next job's queries, which want this slot.
        if (mine == 0) {
            q.wait_full();
            sm90::sync_warp();
            this->release_q();
        }
#pragma unroll 1
        for (; n >= mine; --n) skip_block();
        if (n < 0) return;
        u32 p[kN / 16][4];
        float rescale[2] = {1.0f, 1.0f};
        this->first_block(job, n, p, softmax, limit);
#pragma unroll 1
        for (--n; n >= range.unmasked; --n) this->template step<true>(o, p, softmax, rescale, n, limit);
#pragma unroll 1
        for (; n >= 0; --n) this->template step<false>(o, p, softmax, rescale, n, limit);
        this->release_q();
        this->rescale_last(o, rescale);
        v.wait_full();
        sm90::wgmma_fence();
        this->multiply_pv(o, p);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        release(v);
    }

    HOPFILL_INLINE void run() {
        u32 slot;
#pragma unroll 1
        while (this->next_job(slot)) {
            float o[kD / 2];
            Softmax softmax;
            this->zero(o);
            attend(slot, o, softmax);
            float inverse[2];
            this->finish_sums(slot, softmax, inverse);
            this->finish_job(slot, o, inverse);
        }
        finish_stores<C>();
    }
};

}  // namespace hopfill

// A consumer warpgroup on e4m3 whose rows are near the end of a short prompt or near its start, as prefill_folded/consumer.cuh has it. Jobs do not
// overlap.
#pragma once

#include "prefill_fp8/consumer.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8FoldedConsumer : Fp8Consumer<C> {
    using Base = Fp8Consumer<C>;
    using Base::number, Base::taken, Base::shared, Base::params, Base::warpgroup, Base::softmax, Base::scales, Base::kN, Base::kD;
    using Base::release_q, Base::wait_job, Base::columns;

    HOPFILL_INLINE Fp8FoldedConsumer(const PrefillFp8Params& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    // A block that only the other warpgroup's rows see: waited for by all lanes, so that no phase is left out, before one releases it.
    HOPFILL_INLINE void skip_block() {
        this->wait_k();
        sm90::sync_warp();
        this->release_k();
        this->wait_v(taken - 1);
        sm90::sync_warp();
        this->release_v(taken - 1);
    }

    // The job whose every Q K^T is complete.
    HOPFILL_INLINE const Job* finished() const { return shared.job((number - 1) % kJobSlots); }

    // One job: its outputs, and what they are to be multiplied with.
    HOPFILL_INLINE void attend(float (&o)[kD / 2], float (&inverse)[2]) {
        const Job* const job = this->job();
        const i32 q_len = sm90::load_shared(&job->q_len), kv_len = sm90::load_shared(&job->kv_len);
        const i32 row0 = folded_row(sm90::load_shared(&job->row0), q_len, warpgroup);
        const KvRange range = kv_range(C, row0, kRowsPerWarpgroup, q_len, kv_len);
        const i32 mine = row0 < q_len ? range.end : 0;
        i32 n = sm90::load_shared(&job->blocks) - 1;
        this->zero(o);
        if (mine == 0) {
            // Before the skips: the job's last V is loaded after the next job's queries, which want this slot.
            softmax.reset();
            this->wait_q();
            sm90::sync_warp();
            release_q();
        }
#pragma unroll 1
        for (; n >= mine; --n) skip_block();
        if (n < 0) {
            this->finish_sums(finished(), softmax, softmax.reference, 0.0f, inverse);
            return;
        }
        u32 p[kN / 32][4];
        const i32 limit = this->visible(job);
        this->first_block(n, p);
#pragma unroll 1
        for (--n; n >= range.unmasked; --n) this->template step<true>(o, p, n, limit);
#pragma unroll 1
        for (; n >= 0; --n) this->template step<false>(o, p, n);
        release_q();
        float t[columns() / 2];
        this->wait_v(taken - 1);
        sm90::wgmma_fence();
        this->template multiply_pv<columns()>(t, p, taken - 1, 0);
        this->collect(o, t, taken - 1);
        this->finish_sums(finished(), softmax, softmax.reference, scales.output(finished()), inverse);
    }

    HOPFILL_INLINE void run() {
#pragma unroll 1
        while (wait_job()) {
            float o[kD / 2], inverse[2];
            attend(o, inverse);
            this->finish_job((number - 1) % kJobSlots, o, inverse);
        }
        finish_stores<C>();
    }
};

}  // namespace hopfill

// A consumer warpgroup of the short family. Two warpgroups share a job's 64 query rows and take its KV blocks in turn, so that the longest job
// of a short prompt takes half the time; warpgroup 0 merges the partial results (as split-KV decoding does, inside one block) and stores.
#pragma once

#include "prefill/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct SplitConsumer : Mainloop<C> {
    using Base = Mainloop<C>;
    using Base::k, Base::v, Base::q, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;

    HOPFILL_INLINE SplitConsumer(const PrefillParams& p, Shared<C> s, u32 w) : Base(p, s, w, 0, w) {}

    // This warpgroup's blocks of a job: n, n - 2, ... down to 0 or 1. The queries are released after the last Q K^T.
    HOPFILL_INLINE void attend(u32 slot, i32 n, float (&o)[kD / 2], Softmax& softmax) {
        u32 p[kN / 16][4];
        i32 limit[2];
        this->row_limits(shared.job(slot), limit);
        const i32 unmasked = sm90::load_shared(&shared.job(slot)->unmasked);
        float rescale[2] = {1.0f, 1.0f};
        this->first_block(shared.job(slot), n, p, softmax, limit);
#pragma unroll 1
        for (n -= 2; n >= unmasked; n -= 2) this->template step<true>(o, p, softmax, rescale, n, limit);
#pragma unroll 1
        for (; n >= 0; n -= 2) this->template step<false>(o, p, softmax, rescale, n, limit);
        this->release_q();
        this->rescale_last(o, rescale);
        v.wait_full();
        sm90::wgmma_fence();
        this->multiply_pv(o, p);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        this->release(v);
    }

    // Partial results lie as [value / 4][thread][value % 4], so that each access of a warp is one row of 512 bytes. Both warpgroups hold the same
    // elements in the same threads: what is written by a thread is read by its counterpart alone.
    HOPFILL_INLINE float* partial() const { return shared.merge(1) + sm90::thread_index() % 128 * 4; }

    HOPFILL_INLINE void write_partial(const float (&o)[kD / 2], const Softmax& softmax) const {
        float* to = partial();
#pragma unroll
        for (i32 i = 0; i < kD / 2; i += 4) sm90::store_shared4(to + i * 128, o[i], o[i + 1], o[i + 2], o[i + 3]);
        sm90::store_shared4(to + kD / 2 * 128, softmax.reference[0], softmax.reference[1], softmax.sum[0], softmax.sum[1]);
    }

    // Both sides are taken to the higher of the two references (FlashAttention-2, section 3.1: merging blocks).
    HOPFILL_INLINE void merge_partial(float (&o)[kD / 2], Softmax& softmax) const {
        const float* from = partial();
        float other[4];
        sm90::load_shared4(from + kD / 2 * 128, other);
        float mine[2], theirs[2];
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            const float raised = sm90::max_float(softmax.reference[h], other[h]);
            const float used = raised == -sm90::infinity() ? 0.0f : raised;
            mine[h] = sm90::exp2_approx(softmax.reference[h] - used);
            theirs[h] = sm90::exp2_approx(other[h] - used);
            softmax.reference[h] = raised;
            softmax.sum[h] = softmax.sum[h] * mine[h] + other[2 + h] * theirs[h];
        }
#pragma unroll
        for (i32 i = 0; i < kD / 2; i += 4) {
            float part[4];
            sm90::load_shared4(from + i * 128, part);
#pragma unroll
            for (i32 j = 0; j < 4; ++j) o[i + j] = o[i + j] * mine[fragment_half(j)] + part[j] * theirs[fragment_half(j)];
        }
    }

    HOPFILL_INLINE void run() {
        Ring<1> merge(shared.merge_full(1), shared.merge_empty(1));
        u32 slot;
#pragma unroll 1
        while (this->next_job(slot)) {
            float o[kD / 2];
            Softmax softmax;
            this->zero(o);
            const i32 blocks = sm90::load_shared(&shared.job(slot)->blocks);
            const bool mine = blocks > static_cast<i32>(warpgroup);  // a job of one block is warpgroup 0's alone
            if (mine) {
                attend(slot, blocks - 1 - warpgroup, o, softmax);
            } else {
                // Waiting keeps this warpgroup from releasing a slot's next turn before the other has released this one.
                q.wait_full();
                sm90::sync_warp();
                this->release_q();
            }
            if (warpgroup == 0) {
                if (blocks > 1) {
                    merge.wait_full();
                    merge_partial(o, softmax);
                    sm90::sync_warp();
                    this->release(merge);
                }
                float inverse[2];
                this->finish_sums(slot, softmax, inverse);
                this->finish_job(slot, o, inverse);
            } else {
                // All lanes have read the job: the products, or the warp's barrier above, wait for them.
                if (this->warp_leader()) sm90::mbarrier_arrive(this->jobs.empty + slot);
                if (mine) {
                    merge.wait_empty();
                    write_partial(o, softmax);
                    sm90::sync_warp();
                    if (this->warp_leader()) sm90::mbarrier_arrive(merge.full_barrier());
                    merge.advance();
                }
            }
        }
        if (warpgroup == 0 && sm90::thread_index() % 128 == 0) sm90::tma_store_wait_read<0>();
    }
};

}  // namespace hopfill

// A consumer warpgroup of the folded family whose Q K^T of block n - 1 runs beside the softmax of block n. See SCHEDULE.md.
#pragma once

#include "prefill_folded/consumer.cuh"
#include "prefill_folded/store.cuh"

namespace hopfill {

template <KernelConfig C>
struct AheadConsumer : FoldedConsumer<C> {
    using Base = FoldedConsumer<C>;
    using Base::k, Base::v, Base::q, Base::shared, Base::params, Base::warpgroup, Base::jobs, Base::kN, Base::kD;
    using Base::multiply_qk, Base::release, Base::warp_leader, Base::first_key;
    using Logits = float[kN / 2];

    // Logits, exponentials, P and O together are more than a thread has: P V is complete, and P's registers are free, before the next Q K^T is asked
    // for.
    static constexpr bool kOneProduct = kN + kN / 4 + kD / 2 > 192;
    // K[last - 1] is asked for before the queries that warpgroup 1 waits for: it needs a slot of its own, or neither would come.
    static_assert(kOneProduct && C.stages >= 2 && kD <= 128);

    HOPFILL_INLINE AheadConsumer(const PrefillParams& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    HOPFILL_INLINE void find_operands(u64& queries, u64& keys) const {
        queries = this->q_descriptor();
        keys = this->k_descriptor();
    }
    HOPFILL_INLINE void complete_qk(Logits& s) {
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        release(k);
    }

    // The first block, n, and behind it Q K^T of the next one, if there is one, to `next`.
    template <i32 N, bool More>
    HOPFILL_INLINE void begin(i32 n, Logits& next, u32 (&p)[kN / 16][4], Softmax& softmax, const i32 (&limit)[2]) {
        float s[N / 2];
        q.wait_full();
        k.wait_full();
        sm90::wgmma_fence();
        this->template multiply_qk<N>(s);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        release(k);
        softmax.reset();
        mask_block<C, N>(s, first_key(n), limit);
        float e[N / 2], used[2], rescale[2];
        softmax.template raise_to_maxima<N>(s, params.scale_log2, used, rescale);
        softmax.template exponents<N>(s, e, params.scale_log2, used, 0);
        softmax.template exponentials<N>(e, 0);
        // The next block may still be on its way; the tensor core has as long as the other row takes.
        sm90::compute_before_wait(softmax.sum[0]);
        if constexpr (More) {
            k.wait_full();
            sm90::wgmma_fence();
            multiply_qk(next);
        }
        softmax.template exponents<N>(s, e, params.scale_log2, used, 1);
        softmax.template exponentials<N>(e, 1);
        pack_fragments<C.elem, N, kN>(e, p);
        if constexpr (More) {
            sm90::compute_before_wait(softmax.sum[1]);
            complete_qk(next);
        }
    }
    template <bool More>
    HOPFILL_INLINE void begin(const Job* job, i32 n, Logits& next, u32 (&p)[kN / 16][4], Softmax& softmax, const i32 (&limit)[2]) {
        if constexpr (Base::kHalves) {
            if (this->half_hidden(job, n)) return begin<kN / 2, More>(n, next, p, softmax, limit);
        }
        begin<kN, More>(n, next, p, softmax, limit);
    }

    // P V of block n + 1, the softmax of block n, whose logits `s` are complete, and Q K^T of the block before it, if there is one, to the same
    // registers as soon as exponents have left them. Leaves P of block n, and outputs that are multiplied with what its maxima ask for.
    template <bool More>
    HOPFILL_INLINE void step(float (&o)[kD / 2], u32 (&p)[kN / 16][4], Logits& s, Softmax& softmax, i32 n, i32 unmasked, const i32 (&limit)[2]) {
        v.wait_full();
        sm90::wgmma_fence();
        this->multiply_pv(o, p);
        if (n >= unmasked) mask_block<C>(s, first_key(n), limit);
        float used[2], rescale[2];
        softmax.template raise_to_maxima<kN>(s, params.scale_log2, used, rescale);
        Logits e;
        softmax.template exponents<kN>(s, e, params.scale_log2, used, 0);
        softmax.template exponentials<kN>(e, 0);
        sm90::compute_before_wait(softmax.sum[0]);
        // Between P V and Q K^T the tensor core waits: for as little as there are registers for.
        u64 queries = 0, keys = 0;
        if constexpr (More) find_operands(queries, keys);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        if constexpr (More) k.wait_full();
        softmax.template exponents<kN>(s, e, params.scale_log2, used, 1);
        if constexpr (More) {
            sm90::wgmma_fence();
            this->template multiply_rows<kN>(s, queries, keys);
            sm90::wgmma_commit();
        }
        release(v);
        softmax.template exponentials<kN>(e, 1);
        pack_fragments<C.elem, kN>(e, p);
        this->rescale_rows(o, rescale);
        if constexpr (More) {
            sm90::compute_before_wait(softmax.sum[1]);
            complete_qk(s);
        }
    }

    // All of a job but its last P V, which is left in p. False where there is none.
    HOPFILL_INLINE bool attend(const Job* job, float (&o)[kD / 2], u32 (&p)[kN / 16][4], Softmax& softmax) {
        const i32 q_len = sm90::load_shared(&job->q_len), kv_len = sm90::load_shared(&job->kv_len);
        const i32 row0 = folded_row(sm90::load_shared(&job->row0), q_len, warpgroup);
        const KvRange range = kv_range(C, row0, kRowsPerWarpgroup, q_len, kv_len);
        const i32 mine = row0 < q_len ? range.end : 0;
        i32 n = sm90::load_shared(&job->blocks) - 1;
        i32 limit[2];
        this->row_limits(job, limit);
        // Before the skips: the job's V[0] is loaded after the next job's queries, which want this slot.
        if (mine == 0) {
            q.wait_full();
            sm90::sync_warp();
            this->release_q();
        }
#pragma unroll 1
        for (; n >= mine; --n) this->skip_block();
        if (n < 0) return false;
        Logits s;
        if (n == 0) {
            begin<false>(job, n, s, p, softmax, limit);
        } else {
            begin<true>(job, n, s, p, softmax, limit);
#pragma unroll 1
            while (--n > 0) step<true>(o, p, s, softmax, n, range.unmasked, limit);
            step<false>(o, p, s, softmax, n, range.unmasked, limit);
        }
        this->release_q();
        return true;
    }

    HOPFILL_INLINE void run() {
        u32 slot;
#pragma unroll 1
        while (this->next_job(slot)) {
            float o[kD / 2];
            u32 p[kN / 16][4];
            Softmax softmax;
            this->zero(o);
            float inverse[2];
            if (attend(shared.job(slot), o, p, softmax)) {
                v.wait_full();
                sm90::wgmma_fence();
                this->multiply_pv(o, p);
                this->finish_sums(slot, softmax, inverse);
                sm90::wgmma_wait<0>();
                sm90::pin_registers(o);
                release(v);
            } else {
                this->finish_sums(slot, softmax, inverse);
            }
            const RowStore<C> store(params, shared, slot, warpgroup);
            sm90::sync_warp();
            if (warp_leader()) sm90::mbarrier_arrive(jobs.empty + slot);
            store.all(o, inverse);
        }
        finish_stores<C>();
    }
};

}  // namespace hopfill

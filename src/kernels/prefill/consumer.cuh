// A consumer warpgroup of the main family: 64 query rows of each job against all its KV blocks, last block first. The stream does not stop
// between jobs: the next job's first Q K^T runs beside this job's last P V, and its softmax before this job's epilogue. See SCHEDULE.md.
#pragma once

#include "prefill/mainloop.cuh"

namespace hopfill {

template <KernelConfig C, class Scales = NoScales<C>>
struct Consumer : Mainloop<C, Scales> {
    using Base = Mainloop<C, Scales>;
    using Base::k, Base::v, Base::q, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::wait_turn, Base::pass_turn, Base::release, Base::multiply_qk, Base::multiply_pv, Base::step, Base::zero, Base::first_key;
    using Base::next_job, Base::finish_job, Base::finish_sums, Base::first_block, Base::release_q, Base::scales;

    // The turn in which a job's last P V is asked for gathers the warpgroup, its storing thread among it: a barrier of its own for the staging slots
    // is not needed behind that. (hd128 causal: 1% slower so; H200.)
    static constexpr bool kFreeByTurn = C.pingpong && !stores_by_warps(C) && !(kD == 128 && C.mask == Mask::causal);

    HOPFILL_INLINE Consumer(const PrefillParams& p, Shared<C> s, u32 w) : Base(p, s, w, w, 0) {}

    HOPFILL_INLINE void open_job(u32 slot, i32 (&limit)[2], i32& n) {
        this->row_limits(shared.job(slot), limit);
        n = sm90::load_shared(&shared.job(slot)->blocks) - 1;
        scales.open(params, shared.job(slot));
    }

    template <i32 N>
    HOPFILL_INLINE void change_job(u32 slot, u32 following, float (&o)[kD / 2], u32 (&p)[kN / 16][4], Softmax& softmax, float (&rescale)[2],
                                   float (&inverse)[2], i32 (&limit)[2], i32& n) {
        float s[N / 2];
        q.wait_full();
        this->wait_k();
        if constexpr (kFreeByTurn) {
            if (is_storer()) wait_for_staging<C>(true);
        }
        wait_turn();
        sm90::wgmma_fence();
        this->template multiply_qk<N>(s);
        this->rescale_last(o, rescale);
        v.wait_full();
        sm90::wgmma_fence();
        multiply_pv(o, p);
        pass_turn();
        finish_sums(slot, softmax, inverse);
        open_job(following, limit, n);
        sm90::wgmma_wait<1>();
        sm90::pin_registers(s);
        release(k);
        this->template start_softmax<N>(s, softmax, n, limit);
        // Or ptxas has this softmax wait for P V, too. (hd96: spills. hd256: as fast without.)
        if constexpr (kD == 64 || kD == 128) sm90::compute_before_wait(softmax.sum[0]);
        this->test_k();
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        release(v);
        pack_fragments<C.elem, N, kN>(s, p);
    }

    HOPFILL_INLINE void run() {
        begin_turns<C>(warpgroup);
        u32 slot;
        while (next_job(slot)) {
            float o[kD / 2];
            u32 p[kN / 16][4];
            Softmax softmax;
            i32 limit[2], n;
            zero(o);
            open_job(slot, limit, n);
            first_block(shared.job(slot), n, p, softmax, limit);
#pragma unroll 1
            for (;;) {
                i32 unmasked = sm90::load_shared(&shared.job(slot)->unmasked);
                --n;
                float rescale[2] = {1.0f, 1.0f};
#pragma unroll 1
                for (;;) {
#pragma unroll 1
                    for (; n >= unmasked; --n) this->template step<true>(o, p, softmax, rescale, n, limit);
                    unmasked = Base::last_by_references(unmasked);
#pragma unroll 1
                    for (; n >= unmasked; --n) this->template step<false>(o, p, softmax, rescale, n, limit);
                    if (n < 0) break;
                    unmasked = 0;
                }
                // Every Q K^T of this job is complete.
                release_q();

                u32 following;
                if (!next_job(following)) {
                    this->rescale_last(o, rescale);
                    break;
                }
                float inverse[2];
                bool half = false;
                if constexpr (Base::kHalves) {
                    half = this->half_hidden(shared.job(following), sm90::load_shared(&shared.job(following)->blocks) - 1);
                    if (half) change_job<kN / 2>(slot, following, o, p, softmax, rescale, inverse, limit, n);
                }
                if (!half) change_job<kN>(slot, following, o, p, softmax, rescale, inverse, limit, n);
                this->template finish_job<kFreeByTurn>(slot, o, inverse);
                slot = following;
                zero(o);
            }
            v.wait_full();
            sm90::wgmma_fence();
            multiply_pv(o, p);
            float inverse[2];
            finish_sums(slot, softmax, inverse);
            sm90::wgmma_wait<0>();
            sm90::pin_registers(o);
            release(v);
            finish_job(slot, o, inverse);
            if constexpr (!Base::kByReferences) break;
        }
        finish_stores<C>();
        end_turns<C>(warpgroup);
    }
};

}  // namespace hopfill

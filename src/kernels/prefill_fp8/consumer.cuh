// A consumer warpgroup up to hd128: the softmax of a block runs beside the block before's P V, whose result waits in registers of its own. The
// stream does not stop between jobs, as in prefill/consumer.cuh, but in kernels that split them.
#pragma once

#include "prefill_fp8/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8Consumer : Fp8Mainloop<C> {
    using Base = Fp8Mainloop<C>;
    using typename Base::RowSoftmax, typename Base::Scales;
    using Base::number, Base::taken, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::wait_turn, Base::pass_turn, Base::multiply_qk, Base::zero, Base::job, Base::wait_job, Base::wait_q;
    using Base::finish_job, Base::finish_sums, Base::release_q;
    // The turn in which a job's last P V is asked for gathers the warpgroup, its storing thread among it: a barrier of its own for the staging slots
    // is not needed behind that.
    static constexpr bool kFreeByTurn = C.pingpong;
    // Or ptxas has the maxima wait for P V, too. (hd128 causal or with multipliers by block, folded: spills.)
    static constexpr bool kMaximaFirst = (kD == 64 || (C.mask == Mask::full && C.scale_block == 0)) && !is_folded(C.family);
    static constexpr i32 columns() { return Base::with_sums(kD); }  // of P V

    RowSoftmax softmax;
    Scales scales;
    float rescale[2];  // takes the output to the reference of P, whose product with V is still to come

    HOPFILL_INLINE Fp8Consumer(const PrefillFp8Params& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    // The turn is passed when the logits are there, not when P V is asked for: the other warpgroup's Q K^T, asked for at once, would take its share
    // of the tensor core before they are. (hd128 with a mask 4 to 6% faster; without one, at hd64 and with V given transposed -2 to 0%; H200.)
    static constexpr bool kPassesBehindLogits = C.pingpong && kD == 128 && C.mask == Mask::causal && !C.v_transposed;

    // Keys that this thread's first row sees: folded kernels find them once a job, the others beside the products.
    static constexpr bool limit_first() { return is_folded(C.family); }

    // Q K^T of block n beside P V of the block before.
    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], u32 (&p)[kN / 32][4], i32 n, i32 limit = 0) {
        float s[kN / 2], t[columns() / 2];
        issue(s, t, p);
        advance<Masked>(o, p, s, t, n, limit);
    }

    HOPFILL_INLINE void run() {
        begin_turns<C>(warpgroup);
        if constexpr (C.splits) {
            run_one_by_one();
        } else if (wait_job()) {
            float o[kD / 2];
            u32 p[kN / 32][4];
            zero(o);
            i32 n = sm90::load_shared(&job()->blocks) - 1;
            first_block(n, p);
#pragma unroll 1
            for (;;) {
                --n;
#pragma unroll 1
                for (; n >= sm90::load_shared(&job()->unmasked); --n) step<true>(o, p, n);
#pragma unroll 1
                for (; n >= 0; --n) step<false>(o, p, n);
                release_q();
                const u32 done = (number - 1) % kJobSlots;
                const float unit = sums_by_products(C) ? 0.0f : scales.output(shared.job(done));

                if (!wait_job()) {
                    float t[columns() / 2], inverse[2];
                    this->wait_v(taken - 1);
                    sm90::wgmma_fence();
                    this->template multiply_pv<columns()>(t, p, taken - 1, 0);
                    if constexpr (!sums_by_products(C)) finish_sums(shared.job(done), softmax, softmax.reference, unit, inverse);
                    collect(o, t, taken - 1);
                    if constexpr (sums_by_products(C))
                        finish_sums(shared.job(done), softmax, softmax.reference, scales.output(shared.job(done)), inverse);
                    finish_job(done, o, inverse);
                    break;
                }
                float s[kN / 2], t[columns() / 2], inverse[2];
                n = sm90::load_shared(&job()->blocks) - 1;
                scales.open(params, job(), warpgroup);
                wait_q();
                if constexpr (kFreeByTurn) {
                    if (is_storer()) wait_for_staging<C>(true);
                }
                issue(s, t, p);
                // Sums by products come with the job's last P V, behind the next job's first maxima.
                if constexpr (!sums_by_products(C)) finish_sums(shared.job(done), softmax, softmax.reference, unit, inverse);
                const float reference[2] = {softmax.reference[0], softmax.reference[1]};
                if constexpr (sums_by_products(C))
                    softmax.reset_references();
                else
                    softmax.reset();
                advance<true>(o, p, s, t, n, 0);
                if constexpr (sums_by_products(C)) {
                    finish_sums(shared.job(done), softmax, reference, scales.output(shared.job(done)), inverse);
                    softmax.reset_sums();
                }
                this->template finish_job<kFreeByTurn>(done, o, inverse);
                zero(o);
            }
        }
        finish_stores<C>();
        end_turns<C>(warpgroup);
    }

protected:
    // Kernels that split: each job begins where the one before has ended. There are few, of which most are parts, and beside the next job's logits
    // there are no registers for the end of a part.
    HOPFILL_INLINE void run_one_by_one() {
        static_assert(!C.splits || sums_by_products(C));
        while (wait_job()) {
            float o[kD / 2], t[columns() / 2], inverse[2];
            u32 p[kN / 32][4];
            zero(o);
            i32 n = sm90::load_shared(&job()->blocks) - 1;
            first_block(n, p);
            --n;
#pragma unroll 1
            for (; n >= sm90::load_shared(&job()->unmasked); --n) step<true>(o, p, n);
#pragma unroll 1
            for (; n >= 0; --n) step<false>(o, p, n);
            release_q();
            const u32 done = (number - 1) % kJobSlots;
            this->wait_v(taken - 1);
            sm90::wgmma_fence();
            this->template multiply_pv<columns()>(t, p, taken - 1, 0);
            collect(o, t, taken - 1);
            finish_sums(shared.job(done), softmax, softmax.reference, scales.output(shared.job(done)), inverse);
            finish_job(done, o, inverse);
        }
    }

    // s = Q K^T of the next block, t = P V of the one before: issued.
    HOPFILL_INLINE void issue(float (&s)[kN / 2], float (&t)[columns() / 2], const u32 (&p)[kN / 32][4]) {
        this->wait_k();
        wait_turn();
        sm90::wgmma_fence();
        multiply_qk(s);
        this->wait_v(taken - 1);
        sm90::wgmma_fence();
        this->template multiply_pv<columns()>(t, p, taken - 1, 0);
        if constexpr (!kPassesBehindLogits) pass_turn();
    }

    // Waits for P V of block `at` and adds it to the output. (Folded, with V released first, spills at hd128.)
    HOPFILL_INLINE void collect(float (&o)[kD / 2], float (&t)[columns() / 2], u32 at) {
        sm90::wgmma_wait<0>();
        sm90::pin_registers(t);
        if constexpr (!is_folded(C.family)) this->release_v(at);
        this->template promote<columns()>(o, softmax, t, 0, rescale);
        if constexpr (is_folded(C.family)) this->release_v(at);
    }

    // From the logits of block n to its P, with P V of the block before added to the output on the way.
    template <bool Masked>
    HOPFILL_INLINE void advance(float (&o)[kD / 2], u32 (&p)[kN / 32][4], float (&s)[kN / 2], float (&t)[columns() / 2], i32 n, i32 limit) {
        sm90::wgmma_wait<1>();
        sm90::pin_registers(s);
        if constexpr (kPassesBehindLogits) pass_turn();
        this->release_k();
        BlockScales<C> block;
        if constexpr (C.scale_block != 0) block.get(shared.scales((taken - 2) % Base::kGeometry.vt_stages));
        float next[2];
        if constexpr (Masked && !limit_first()) limit = this->visible(job());
        const typename Base::Weights weights = this->template raise<Masked>(s, softmax, scales, block, n, limit, next);
        if constexpr (kMaximaFirst && !Masked) sm90::compute_before_wait(weights.used[0], weights.used[1]);
        collect(o, t, taken - 2);
        this->test_k();
        this->make_p(s, softmax, weights, p);
        rescale[0] = next[0];
        rescale[1] = next[1];
    }

    // The first block of the first job, n: nothing to overlap with.
    HOPFILL_INLINE void first_block(i32 n, u32 (&p)[kN / 32][4]) {
        float s[kN / 2];
        scales.open(params, job(), warpgroup);
        BlockScales<C> block;
        if constexpr (C.scale_block != 0) block.load(params, job(), n);
        softmax.reset();
        const i32 limit = this->visible(job());
        wait_q();
        this->wait_k();
        wait_turn();
        sm90::wgmma_fence();
        multiply_qk(s);
        pass_turn();
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        this->release_k();
        this->make_p(s, softmax, this->template raise<true>(s, softmax, scales, block, n, limit, rescale), p);
    }
};

}  // namespace hopfill

// One of three consumer warpgroups, with 160 registers each: the logits of a block and its P V are never in registers at once, so a warpgroup's
// softmax has no product of its own beside it. The products of the two others run there.
#pragma once

#include "prefill_fp8/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8ConsumerOfThree : Fp8Mainloop<C> {
    using Base = Fp8Mainloop<C>;
    using typename Base::RowSoftmax, typename Base::Scales;
    using Base::number, Base::taken, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::wait_turn, Base::pass_turn, Base::begin_block, Base::zero, Base::finish_job, Base::finish_sums, Base::release_q;
    static constexpr i32 kPart = 64;  // columns of P V at a time
    static_assert(kD % kPart == 0 && C.scale_block == 0 && Base::kGeometry.q_slots > 1);

    RowSoftmax softmax;
    Scales scales;
    float rescale[2];  // takes the output to the reference of P, whose product with V is still to come

    HOPFILL_INLINE Fp8ConsumerOfThree(const PrefillFp8Params& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    // o = o * rescale + P V of block `at`.
    HOPFILL_INLINE void add_pv(float (&o)[kD / 2], const u32 (&p)[kN / 32][4], u32 at) {
        this->wait_v(at);
        wait_turn();
#pragma unroll
        for (i32 first = 0; first < kD - kPart; first += kPart) add_part<kPart>(o, p, at, first);
        add_part<Base::with_sums(kPart)>(o, p, at, kD - kPart);
        this->release_v(at);
    }
    template <i32 Columns>
    HOPFILL_INLINE void add_part(float (&o)[kD / 2], const u32 (&p)[kN / 32][4], u32 at, i32 first) {
        float t[Columns / 2];
        sm90::wgmma_fence();
        this->template multiply_pv<Columns>(t, p, at, first);
        if (first + kPart == kD) this->test_k();
        sm90::wgmma_wait<0>();
        sm90::pin_registers(t);
        this->template promote<Columns>(o, softmax, t, first, rescale);
    }

    // From the logits of block n to its P.
    template <bool Masked>
    HOPFILL_INLINE void end_block(float (&s)[kN / 2], u32 (&p)[kN / 32][4], i32 n, i32 limit) {
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        this->release_k();
        const typename Base::Weights weights = this->template raise<Masked>(s, softmax, scales, BlockScales<C>{}, n, limit, rescale);
        this->test_v(taken - 1);
        this->make_p(s, softmax, weights, p);
    }

    template <bool Masked>
    HOPFILL_INLINE void make_block(u32 (&p)[kN / 32][4], i32 n, i32 limit) {
        float s[kN / 2];
        begin_block(s);
        end_block<Masked>(s, p, n, limit);
    }

    // P V of the block before and Q K^T of this one follow each other, so that the tensor core changes hands once a block.
    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], u32 (&p)[kN / 32][4], i32 n, i32 limit) {
        add_pv(o, p, taken - 1);
        make_block<Masked>(p, n, limit);
    }

    HOPFILL_INLINE void run() {
        begin_turns<C>(warpgroup);
        if (this->wait_job()) {
            wait_turn();
            float o[kD / 2], unit = 1.0f;
            for (;;) {
                const Job* const job = this->job();
                const i32 limit = this->visible(job);
                i32 n = sm90::load_shared(&job->blocks) - 1;
                scales.open(params, job, warpgroup);
                this->wait_q();
                u32 p[kN / 32][4];
                {
                    // A job's first Q K^T runs beside the end of the job before.
                    float s[kN / 2];
                    this->begin_job(s, o, softmax, unit);
                    zero(o);
                    softmax.reset();
                    end_block<true>(s, p, n--, limit);
                }
                // Without a mask only a job's first block may have keys that no row sees.
                if constexpr (C.mask == Mask::causal) {
                    const i32 unmasked = sm90::load_shared(&job->unmasked);
#pragma unroll 1
                    for (; n >= unmasked; --n) step<true>(o, p, n, limit);
                }
                // One copy of what follows the last block, too: of two, the second spilled.
#pragma unroll 1
                for (;; --n) {
                    if (n < 0) release_q();
                    add_pv(o, p, taken - 1);
                    if (n < 0) break;
                    make_block<false>(p, n, limit);
                }
                unit = scales.output(shared.job((number - 1) % kJobSlots));
                if (!this->wait_job()) break;
            }
            pass_turn();
            this->finish(o, softmax, unit);
        }
        finish_stores<C>();
        end_turns<C>(warpgroup);
    }
};

}  // namespace hopfill

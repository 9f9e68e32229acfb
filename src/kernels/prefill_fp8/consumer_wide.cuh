// A consumer warpgroup above hd128: the output alone takes 128 registers, so one block's logits and its P V do not fit at once. They alternate, and
// the other warpgroup's products run beside this one's softmax. P V comes in quarters of 64 columns, one being promoted while the next is multiplied.
#pragma once

#include "prefill_fp8/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8WideConsumer : Fp8Mainloop<C> {
    using Base = Fp8Mainloop<C>;
    using typename Base::RowSoftmax, typename Base::Scales;
    using Base::number, Base::taken, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::wait_turn, Base::pass_turn, Base::begin_block, Base::zero, Base::finish_job, Base::finish_sums, Base::release_q;
    // Columns of P V at a time: two parts at once have to fit beside the output.
    static constexpr i32 kPart = 64;
    static constexpr i32 kParts = kD / kPart;
    static_assert(kD % kPart == 0);

    RowSoftmax softmax;
    Scales scales;
    BlockScales<C> block;
    float rescale[2];  // takes the output to the reference of P, whose product with V is still to come

    HOPFILL_INLINE Fp8WideConsumer(const PrefillFp8Params& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    // From the logits of block n to its P.
    template <bool Masked>
    HOPFILL_INLINE void end_block(float (&s)[kN / 2], u32 (&p)[kN / 32][4], i32 n, i32 limit) {
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        this->release_k();
        if (n == 0) release_q();
        this->make_p(s, softmax, this->template raise<Masked>(s, softmax, scales, block, n, limit, rescale), p);
    }

    // o = o * rescale + P V of the block that Q was multiplied with last.
    HOPFILL_INLINE void add_pv(float (&o)[kD / 2], const u32 (&p)[kN / 32][4]) {
        this->wait_v(taken - 1);
        wait_turn();
        float t[2][kPart / 2];
        sm90::wgmma_fence();
        this->template multiply_pv<kPart>(t[0], p, taken - 1, 0);
#pragma unroll
        for (i32 i = 0; i < kParts; ++i) {
            if (i + 1 < kParts) {
                sm90::wgmma_fence();
                this->template multiply_pv<kPart>(t[(i + 1) % 2], p, taken - 1, (i + 1) * kPart);
                sm90::wgmma_wait<1>();
            } else {
                sm90::wgmma_wait<0>();
            }
            sm90::pin_registers(t[i % 2]);
            this->template promote<kPart>(o, softmax, t[i % 2], i * kPart, rescale);
        }
        if constexpr (C.scale_block != 0) block.get(shared.scales((taken - 1) % Base::kGeometry.vt_stages));
        this->release_v(taken - 1);
    }

    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], i32 n, i32 limit) {
        u32 p[kN / 32][4];
        {
            float s[kN / 2];
            begin_block(s);
            end_block<Masked>(s, p, n, limit);
        }
        add_pv(o, p);
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
                if (C.scale_block != 0 && number == 0) block.load(params, job, n);
                this->wait_q();
                {
                    // The logits' registers are free before the output's are: a job's first Q K^T runs beside the end of the job before.
                    float s[kN / 2];
                    u32 p[kN / 32][4];
                    this->begin_job(s, o, softmax, unit);
                    zero(o);
                    softmax.reset();
                    end_block<true>(s, p, n, limit);
                    add_pv(o, p);
                }
                --n;
                // Without a mask only a job's first block may have keys that no row sees.
                if constexpr (C.mask == Mask::causal) {
                    const i32 unmasked = sm90::load_shared(&job->unmasked);
#pragma unroll 1
                    for (; n >= unmasked; --n) step<true>(o, n, limit);
                }
#pragma unroll 1
                for (; n >= 0; --n) step<false>(o, n, limit);
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

// A consumer warpgroup above hd128: the output alone takes 128 registers, so one block's logits and its P V do not fit at once. They take turns, and
// the other warpgroup's products run beside this one's softmax. P V comes in quarters of 64 columns, one being promoted while the next is multiplied.
#pragma once

#include "prefill_fp8/mainloop.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8WideConsumer : Fp8Mainloop<C> {
    using Base = Fp8Mainloop<C>;
    using typename Base::RowSoftmax, typename Base::Scales;
    using Base::number, Base::taken, Base::shared, Base::params, Base::warpgroup, Base::kN, Base::kD;
    using Base::multiply_qk, Base::zero, Base::finish_job, Base::finish_sums, Base::release_q;
    // Columns of P V at a time: two parts at once have to fit beside the output.
    static constexpr i32 kPart = 64;
    static constexpr i32 kParts = kD / kPart;
    static_assert(kD % kPart == 0 && !C.pingpong);

    HOPFILL_INLINE Fp8WideConsumer(const PrefillFp8Params& p, Shared<C> s, u32 w) : Base(p, s, w) {}

    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], RowSoftmax& softmax, Scales& scales, BlockScales<C>& block, i32 limit, i32 n) {
        u32 p[kN / 32][4];
        float rescale[2];
        {
            float s[kN / 2];
            this->wait_k();
            sm90::wgmma_fence();
            multiply_qk(s);
            sm90::wgmma_wait<0>();
            sm90::pin_registers(s);
            this->release_k();
            // The last V of the job may be behind the next job's queries.
            if (n == 0) release_q();
            this->make_p(s, softmax, this->template raise<Masked>(s, softmax, scales, block, n, limit, rescale), p);
        }
        this->wait_v(taken - 1);
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

    HOPFILL_INLINE void run() {
        BlockScales<C> block;
        for (bool first = true; this->wait_job(); first = false) {
            const Job* const job = this->job();
            float o[kD / 2];
            RowSoftmax softmax;
            Scales scales;
            zero(o);
            softmax.reset();
            const i32 limit = this->visible(job);
            i32 n = sm90::load_shared(&job->blocks) - 1;
            scales.open(params, job, warpgroup);
            if (C.scale_block != 0 && first) block.load(params, job, n);
            const i32 unmasked = sm90::load_shared(&job->unmasked);
            this->wait_q();
#pragma unroll 1
            for (; n >= unmasked; --n) step<true>(o, softmax, scales, block, limit, n);
#pragma unroll 1
            for (; n >= 0; --n) step<false>(o, softmax, scales, block, limit, n);
            float inverse[2];
            finish_sums(job, softmax, softmax.reference, scales.output(params, job), inverse);
            finish_job((number - 1) % kJobSlots, o, inverse);
        }
        finish_stores();
    }
};

}  // namespace hopfill

// The work of a consumer warpgroup on e4m3: Q K^T, softmax, P V, and the promotion of each block's P V into the float32 output. See SCHEDULE.md.
#pragma once

#include "prefill/mask.cuh"
#include "prefill/parts.cuh"
#include "prefill/shared.cuh"
#include "prefill/store.cuh"
#include "prefill_fp8/scales.cuh"
#include "prefill_fp8/softmax.cuh"
#include "sm90/fence.cuh"
#include "sm90/wgmma.cuh"
#include "tile/descriptor.cuh"
#include "tile/fragment.cuh"

namespace hopfill {

template <KernelConfig C>
struct Fp8Mainloop {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr i32 kN = C.tile_n;
    static constexpr i32 kD = C.head_dim;
    static constexpr i32 kFactors = scale_factors(C);
    static constexpr bool kPInShared = p_bytes(C) > 0;
    // Columns of P V: the output's, or of its last part, and the rows' sums.
    static constexpr i32 with_sums(i32 columns) { return columns + sum_columns(C); }
    using RowSoftmax = Fp8Softmax<kN, kFactors, pairs_keys(C)>;
    using Scales = JobScales<C>;

    const PrefillFp8Params& params;
    Shared<C> shared;
    u32 warpgroup;
    // Registers are scarce: all slots and phases follow from two counts.
    u32 number = 0;  // jobs whose every Q K^T is complete: the number of the one in progress
    u32 taken = 0;   // blocks of K whose Q K^T is complete; of V, one less, or as many
    // A wait takes 100 to 150 clocks of a step's 2,500, even for what has long come. The next block is asked for beside products or exponentials
    // instead. (hd256: without a mask 2 to 4% slower so, with one as fast. Folded: as fast. hd128 of two with multipliers by block, or causal with V
    // given transposed: spills.)
    static constexpr bool kTestsK =
        kD <= 128 && !is_folded(C.family) &&
        (kD == 64 || C.consumers == 3 || (C.scale_block == 0 && !(C.v_transposed && C.mask == Mask::causal)));
    // (Two warpgroups have Q K^T beside that wait.)
    static constexpr bool kTestsV = C.consumers == 3;
    bool k_here = false, v_here = false;  // the answers

    HOPFILL_INLINE Fp8Mainloop(const PrefillFp8Params& p, Shared<C> s, u32 w) : params(p), shared(s), warpgroup(w) {}

    HOPFILL_INLINE static bool warp_leader() { return sm90::lane_index() == 0; }

    // What a ring's slot adds to its descriptor. A vote's result is known to be uniform, a number carried through the job loop is not, and what is
    // not costs two moves before each product. (Two warpgroups up to hd128, and three at hd64, hide the moves better than the votes.)
    static constexpr bool kUniformSlots = (C.consumers == 3 && kD == 128) || kD > 128;
    template <i32 Slots, i32 Bytes>
    HOPFILL_INLINE static u64 slot_offset(u32 slot) {
        if constexpr (!kUniformSlots) return descriptor_offset(slot * Bytes);
        u64 offset = 0;
#pragma unroll
        for (u32 i = 1; i < Slots; ++i)
            if (sm90::vote_any(slot == i)) offset = descriptor_offset(i * Bytes);
        return offset;
    }

    // s = Q K^T of the next block: issued, not awaited.
    HOPFILL_INLINE void multiply_qk(float (&s)[kN / 2]) {
        const bool second = kGeometry.q_slots > 1 && sm90::vote_any(q_slot() != 0);
        const u64 a = k_major_descriptor(shared.q(warpgroup, 0)) + (second ? descriptor_offset(kGeometry.q_tile) : 0);
        const u64 b = k_major_descriptor(shared.k(0, 0)) + slot_offset<C.stages, kGeometry.kv_block>(taken % C.stages);
#pragma unroll
        for (i32 d = 0; d < kD / 32; ++d) {
            const u32 inside = d % 4 * 32;
            sm90::wgmma_ss<kN, C.elem>(s, a + descriptor_offset(d / 4 * kRowsPerWarpgroup * kSlabBytes + inside),
                                       b + descriptor_offset(d / 4 * kGeometry.kv_slab + inside), d != 0);
        }
        sm90::wgmma_commit();
    }

    // t = P V of block `at`, columns [first, first + Columns) of the output and of the sums behind it: issued, not awaited. Never added to what came
    // before: the tensor core keeps 13 fraction bits of an e4m3 sum, which is enough for one block.
    template <i32 Columns>
    HOPFILL_INLINE void multiply_pv(float (&t)[Columns / 2], const u32 (&p)[kN / 32][4], u32 at, i32 first) {
        const u64 b = k_major_descriptor(shared.vt(0)) + slot_offset<kGeometry.vt_stages, kGeometry.vt_block>(at % kGeometry.vt_stages) +
                      descriptor_offset(first * kSlabBytes);
        u64 last = 0;  // of the slab that blocks share
        if constexpr (vt_shared_keys(C) > 0)
            last = k_major_descriptor(shared.vt(kGeometry.vt_stages)) +
                   slot_offset<kGeometry.vt_stages, vt_shared_keys(C)>(at % kGeometry.vt_stages) +
                   descriptor_offset(first * kSlabBytes);
#pragma unroll
        for (i32 n = 0; n < kN / 32; ++n) {
            const bool shares = 32 * n >= kN - vt_shared_keys(C);
            const u64 keys = (shares ? last : b + descriptor_offset(n / 4 * vt_slab(C))) + descriptor_offset(n % 4 * 32);
            if constexpr (kPInShared) {
                const u64 rows = k_major_descriptor(shared.p(warpgroup)) + descriptor_offset(n / 4 * kRowsPerWarpgroup * kSlabBytes + n % 4 * 32);
                sm90::wgmma_ss<Columns, C.elem>(t, rows, keys, n != 0);
            } else {
                sm90::wgmma_rs<Columns, C.elem>(t, p[n], keys, n != 0);
            }
        }
        sm90::wgmma_commit();
    }

    // o = o * rescale + t: the rescaling that an online softmax needs anyway, and the promotion, in one instruction an element. The columns behind
    // the output's are the rows' sums, each of them: every lane has its rows'.
    template <i32 Columns>
    HOPFILL_INLINE static void promote(float (&o)[kD / 2], RowSoftmax& softmax, const float (&t)[Columns / 2], i32 first, const float (&rescale)[2]) {
#pragma unroll
        for (i32 i = 0; i < Columns / 2 && first / 2 + i < kD / 2; ++i)
            o[first / 2 + i] = sm90::fma_float(o[first / 2 + i], rescale[fragment_half(i)], t[i]);
        if constexpr (sums_by_products(C)) {
            if (first + Columns > kD) {
#pragma unroll
                for (i32 h = 0; h < 2; ++h) softmax.sum[h] = sm90::fma_float(softmax.sum[h], rescale[h], t[Columns / 2 - 4 + 2 * h]);
            }
        }
    }

    HOPFILL_INLINE void wait_k() {
        if (!k_here) sm90::mbarrier_wait(shared.k_full(0) + taken % C.stages, taken / C.stages % 2);
        k_here = false;
    }
    // Asks for the next block of K ahead of its wait.
    HOPFILL_INLINE void test_k() {
        if constexpr (kTestsK) k_here = sm90::mbarrier_test(shared.k_full(0) + taken % C.stages, taken / C.stages % 2);
    }
    HOPFILL_INLINE void release_k() {
        if (warp_leader()) sm90::mbarrier_arrive(shared.k_empty(0) + taken % C.stages);
        ++taken;
    }
    HOPFILL_INLINE void wait_v(u32 at) {
        if (!v_here) sm90::mbarrier_wait(shared.vt_full() + at % kGeometry.vt_stages, at / kGeometry.vt_stages % 2);
        v_here = false;
    }
    HOPFILL_INLINE void test_v(u32 at) {
        if constexpr (kTestsV) v_here = sm90::mbarrier_test(shared.vt_full() + at % kGeometry.vt_stages, at / kGeometry.vt_stages % 2);
    }
    HOPFILL_INLINE void release_v(u32 at) const {
        // Every lane has read the multipliers that lie beside the block.
        if constexpr (C.scale_block != 0) sm90::sync_warp();
        if (warp_leader()) sm90::mbarrier_arrive(shared.vt_empty() + at % kGeometry.vt_stages);
    }

    // Barrier numbers as immediate operands, or found anew: a register for them is not there.
    static constexpr bool kTurnsAsImmediates = C.consumers == 2 && kD <= 128;
    HOPFILL_INLINE void wait_turn() const {
        if constexpr (!C.pingpong) return;
        if constexpr (!kTurnsAsImmediates) {
            sm90::named_barrier_sync(kTurn - 1 + sm90::thread_index_anew() / 128, 256);
        } else if (warpgroup == 0) {
            sm90::named_barrier_sync(kTurn, 256);
        } else {
            sm90::named_barrier_sync(kTurn + 1, 256);
        }
    }
    HOPFILL_INLINE void pass_turn() const {
        if constexpr (!C.pingpong) return;
        if constexpr (!kTurnsAsImmediates) {
            const u32 next = sm90::thread_index_anew() / 128;  // counted from the producer's warpgroup
            sm90::named_barrier_arrive(kTurn + (next == C.consumers ? 0 : next), 256);
        } else if (warpgroup == 0) {
            sm90::named_barrier_arrive(kTurn + 1, 256);
        } else {
            sm90::named_barrier_arrive(kTurn, 256);
        }
    }

    // s = Q K^T of the next block, with which a turn of those ends who take it for P V and that: issued.
    HOPFILL_INLINE void begin_block(float (&s)[kN / 2]) {
        wait_k();
        sm90::wgmma_fence();
        multiply_qk(s);
        pass_turn();
    }

    HOPFILL_INLINE static void zero(float (&o)[kD / 2]) {
#pragma unroll
        for (i32 i = 0; i < kD / 2; ++i) o[i] = 0.0f;
    }

    // Key of this thread's first column in block n.
    HOPFILL_INLINE static i32 first_key(i32 n) { return n * kN + first_fragment_key<pairs_keys(C)>(sm90::thread_index()); }

    // What turns a block's logits into its P.
    struct Weights {
        float logit[kFactors], weight[kFactors], used[2];
    };

    // Masks the raw logits of block n and finds their maxima; `rescale` takes outputs to the new references and to this block's unit of V.
    template <bool Masked>
    HOPFILL_INLINE static Weights raise(float (&s)[kN / 2], RowSoftmax& softmax, Scales& scales, const BlockScales<C>& block, i32 n, i32 visible,
                                        float (&rescale)[2]) {
        if constexpr (Masked) {
            const i32 limit[2] = {visible, visible + (C.mask == Mask::causal ? 8 : 0)};
            if (C.mask == Mask::causal || sm90::vote_any((n + 1) * kN > visible)) mask_block<C>(s, first_key(n), limit);
        }
        Weights w;
        const float unit = scales.enter(block, w.logit, w.weight);
        softmax.template raise<sums_by_products(C)>(s, w.logit, w.used, rescale);
        if constexpr (C.scale_block != 0) {
            rescale[0] *= unit;
            rescale[1] *= unit;
        }
        return w;
    }

    // The logits' exponentials, as fragments of P.
    HOPFILL_INLINE void make_p(float (&s)[kN / 2], RowSoftmax& softmax, const Weights& w, u32 (&p)[kN / 32][4]) {
        softmax.template exponentials<sums_by_products(C)>(s, w.logit, w.used);
        if constexpr (kFactors > 1) {
#pragma unroll
            for (i32 i = 0; i < kN / 2; ++i) s[i] *= w.weight[RowSoftmax::factor_of(i)];
        }
        pack_fragments_e4m3<kN, pairs_keys(C)>(s, p);
        if constexpr (kPInShared) store_p(p);
    }

    // P for products that read it from shared memory.
    HOPFILL_INLINE void store_p(const u32 (&p)[kN / 32][4]) const {
        const u32 lane = sm90::lane_index();
        const u32 to = swizzled_chunk(sm90::thread_index() % 128 / 32 * 16 + lane % 16, lane / 16);
#pragma unroll
        for (i32 k = 0; k < kN / 32; ++k)
            sm90::store_matrix_x4(shared.p(warpgroup) + k / 4 * kRowsPerWarpgroup * kSlabBytes + (to ^ static_cast<u32>(k % 4 << 5)),  //
                                  p[k][0], p[k][1], p[k][2], p[k][3]);
        sm90::fence_async_shared();
        // Every row is written before any warp multiplies. (An immediate number, as of the turns.)
        if (warpgroup == 0)
            sm90::named_barrier_sync(kEpilogue, 128);
        else
            sm90::named_barrier_sync(kEpilogue + 1, 128);
    }

    // Keys that this thread's first row of a job sees. With a causal mask the second, eight below, sees eight more if it is a row of the sequence;
    // what other rows see is stored nowhere.
    HOPFILL_INLINE i32 visible(const Job* job) const {
        const i32 q_len = sm90::load_shared(&job->q_len);
        const i32 row = first_row<C>(sm90::load_shared(&job->row0), q_len, warpgroup) + fragment_row(sm90::thread_index());
        return visible_keys<C>(row, q_len, sm90::load_shared(&job->kv_len));
    }

    HOPFILL_INLINE u32 q_slot() const { return number % kGeometry.q_slots; }
    HOPFILL_INLINE const Job* job() const { return shared.job(number % kJobSlots); }

    // Waits until job `number` is described; false when there is none.
    HOPFILL_INLINE bool wait_job() const {
        sm90::mbarrier_wait(shared.job_full() + number % kJobSlots, number / kJobSlots % 2);
        return sm90::load_shared(&job()->blocks) != kNoMoreJobs;
    }
    HOPFILL_INLINE void wait_q() const { sm90::mbarrier_wait(shared.q_full(warpgroup) + q_slot(), number / kGeometry.q_slots % 2); }

    // Every Q K^T of job `number` is complete: on to the next.
    HOPFILL_INLINE void release_q() {
        if (warp_leader()) sm90::mbarrier_arrive(shared.q_empty(warpgroup) + q_slot());
        ++number;
    }

    // The sums of a job whose last softmax step is done (and its last P V, where that makes them): writes the LSE, returns what its outputs are to be
    // multiplied with.
    template <Ends Known = Ends::any>
    HOPFILL_INLINE void finish_sums(const Job* job, RowSoftmax& softmax, const float (&reference)[2], float unit, float (&inverse)[2]) const {
        float lse[2];
        softmax.template finish<sums_by_products(C)>(reference, inverse, lse);
        inverse[0] *= unit;
        inverse[1] *= unit;
        leave_sums<C, Known>(params, job, warpgroup, lse, reference, softmax.sum);
    }

    // The output rows of a job whose products are complete; then its slot may be used again.
    template <bool StagingFree = false, Ends Known = Ends::any>
    HOPFILL_INLINE void finish_job(u32 slot, float (&o)[kD / 2], const float (&inverse)[2]) const {
        const Job* at = shared.job(slot);
        if constexpr (C.splits) {
            if (is_part<C, Known>(at)) {
                scale_channels<C>(params, sm90::load_shared(&at->head), o);
                finish_part<C>(params, at, o, inverse);
                sm90::sync_warp();
                if (warp_leader()) sm90::mbarrier_arrive(shared.job_empty() + slot);
                return;
            }
        }
        Job job;
        job.head = sm90::load_shared(&at->head);
        job.sequence = sm90::load_shared(&at->sequence);
        job.row0 = sm90::load_shared(&at->row0);
        job.q_len = sm90::load_shared(&at->q_len);
        job.q_start = sm90::load_shared(&at->q_start);
        sm90::sync_warp();
        if (warp_leader()) sm90::mbarrier_arrive(shared.job_empty() + slot);
        if constexpr (stores_by_warps(C)) {
            scale_channels_from_one<C>(params, job.head, o);
            store_rows<C>(params, job, warpgroup, shared.o(warpgroup), o, inverse);
        } else {
            scale_channels<C>(params, job.head, o);
            store_output<C, StagingFree>(params, job, warpgroup, shared.o(warpgroup), o, inverse);
        }
    }

    // Where a job's last P V is complete before the next one's first Q K^T: the job before, which is that of the last number.
    template <Ends Known = Ends::any>
    HOPFILL_INLINE void finish(float (&o)[kD / 2], RowSoftmax& softmax, float unit) const {
        const u32 done = (number - 1) % kJobSlots;
        float inverse[2];
        finish_sums<Known>(shared.job(done), softmax, softmax.reference, unit, inverse);
        finish_job<false, Known>(done, o, inverse);
    }

    // And a job's first Q K^T, beside which the job before ends, if there is one.
    HOPFILL_INLINE void begin_job(float (&s)[kN / 2], float (&o)[kD / 2], RowSoftmax& softmax, float unit) {
        if constexpr (C.splits) {
            // A part of a job ends before: beside these logits there are no registers for it.
            const bool after_part = number != 0 && is_part<C, Ends::any>(shared.job((number - 1) % kJobSlots));
            if (after_part) finish<Ends::part>(o, softmax, unit);
            begin_block(s);
            if (number != 0 && !after_part) finish<Ends::whole>(o, softmax, unit);
        } else {
            begin_block(s);
            if (number != 0) finish(o, softmax, unit);
        }
    }
};

}  // namespace hopfill

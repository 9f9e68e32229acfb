// The work of a consumer warpgroup on one stream of KV blocks: Q K^T, softmax, P V. While the softmax of a block runs on the ordinary units, the
// tensor core multiplies the block before's P by V (FlashAttention-3, algorithm 2). See SCHEDULE.md.
#pragma once

#include "prefill/mask.cuh"
#include "prefill/parts.cuh"
#include "prefill/shared.cuh"
#include "prefill/softmax.cuh"
#include "prefill/store.cuh"
#include "sm90/wgmma.cuh"
#include "tile/descriptor.cuh"
#include "tile/fragment.cuh"

namespace hopfill {

// Multipliers of k and v: none. (prefill_mixed/scales.cuh has some.)
template <KernelConfig C>
struct NoScales {
    HOPFILL_INLINE static constexpr bool columns_first() { return false; }
    HOPFILL_INLINE static void open(const PrefillParams&, const Job*) {}
    HOPFILL_INLINE static float logit(const PrefillParams& p) { return p.scale_log2; }
    HOPFILL_INLINE static void scale_rows(const PrefillParams&, const Job*, float (&)[2]) {}
    HOPFILL_INLINE static void scale_columns(const PrefillParams&, i32, float (&)[C.head_dim / 2]) {}
};

template <KernelConfig C, class Scales = NoScales<C>>
struct Mainloop {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr i32 kN = C.tile_n;
    static constexpr i32 kD = C.head_dim;
    // Exponentials of one row before the other's, all before the wait for P V, and outputs rescaled beside the next Q K^T rather than behind that
    // wait: 1 to 6% at hd128 causal, 1 to 3% at hd192. By references, where there are two warpgroups: 11 to 17% at hd128, 3 to 8% at hd64, up to 1%
    // at hd256; with three a loss of 3 to 5% (H100).
    static constexpr bool kByRow = kD == 192 || (kD == 128 && C.mask == Mask::causal) || (repeats_jobs(C) && C.consumers == 2);

    // With a causal mask the first block of every second warpgroup is the one that its rows half see: then half of Q K^T and of the softmax is left
    // out (of the time of 128 keys 15%, of 512 7%; hd64 causal 3 to 6% at any length; H100).
    static constexpr bool kHalves = C.mask == Mask::causal && kN == 128 && C.family != Family::prefill_short;
    // Unmasked blocks without their maxima (see Softmax).
    static constexpr bool kByReferences = repeats_jobs(C);
    // But for block 0 of long jobs where P is FP16, whose range ends 11 nats above the reference: heads of trained models draw attention to the first
    // key that may exceed all others' by that much ("attention sinks"; Xiao et al., 2023), and a job that meets it would be done twice. One block
    // of sixteen is 1 to 2% of the time; of four it would be 7%. (Three warpgroups have no register for it.)
    HOPFILL_INLINE static i32 last_by_references(i32 unmasked) {
        return kByReferences && C.elem == Elem::f16 && C.consumers == 2 && unmasked >= 16 ? 1 : 0;
    }

    const PrefillParams& params;
    Shared<C> shared;
    u32 warpgroup;
    u32 row_group;  // whose 64 query rows
    u32 ring;       // which ring of K and V
    Ring<C.stages> k, v;  // (counted, where it could be: hd128 causal 2% slower)
    typename SmallRing<kJobSlots>::Type jobs;
    typename SmallRing<kGeometry.q_slots>::Type q;
    Scales scales;
    // The next block of K is asked for beside P V: then the wait for it, 100 clocks even for what has come, is left out. (-1 to +2%, at 512 up to
    // 4%; hd256 without a mask -4 to 0%; H200. hd96, hd192: not tried.)
    static constexpr bool kTestsK = is_main(C.family) && (kD == 64 || kD == 128 || (kD == 256 && C.mask == Mask::causal));
    bool k_here = false;  // the answer

    HOPFILL_INLINE Mainloop(const PrefillParams& p, Shared<C> s, u32 w, u32 rows, u32 kv_ring)
        : params(p), shared(s), warpgroup(w), row_group(rows), ring(kv_ring), k(s.k_full(kv_ring), s.k_empty(kv_ring)),
          v(s.v_full(kv_ring), s.v_empty(kv_ring)), jobs(s.job_full(), s.job_empty()), q(s.q_full(rows), s.q_empty(rows)) {}

    // Whether none of this warpgroup's rows sees the second half of block n.
    HOPFILL_INLINE bool half_hidden(const Job* job, i32 n) const {
        if constexpr (!kHalves) return false;
        const i32 q_len = sm90::load_shared(&job->q_len), kv_len = sm90::load_shared(&job->kv_len);
        const i32 row = first_row<C>(sm90::load_shared(&job->row0), q_len, row_group) + kRowsPerWarpgroup - 1;
        return sm90::vote_any(visible_keys<C>(row, q_len, kv_len) - n * kN <= kN / 2);
    }

    // The first block of a job: masks, where a key lies behind the sequence's end or the diagonal, and starts the softmax of its first N keys. (Of
    // those behind them P is 0.)
    template <i32 N>
    HOPFILL_INLINE void start_softmax(float (&s)[N / 2], Softmax& softmax, i32 n, const i32 (&limit)[2]) const {
        if (C.mask == Mask::causal || sm90::vote_any((n + 1) * kN > limit[0])) mask_block<C, N>(s, first_key(n), limit);
        softmax.template start<N, kByRow>(s, scales.logit(params));
    }

    HOPFILL_INLINE static bool warp_leader() { return sm90::lane_index() == 0; }

    // What takes the descriptor of a ring's first slot to that of its current one, in uniform registers: a vote's result is known to be uniform, a
    // slot carried through loops is not, and each wgmma would then wait for two moves between register files (1 to 4% of the time on an H100).
    template <i32 Bytes, i32 Slots, template <i32> class AnyRing>
    HOPFILL_INLINE static u64 slot_offset(const AnyRing<Slots>& ring) {
        u64 offset = 0;
#pragma unroll
        for (u32 i = 1; i < Slots; ++i)
            if (sm90::vote_any(ring.at() == i)) offset = descriptor_offset(i * Bytes);
        return offset;
    }

    // s = Q K^T of the block in k's current slot: issued, not awaited.
    template <i32 N = kN>
    HOPFILL_INLINE void multiply_qk(float (&s)[N / 2]) {
        const u64 a = q_descriptor();
        const u64 b = k_descriptor();
        multiply_rows<N>(s, a, b);
        sm90::wgmma_commit();
    }
    HOPFILL_INLINE u64 q_descriptor() const { return k_major_descriptor(shared.q(row_group, 0)) + slot_offset<kGeometry.q_tile>(q); }
    HOPFILL_INLINE u64 k_descriptor() const { return k_major_descriptor(shared.k(ring, 0)) + slot_offset<kGeometry.kv_block>(k); }

    template <i32 N>
    HOPFILL_INLINE static void multiply_rows(float (&s)[N / 2], u64 a, u64 b) {
#pragma unroll
        for (i32 d = 0; d < kD / 16; ++d) {
            const u32 inside = d % 4 * 32;
            sm90::wgmma_ss<N, C.elem>(s, a + descriptor_offset(d / 4 * kRowsPerWarpgroup * kSlabBytes + inside),
                                      b + descriptor_offset(d / 4 * kGeometry.kv_slab + inside), d != 0);
        }
    }

    // o += P V of the block in v's current slot: issued, not awaited.
    HOPFILL_INLINE void multiply_pv(float (&o)[kD / 2], const u32 (&p)[kN / 16][4]) {
        const u64 b = mn_major_descriptor(shared.v(ring, 0), kGeometry.kv_slab) + slot_offset<kGeometry.kv_block>(v);
#pragma unroll
        for (i32 n = 0; n < kN / 16; ++n)
            sm90::wgmma_rs<kD, C.elem, sm90::Major::mn>(o, p[n], b + descriptor_offset(n * 2 * kAtomBytes), true);
        sm90::wgmma_commit();
    }

    template <class AnyRing>
    HOPFILL_INLINE static void release(AnyRing& ring) {
        if (warp_leader()) ring.release();
        ring.advance();
    }

    HOPFILL_INLINE void wait_k() {
        if (!k_here) k.wait_full();
        k_here = false;
    }
    HOPFILL_INLINE void test_k() {
        if constexpr (kTestsK) k_here = k.test_full();
    }

    // Two warpgroups at hd64 with a mask: the turn is passed behind a block's exponentials, so that the other's begin as these end (2 to 4% faster
    // than behind the products at any length, H200; without a mask as fast, of three 13% slower, at hd128 1 to 13%).
    static constexpr bool kPassesBehindSoftmax = C.pingpong && is_main(C.family) && C.consumers == 2 && kD == 64 && C.mask == Mask::causal;
    HOPFILL_INLINE void wait_turn() const {
        if constexpr (C.pingpong) sm90::named_barrier_sync(kTurn + warpgroup, 256);
    }
    HOPFILL_INLINE void pass_turn() const {
        if constexpr (C.pingpong) sm90::named_barrier_arrive(kTurn + (warpgroup + 1 == C.consumers ? 0 : warpgroup + 1), 256);
    }

    HOPFILL_INLINE static void zero(float (&o)[kD / 2]) {
#pragma unroll
        for (i32 i = 0; i < kD / 2; ++i) o[i] = 0.0f;
    }

    // Where no row of the warp found a new maximum the factors are exactly 1. The branch pays from hd128 on (9% at hd256, 1.5% at hd128 and 16k keys
    // on an H100); at hd64 the multiplications hide behind the exponentials and the branch costs 5%.
    HOPFILL_INLINE static void rescale_rows(float (&o)[kD / 2], const float (&rescale)[2]) {
        if (kD < 128 || sm90::vote_any(rescale[0] != 1.0f || rescale[1] != 1.0f)) {
#pragma unroll
            for (i32 i = 0; i < kD / 2; ++i) o[i] *= rescale[fragment_half(i)];
        }
    }

    // Key of this thread's first column in block n.
    HOPFILL_INLINE static i32 first_key(i32 n) { return n * kN + fragment_column(sm90::thread_index()); }

    // One KV block inside a job: Q K^T of block n beside P V of block n + 1. `rescale` is what outputs are still to be multiplied with.
    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], u32 (&p)[kN / 16][4], Softmax& softmax, float (&rescale)[2], i32 n, const i32 (&limit)[2]) {
        float s[kN / 2];
        wait_k();
        wait_turn();
        sm90::wgmma_fence();
        multiply_qk(s);
        if constexpr (kByRow) rescale_rows(o, rescale);
        v.wait_full();
        sm90::wgmma_fence();
        multiply_pv(o, p);
        if constexpr (!kPassesBehindSoftmax) pass_turn();
        sm90::wgmma_wait<1>();
        sm90::pin_registers(s);
        release(k);
        bool raised = true;
        if constexpr (kByReferences && !Masked) {
            raised = softmax.step_by_references<kN, kByRow, C.elem>(s, scales.logit(params), rescale);
        } else {
            if constexpr (Masked) mask_block<C>(s, first_key(n), limit);
            softmax.step<kN, kByRow>(s, scales.logit(params), rescale);
        }
        if constexpr (kByRow) sm90::compute_before_wait(softmax.sum[0]);
        if constexpr (kPassesBehindSoftmax) pass_turn();
        test_k();
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        release(v);
        pack_fragments<C.elem, kN>(s, p);
        if constexpr (!kByRow) {
            if (raised) rescale_rows(o, rescale);
        }
    }

    // What step() leaves to do before the next P V.
    HOPFILL_INLINE static void rescale_last(float (&o)[kD / 2], const float (&rescale)[2]) {
        if constexpr (kByRow) rescale_rows(o, rescale);
    }

    // Keys that this thread's two rows of a job see.
    HOPFILL_INLINE void row_limits(const Job* job, i32 (&limit)[2]) const {
        const i32 q_len = sm90::load_shared(&job->q_len), kv_len = sm90::load_shared(&job->kv_len);
        const i32 row = first_row<C>(sm90::load_shared(&job->row0), q_len, row_group) + fragment_row(sm90::thread_index());
        limit[0] = visible_keys<C>(row, q_len, kv_len);
        limit[1] = visible_keys<C>(row + 8, q_len, kv_len);
    }

    // Waits for the next job, its slot in `slot`; false when there is none.
    HOPFILL_INLINE bool next_job(u32& slot) {
        jobs.wait_full();
        slot = jobs.at();
        jobs.advance();
        if (sm90::load_shared(&shared.job(slot)->blocks) != kNoMoreJobs) return true;
        if constexpr (kByReferences) {
            // There may be more.
            sm90::sync_warp();
            if (warp_leader()) sm90::mbarrier_arrive(jobs.empty + slot);
        }
        return false;
    }

    // The output rows of a job whose products are complete; then its slot may be used again. If exponentials by references overflowed, which leaves
    // nothing finite of what they were multiplied with or added to, the job is to come again.
    template <bool StagingFree = false>
    HOPFILL_INLINE void finish_job(u32 slot, float (&o)[kD / 2], const float (&inverse)[2]) {
        Job* const at = shared.job(slot);
        if constexpr (Scales::columns_first()) scales.scale_columns(params, sm90::load_shared(&at->head), o);
        Job job;
        job.head = sm90::load_shared(&at->head);
        job.sequence = sm90::load_shared(&at->sequence);
        job.row0 = sm90::load_shared(&at->row0);
        job.q_len = sm90::load_shared(&at->q_len);
        job.q_start = sm90::load_shared(&at->q_start);
        bool failed = false;
        if constexpr (kByReferences) {
            if (sm90::load_shared(&at->unmasked) > 0) {
                float zero[4] = {0.0f * inverse[0], 0.0f * inverse[1], 0.0f, 0.0f};
#pragma unroll
                for (i32 i = 0; i < kD / 2; ++i) zero[i % 4] = sm90::fma_float(o[i], 0.0f, zero[i % 4]);
                failed = sm90::vote_any(!(zero[0] + zero[1] + zero[2] + zero[3] == 0.0f));
                if (failed && warp_leader()) sm90::store_shared(&at->failed[sm90::thread_index() / 32 - 4], 1);
            }
        }
        if constexpr (C.splits) {
            if (is_part<C, Ends::any>(at)) {
                if constexpr (!Scales::columns_first()) scales.scale_columns(params, sm90::load_shared(&at->head), o);
                // What has overflowed is not counted: no other block reads it before it has come again.
                if (!failed && leaves_part<C>(at)) finish_part<C>(params, at, o, inverse);
                sm90::sync_warp();
                if (warp_leader()) sm90::mbarrier_arrive(jobs.empty + slot);
                return;
            }
        }
        sm90::sync_warp();
        if (warp_leader()) sm90::mbarrier_arrive(jobs.empty + slot);
        if constexpr (!Scales::columns_first()) scales.scale_columns(params, job.head, o);
        if constexpr (stores_by_warps(C))
            store_rows<C>(params, job, row_group, shared.o(row_group), o, inverse);
        else
            store_output<C, StagingFree>(params, job, row_group, shared.o(row_group), o, inverse);
    }

    // The sums of a job whose last softmax step is done: writes the LSE, returns what its outputs are to be multiplied with.
    HOPFILL_INLINE void finish_sums(u32 slot, Softmax& softmax, float (&inverse)[2]) const {
        float lse[2];
        softmax.finish(inverse, lse);
        if constexpr (kByReferences) {
            // A sum that has overflowed has no inverse; nor has one past 2^126, whose is flushed. Sums of parts are added up, weighted by their
            // references: they stay below 2^98, so that no 16 overflow, and what is flushed where a reference is too far below another is nothing.
            constexpr float kMargin = C.splits && C.elem == Elem::bf16 ? 0x1p30f : 4.0f;
            inverse[0] = sm90::fma_float(kMargin * softmax.sum[0], 0.0f, inverse[0]);
            inverse[1] = sm90::fma_float(kMargin * softmax.sum[1], 0.0f, inverse[1]);
        }
        scales.scale_rows(params, shared.job(slot), inverse);
        leave_sums<C>(params, shared.job(slot), row_group, lse, softmax.reference, softmax.sum);
    }

    // The first block of a stream, n: nothing to overlap with.
    HOPFILL_INLINE void first_block(const Job* job, i32 n, u32 (&p)[kN / 16][4], Softmax& softmax, const i32 (&limit)[2]) {
        if constexpr (kHalves) {
            if (half_hidden(job, n)) return begin_block<kN / 2>(n, p, softmax, limit);
        }
        begin_block<kN>(n, p, softmax, limit);
    }
    template <i32 N>
    HOPFILL_INLINE void begin_block(i32 n, u32 (&p)[kN / 16][4], Softmax& softmax, const i32 (&limit)[2]) {
        float s[N / 2];
        q.wait_full();
        wait_k();
        wait_turn();
        sm90::wgmma_fence();
        multiply_qk<N>(s);
        pass_turn();
        sm90::wgmma_wait<0>();
        sm90::pin_registers(s);
        release(k);
        start_softmax<N>(s, softmax, n, limit);
        pack_fragments<C.elem, N, kN>(s, p);
    }

    HOPFILL_INLINE void release_q() {
        if (warp_leader()) q.release();
        q.advance();
    }
};

}  // namespace hopfill

// A consumer warpgroup: 64 query rows against a stream of KV blocks, last block first. While the softmax of block n runs on the ordinary units,
// the tensor core multiplies block n + 1's P by V (intra-warpgroup overlap, FlashAttention-3, algorithm 2). See SCHEDULE.md.
#pragma once

#include "prefill/epilogue.cuh"
#include "prefill/mask.cuh"
#include "prefill/shared.cuh"
#include "prefill/softmax.cuh"
#include "sm90/wgmma.cuh"
#include "tile/descriptor.cuh"
#include "tile/fragment.cuh"

namespace hopfill {

template <KernelConfig C>
struct Consumer {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr i32 kN = C.tile_n;
    static constexpr i32 kD = C.head_dim;

    const PrefillParams& params;
    Shared<C> shared;
    u32 warpgroup;
    Ring<C.stages> k, v;
    Ring<kJobSlots> jobs;
    Ring<1> q;

    HOPFILL_INLINE Consumer(const PrefillParams& p, Shared<C> s, u32 w)
        : params(p), shared(s), warpgroup(w), k(s.k_full(), s.k_empty()), v(s.v_full(), s.v_empty()), jobs(s.job_full(), s.job_empty()),
          q(s.q_full() + w, s.q_empty() + w) {}

    HOPFILL_INLINE static bool warp_leader() { return sm90::lane_index() == 0; }

    // s = Q K^T of the block in k's current slot: issued, not awaited.
    HOPFILL_INLINE void multiply_qk(float (&s)[kN / 2]) {
        const u64 a = k_major_descriptor(shared.q(warpgroup));
        const u64 b = k_major_descriptor(shared.k(k.slot));
#pragma unroll
        for (i32 d = 0; d < kD / 16; ++d) {
            const u32 inside = d % 4 * 32;
            sm90::wgmma_ss<kN, C.elem>(s, a + descriptor_offset(d / 4 * kRowsPerWarpgroup * kSlabBytes + inside),
                                       b + descriptor_offset(d / 4 * kGeometry.kv_slab + inside), d != 0);
        }
        sm90::wgmma_commit();
    }

    // o += P V of the block in v's current slot: issued, not awaited.
    HOPFILL_INLINE void multiply_pv(float (&o)[kD / 2], const u32 (&p)[kN / 16][4], bool accumulate) {
        const u64 b = mn_major_descriptor(shared.v(v.slot), kGeometry.kv_slab);
#pragma unroll
        for (i32 n = 0; n < kN / 16; ++n)
            sm90::wgmma_rs<kD, C.elem, sm90::Major::mn>(o, p[n], b + descriptor_offset(n * 2 * kAtomBytes), accumulate || n != 0);
        sm90::wgmma_commit();
    }

    template <i32 Slots>
    HOPFILL_INLINE static void release(Ring<Slots>& ring) {
        if (warp_leader()) ring.release();
        ring.advance();
    }

    HOPFILL_INLINE void wait_turn() const {
        if constexpr (C.pingpong) sm90::named_barrier_sync(kTurn + warpgroup, 256);
    }
    HOPFILL_INLINE void pass_turn() const {
        if constexpr (C.pingpong) sm90::named_barrier_arrive(kTurn + (warpgroup + 1 == C.consumers ? 0 : warpgroup + 1), 256);
    }

    // One KV block in steady state: Q K^T of block n beside P V of block n + 1.
    template <bool Masked>
    HOPFILL_INLINE void step(float (&o)[kD / 2], u32 (&p)[kN / 16][4], Softmax& softmax, i32 n, const i32 (&limit)[2], bool& started) {
        float s[kN / 2];
        k.wait_full();
        wait_turn();
        sm90::wgmma_fence();
        multiply_qk(s);
        v.wait_full();
        sm90::wgmma_fence();
        multiply_pv(o, p, started);
        started = true;
        pass_turn();
        sm90::wgmma_wait<1>();
        sm90::pin_registers(s);
        release(k);
        if constexpr (Masked) mask_block<C>(s, n * kN + fragment_column(sm90::thread_index()), limit);
        float rescale[2];
        softmax.step<kN>(s, params.scale_log2, rescale);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        release(v);
        pack_fragments<C.elem, kN>(s, p);
#pragma unroll
        for (i32 i = 0; i < kD / 2; ++i) o[i] *= rescale[fragment_half(i)];
    }

    // All blocks of a job; o is left unnormalised and complete.
    HOPFILL_INLINE void attend(const Job& job, const KvRange& range, float (&o)[kD / 2], Softmax& softmax) {
        const i32 row = job.row0 + warpgroup * kRowsPerWarpgroup + fragment_row(sm90::thread_index());
        const i32 limit[2] = {visible_keys<C>(row, job.q_len, job.kv_len), visible_keys<C>(row + 8, job.q_len, job.kv_len)};
        u32 p[kN / 16][4];
        i32 n = range.end - 1;
        {
            float s[kN / 2];
            q.wait_full();
            k.wait_full();
            wait_turn();
            sm90::wgmma_fence();
            multiply_qk(s);
            pass_turn();
            sm90::wgmma_wait<0>();
            sm90::pin_registers(s);
            release(k);
            mask_block<C>(s, n * kN + fragment_column(sm90::thread_index()), limit);
            float rescale[2];
            softmax.step<kN>(s, params.scale_log2, rescale);
            pack_fragments<C.elem, kN>(s, p);
        }
        bool started = false;
        --n;
#pragma unroll 1
        for (; n >= range.unmasked; --n) step<true>(o, p, softmax, n, limit, started);
#pragma unroll 1
        for (; n >= 0; --n) step<false>(o, p, softmax, n, limit, started);
        if constexpr (!kGeometry.o_over_q) release_q();
        v.wait_full();
        sm90::wgmma_fence();
        multiply_pv(o, p, started);
        sm90::wgmma_wait<0>();
        sm90::pin_registers(o);
        release(v);
    }

    HOPFILL_INLINE void release_q() {
        if (warp_leader()) q.release();
        q.advance();
    }

    HOPFILL_INLINE Job next_job() {
        jobs.wait_full();
        const Job* slot = shared.job(jobs.slot);
        Job job;
        job.head = sm90::load_shared(&slot->head);
        job.sequence = sm90::load_shared(&slot->sequence);
        job.row0 = sm90::load_shared(&slot->row0);
        job.q_len = sm90::load_shared(&slot->q_len);
        job.kv_len = sm90::load_shared(&slot->kv_len);
        job.q_start = sm90::load_shared(&slot->q_start);
        job.more = sm90::load_shared(&slot->more);
        sm90::sync_warp();
        release(jobs);
        return job;
    }

    HOPFILL_INLINE void run() {
        const bool storer = sm90::thread_index() % 128 == 0;  // issues this warpgroup's TMA stores and waits for them
        // The first turn is warpgroup 0's: it gives itself the arrival that its predecessor would have made.
        if constexpr (C.pingpong) {
            if (warpgroup == 0) sm90::named_barrier_arrive(kTurn, 256);
        }
#pragma unroll 1
        for (;;) {
            const Job job = next_job();
            if (job.more == 0) break;
            const KvRange range = kv_range(C, job.row0, kGeometry.tile_m, job.q_len, job.kv_len);
            float o[kD / 2];
            Softmax softmax;
            if (range.end > 0) {
                attend(job, range, o, softmax);
            } else {
#pragma unroll
                for (i32 i = 0; i < kD / 2; ++i) o[i] = 0.0f;
            }
            float inverse[2], lse[2];
            softmax.finish(inverse, lse);
            store_lse<C>(params, job, warpgroup, lse);

            // The staging slot is free once this warpgroup's last store has read it; over Q, once its own products are complete as well.
            if (storer) sm90::tma_store_wait_read<0>();
            sm90::named_barrier_sync(kEpilogue + warpgroup, 128);
            stage_output<C>(shared.o(warpgroup), o, inverse);
            sm90::fence_async_shared();
            sm90::named_barrier_sync(kEpilogue + warpgroup, 128);
            if (storer) store_output<C>(params, job, warpgroup, shared.o(warpgroup));
            if constexpr (kGeometry.o_over_q) {
                if (storer) sm90::tma_store_wait_read<0>();
                if (range.end > 0) {
                    sm90::named_barrier_sync(kEpilogue + warpgroup, 128);
                    release_q();
                }
            }
        }
        if (storer) sm90::tma_store_wait<0>();
        // Warpgroup 0 takes the arrival that the last warpgroup's last turn left, so that the barrier ends empty.
        if constexpr (C.pingpong) {
            if (warpgroup == 0) sm90::named_barrier_sync(kTurn, 256);
        }
    }
};

}  // namespace hopfill

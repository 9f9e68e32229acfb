// The producer warp: draws jobs, describes them to the consumers and feeds Q, K and V through TMA, as far ahead as slots allow.
#pragma once

#include "prefill/job.cuh"
#include "prefill/shared.cuh"
#include "sm90/tma.cuh"

namespace hopfill {

template <KernelConfig C>
struct Producer {
    static constexpr Geometry kGeometry = geometry(C);

    const PrefillParams& params;
    Shared<C> shared;
    Ring<C.stages> k, v;
    Ring<kJobSlots> jobs;
    Ring<kGeometry.q_slots> q;  // all warpgroups' query slots turn together; warpgroup w's barriers lie beside warpgroup 0's

    HOPFILL_INLINE Producer(const PrefillParams& p, Shared<C> s)
        : params(p), shared(s), k(s.k_full(), s.k_empty()), v(s.v_full(), s.v_empty()), jobs(s.job_full(), s.job_empty()), q(s.q_full(0), s.q_empty(0)) {}

    HOPFILL_INLINE void load_block(Ring<C.stages>& ring, u8* to, const TensorMap* map, i32 head, RowCoord at, i32 block) {
        ring.wait_empty();
        sm90::mbarrier_arrive_expect_bytes(ring.full_barrier(), kGeometry.kv_block);
#pragma unroll
        for (i32 s = 0; s < kGeometry.slabs; ++s)
            sm90::tma_load(to + s * kGeometry.kv_slab, map, ring.full_barrier(),
                           {s * kGeometry.slab_columns, head, at.row + block * C.tile_n, at.c3, at.c4}, sm90::CacheHint::evict_last);
        ring.advance();
    }

    HOPFILL_INLINE void load_q(const Job& job) {
        const RowCoord at = row_coord<C>(job.sequence, job.q_start, job.q_len);
#pragma unroll
        for (i32 w = 0; w < C.consumers; ++w) {
            u64* full = shared.q_full(w) + q.slot;
            sm90::mbarrier_wait(shared.q_empty(w) + q.slot, q.phase ^ 1);
            sm90::mbarrier_arrive_expect_bytes(full, kGeometry.q_warpgroup);
#pragma unroll
            for (i32 s = 0; s < kGeometry.slabs; ++s)
                sm90::tma_load(shared.q(w, q.slot) + s * kRowsPerWarpgroup * kSlabBytes, &params.q, full,
                               {s * kGeometry.slab_columns, job.head, at.row + job.row0 + w * kRowsPerWarpgroup, at.c3, at.c4},
                               sm90::CacheHint::evict_first);
        }
        q.advance();
    }

    // A job's KV blocks, in the order of reading: last, last - 1, ... first.
    struct Blocks {
        RowCoord at;
        i32 kv_head, last, first;
    };

    HOPFILL_INLINE void load_k(const Blocks& b, i32 n) { load_block(k, shared.k(k.slot), &params.k, b.kv_head, b.at, n); }
    HOPFILL_INLINE void load_v(const Blocks& b, i32 n) { load_block(v, shared.v(v.slot), &params.v, b.kv_head, b.at, n); }

    // One lane: hands a job to the consumers.
    HOPFILL_INLINE void publish(const Job& job) {
        jobs.wait_empty();
        Job* slot = shared.job(jobs.slot);
        sm90::store_shared(&slot->head, job.head);
        sm90::store_shared(&slot->sequence, job.sequence);
        sm90::store_shared(&slot->row0, job.row0);
        sm90::store_shared(&slot->q_len, job.q_len);
        sm90::store_shared(&slot->kv_len, job.kv_len);
        sm90::store_shared(&slot->q_start, job.q_start);
        sm90::store_shared(&slot->blocks, job.blocks);
        sm90::store_shared(&slot->unmasked, job.unmasked);
        sm90::mbarrier_arrive(jobs.full_barrier());
        jobs.advance();
    }

    // The whole warp. The loads of all jobs are one stream in which K runs one block ahead of V, across jobs too:
    //   ... K[1] V[2] K[0] V[1] | Q' K'[last] V[0] | K'[last - 1] V'[last] ...
    HOPFILL_INLINE void run() {
        const bool leader = sm90::elect_one();
        JobSource<C> source(params);
        Blocks open{};
        bool pending = false;  // V of the job before is not yet asked for
        while (source.next < static_cast<u32>(params.jobs)) {
            Job job;
            i32 k_start = 0;
            if constexpr (C.packed) {
                if (!decode_packed<C>(params, source.next, job, k_start)) break;  // every number above this one is past the end too
            } else {
                decode_dense<C>(params, source.next, job);
            }
            const KvRange range = kv_range(C, job.row0, kGeometry.tile_m, job.q_len, job.kv_len);
            job.blocks = clamp_low(range.end, 1);
            job.unmasked = range.unmasked;
            if (leader) {
                publish(job);
                load_q(job);
                // Rows without a key are a job like others: one block, out of bounds, which TMA fills with zeros and the mask hides.
                const i32 last = range.end > 0 ? range.end - 1 : ceil_div(clamp_low(job.kv_len, 1), C.tile_n);
                const Blocks blocks{row_coord<C>(job.sequence, k_start, job.kv_len), job.head / params.heads_per_kv_head, last, last + 1 - job.blocks};
                load_k(blocks, last);
                if (pending) load_v(open, open.first);
                for (i32 n = last; n > blocks.first; --n) {
                    load_k(blocks, n - 1);
                    load_v(blocks, n);
                }
                open = blocks;
                pending = true;
            }
            sm90::sync_warp();
            source.draw();
        }
        source.finish();
        if (leader) {
            if (pending) load_v(open, open.first);
            Job none{};
            none.blocks = kNoMoreJobs;
            publish(none);
        }
    }
};

}  // namespace hopfill

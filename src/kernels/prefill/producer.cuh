// The producer warp: draws jobs, describes them to the consumers and feeds Q, K and V through TMA, as far ahead as slots allow. Of the main family
// these are two warps (scheduler.cuh), which share what is here.
#pragma once

#include "prefill/job.cuh"
#include "prefill/shared.cuh"
#include "prefill/parts.cuh"
#include "prefill_fp8/turned.cuh"
#include "sm90/tma.cuh"

namespace hopfill {

template <KernelConfig C>
struct Producer {
    static constexpr Geometry kGeometry = geometry(C);
    // Of a block as TMA brings it.
    static constexpr i32 block_bytes() { return kGeometry.raw_stages > 0 ? kGeometry.raw_block : kGeometry.kv_block; }
    static constexpr i32 slab_bytes() { return kGeometry.raw_stages > 0 ? kGeometry.raw_slab : kGeometry.kv_slab; }

    // A job's KV blocks, in the order of reading: last, last - 1, ... first.
    struct Blocks {
        RowCoord at;
        i32 kv_head, last, first;
    };

    const PrefillParams& params;
    Shared<C> shared;
    CountedRing<kJobSlots> jobs;  // what the leader does, every lane counts (but Loader's)
    CountedRing<kGeometry.q_slots> q;  // all warpgroups' query slots turn together; warpgroup w's barriers lie beside warpgroup 0's

    HOPFILL_INLINE Producer(const PrefillParams& p, Shared<C> s)
        : params(p), shared(s), jobs(s.job_full(), s.job_empty()), q(s.q_full(0), s.q_empty(0)) {}

    template <class Ring>
    HOPFILL_INLINE void load_block(Ring& ring, u8* to, const TensorMap* map, const Blocks& b, i32 n) {
        ring.wait_empty();
        sm90::mbarrier_arrive_expect_bytes(ring.full_barrier(), block_bytes());
#pragma unroll
        for (i32 s = 0; s < kGeometry.slabs; ++s)
            sm90::tma_load(to + s * slab_bytes(), map, ring.full_barrier(),
                           {s * kGeometry.slab_columns, b.kv_head, b.at.row + n * C.tile_n, b.at.c3, kWrap<C>}, sm90::CacheHint::evict_last);
        ring.advance();
    }

    HOPFILL_INLINE void load_q(const Job& job) {
#pragma unroll
        for (i32 w = 0; w < Shared<C>::kRowGroups; ++w) load_q_rows(job, w);
        q.advance();
    }
    HOPFILL_INLINE void load_q_rows(const Job& job, i32 w) {
        const RowCoord at = row_coord<C>(job.sequence, job.q_start, job.q_len);
        u64* full = shared.q_full(w) + q.at();
        sm90::mbarrier_wait(shared.q_empty(w) + q.at(), q.empty_phase());
        sm90::mbarrier_arrive_expect_bytes(full, kGeometry.q_rows);
#pragma unroll
        for (i32 s = 0; s < kGeometry.slabs; ++s)
            sm90::tma_load(shared.q(w, q.at()) + s * kRowsPerWarpgroup * kSlabBytes, &params.q, full,
                           {s * kGeometry.slab_columns, job.head, at.row + first_row<C>(job.row0, job.q_len, w), at.c3, kWrap<C>},
                           sm90::CacheHint::evict_first);
    }

    // One lane: hands a job to the consumers.
    HOPFILL_INLINE void publish(const Job& job) {
        jobs.wait_empty();
        Job* slot = shared.job(jobs.at());
        sm90::store_shared(&slot->head, job.head);
        sm90::store_shared(&slot->sequence, job.sequence);
        sm90::store_shared(&slot->row0, job.row0);
        sm90::store_shared(&slot->q_len, job.q_len);
        sm90::store_shared(&slot->kv_len, job.kv_len);
        sm90::store_shared(&slot->q_start, job.q_start);
        sm90::store_shared(&slot->blocks, job.blocks);
        sm90::store_shared(&slot->unmasked, job.unmasked);
        if constexpr (repeats_jobs(C)) sm90::store_shared(&slot->number, job.number);
        if constexpr (C.splits) sm90::store_shared(&slot->part, job.part);
        if constexpr (schedules(C)) {
            sm90::store_shared(&slot->kv_head, job.kv_head);
            sm90::store_shared(&slot->kv_row, job.kv_row);
            sm90::store_shared(&slot->kv_c3, job.kv_c3);
            sm90::store_shared(&slot->first_block, job.first_block);
        }
        if constexpr (scales_in_jobs(C)) {
            sm90::store_shared(&slot->logit, job.logit);
            sm90::store_shared(&slot->unit, job.unit);
        }
        sm90::mbarrier_arrive(jobs.full_barrier());
        jobs.advance();
    }

    // The other lanes.
    HOPFILL_INLINE void count_job() { jobs.advance(); }

    HOPFILL_INLINE void publish_end() {
        Job none{};
        none.blocks = kNoMoreJobs;
        publish(none);
    }

    // The whole warp: turns a job number into a job and its blocks; false past the last.
    HOPFILL_INLINE bool decode(u32 number, Job& job, Blocks& blocks) const {
        if (number >= static_cast<u32>(params.jobs)) return false;
        i32 k_start = 0;
        if constexpr (C.packed) {
            if (!decode_packed<C>(params, number, job, k_start)) return false;  // every number above this one is past the end too
        } else {
            if constexpr (C.splits)
                decode_dense<C>(params, whole_job<C>(params, number, job), job);
            else
                decode_dense<C>(params, number, job);
        }
        const KvRange range = job_range(C, job.row0, job.q_len, job.kv_len);
        job.blocks = clamp_low(range.end, 1);
        job.unmasked = range.unmasked;
        job.number = static_cast<i32>(number);
        // Rows without a key are a job like others: one block, out of bounds, which TMA fills with zeros and the mask hides.
        const i32 last = range.end > 0 ? range.end - 1 : ceil_div(clamp_low(job.kv_len, 1), C.tile_n);
        blocks = {row_coord<C>(job.sequence, k_start, job.kv_len), divide(job.head, params.by_kv_group), last, last + 1 - job.blocks};
        if constexpr (C.splits) {
            if (job.part != kWholeJob) narrow_to_part<C>(params, job, blocks.first, blocks.last);
        }
        return true;
    }
};

// What a job's description has beside what it is decoded to: nothing. (prefill_fp8/scales.cuh has multipliers.)
struct DescribeNothing {
    static constexpr bool any() { return false; }
    HOPFILL_INLINE static void add(const PrefillParams&, Job&) {}
};

// All but the main family and prefill_short: one ring of K and one of V. The loads of all jobs are one stream in which K runs one block ahead of V,
// across jobs too:
//   ... K[1] V[2] K[0] V[1] | Q' K'[last] V[0] | K'[last - 1] V'[last] ...
// or (queries_last(), or last_v_first() alone)
//   ... K[1] V[2] K[0] V[1] V[0] | K'[last] Q' | K'[last - 1] V'[last] ...
//   ... K[1] V[2] K[0] V[1] V[0] | Q' K'[last] | K'[last - 1] V'[last] ...
// or (KernelConfig::ahead; Q0, Q1: the later and the earlier rows)
//   ... K[0] V[1] | Q0' K'[last] V[0] | K'[last - 1] V'[last] Q1' ...
// `Describe` adds to a job what it loads from global memory, while the job's first loads are under way.
template <KernelConfig C, class Describe = DescribeNothing>
struct StreamProducer : Producer<C> {
    using Base = Producer<C>;
    using Blocks = typename Base::Blocks;
    using Base::kGeometry;
    // prefill_mixed: one ring of raw blocks for both.
    static constexpr bool raw() { return kGeometry.raw_stages > 0; }
    typename SmallRing<raw() ? kGeometry.raw_stages : C.stages>::Type k;
    typename SmallRing<v_direct(C) ? kGeometry.vt_stages : kGeometry.v_stages>::Type v;

    HOPFILL_INLINE StreamProducer(const PrefillParams& p, Shared<C> s)
        : Base(p, s), k(raw() ? s.raw_full() : s.k_full(0), raw() ? s.raw_empty() : s.k_empty(0)),
          v(v_direct(C) ? s.vt_full() : s.v_full(0), v_direct(C) ? s.vt_empty() : s.v_empty(0)) {}

    HOPFILL_INLINE void load_k(const Blocks& b, i32 n) {
        if constexpr (pairs_keys(C))
            load_paired_k(b, n);
        else
            this->load_block(k, raw() ? this->shared.raw(k.at()) : this->shared.k(0, k.at()), &this->params.k, b, n);
    }
    HOPFILL_INLINE void load_v(const Blocks& b, i32 n) {
        if constexpr (loads_v_transposed(C))
            load_transposed_v(b, n);
        else if constexpr (raw())
            this->load_block(k, this->shared.raw(k.at()), &this->params.v, b, n);
        else
            this->load_block(v, this->shared.v(0, v.at()), &this->params.v, b, n);
    }

    // The whole warp, before the block's first barrier: the first job's first loads are under way while the consumers start. Dense jobs are known
    // from the parameters alone, before the launch before this one has ended; of ragged ones the lengths are data.
    HOPFILL_INLINE void begin() {
        if constexpr (C.packed) sm90::wait_for_previous_launch();
        some = this->decode(source.next, job, blocks);
        if constexpr (!C.packed) sm90::wait_for_previous_launch();
        if (some && leader) open();
        if (some && !leader) this->count_job();
        if (end_early() && !some && leader) this->publish_end();
    }

    // The whole warp, after it.
    HOPFILL_INLINE void run() {
        bool more = some;
        while (more) {
            if (leader && some) {
                for (i32 n = blocks.last; n > blocks.first; --n) {
                    if (n == blocks.first + 1) source.start_draw();
                    load_k(blocks, n - 1);
                    load_v(blocks, n);
                    if (C.ahead && n == blocks.last) load_early_rows();
                }
                if (blocks.last == blocks.first) source.start_draw();
                if constexpr (last_v_first(C)) load_last_v(blocks);
            }
            const Blocks before = blocks;
            const bool had = some;
            sm90::sync_warp();
            source.finish_draw(leader);
            some = this->decode(source.next, job, blocks);
            const bool ends = end_early() && !some && had;
            if (leader) {
                if (some) open();
                if (ends) this->publish_end();
                if (had && !last_v_first(C)) load_last_v(before);
            } else if (some || ends) {
                this->count_job();
            }
            if (!some) more = false;
        }
        source.finish();
        if (!end_early() && leader) this->publish_end();
        if constexpr (C.v_turned) {
            finish_turning<C>(turn_params(), leader);
        }
    }

private:
    bool leader = sm90::elect_one();
    bool some = false;
    JobSource<C> source{this->params};
    Job job;
    Blocks blocks;

    HOPFILL_INLINE void load_last_v(const Blocks& b) { load_v(b, b.first); }

    HOPFILL_INLINE const PrefillTurnParams& turn_params() const { return static_cast<const PrefillTurnParams&>(this->params); }
    HOPFILL_INLINE const PrefillVtParams& vt_params() const { return static_cast<const PrefillVtParams&>(this->params); }

    // The block's even rows, then its odd ones (tile/fragment.cuh).
    HOPFILL_INLINE void load_paired_k(const Blocks& b, i32 n) {
        constexpr i32 kHalf = C.tile_n / 2;
        k.wait_empty();
        sm90::mbarrier_arrive_expect_bytes(k.full_barrier(), kGeometry.kv_block);
        u8* const to = this->shared.k(0, k.at());
#pragma unroll
        for (i32 s = 0; s < 2 * kGeometry.slabs; ++s)
            sm90::tma_load(to + s * kHalf * kSlabBytes, s % 2 == 0 ? &this->params.k : &vt_params().k_odd, k.full_barrier(),
                           {s / 2 * kGeometry.slab_columns, b.kv_head, n * kHalf, b.at.c3, 0}, sm90::CacheHint::evict_last);
        k.advance();
    }

    // Of a ragged sequence from the last multiple of 16 bytes on, and 16 keys more: TMA begins nowhere else.
    HOPFILL_INLINE void load_transposed_v(const Blocks& b, i32 n) {
        const i32 first = n * C.tile_n + (C.packed ? (b.at.row + b.at.c3 - kWrap<C>) / edge_keys() * edge_keys() : 0);
        if constexpr (C.v_turned) wait_turned<C>(turn_params(), b.at.c3, b.kv_head, n);
        v.wait_empty();
        sm90::mbarrier_arrive_expect_bytes(v.full_barrier(), v_block_bytes(C, kGeometry));
        u8* to;
        if constexpr (v_direct(C))
            to = this->shared.vt(v.at());
        else
            to = this->shared.v(0, v.at());
#pragma unroll
        for (i32 s = 0; s < ceil_div(C.tile_n, kSlabBytes); ++s)
            sm90::tma_load(to + s * vt_slab(C), &this->params.v, v.full_barrier(),
                           {first + s * kSlabBytes, 0, b.kv_head, C.packed ? 0 : b.at.c3, 0}, sm90::CacheHint::evict_last);
        if constexpr (C.packed)
            sm90::tma_load(to + vt_rows(C), &vt_params().v_edge, v.full_barrier(), {first + C.tile_n, 0, b.kv_head, 0, 0},
                           sm90::CacheHint::evict_last);
        v.advance();
    }

    // Who transposes (prefill_fp8) or converts (prefill_mixed) a job's last V has to know the next job, or that there is none.
    static constexpr bool end_early() { return is_fp8(C.family) || C.family == Family::prefill_mixed; }

    HOPFILL_INLINE void open() {
        if constexpr (C.ahead) {
            // First what the longest chain begins with: the later rows, and the last block.
            this->load_q_rows(job, 0);
            load_k(blocks, blocks.last);
            this->publish(job);
            if (blocks.last == blocks.first) load_early_rows();
            return;
        }
        if constexpr (!Describe::any()) this->publish(job);
        if constexpr (!queries_last(C)) this->load_q(job);
        load_k(blocks, blocks.last);
        if constexpr (queries_last(C)) this->load_q(job);
        if constexpr (Describe::any()) {
            Describe::add(this->params, job);
            this->publish(job);
        }
    }
    // Of a folded job: behind what the later rows' first two steps wait for.
    HOPFILL_INLINE void load_early_rows() {
        this->load_q_rows(job, 1);
        this->q.advance();
    }
};

}  // namespace hopfill

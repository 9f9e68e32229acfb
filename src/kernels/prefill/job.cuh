// Which job comes next: the producers' half of the schedule.
#pragma once

#include "plan/geometry.h"
#include "prefill/shared.cuh"
#include "sm90/math.cuh"

namespace hopfill {

// Draws job numbers: the block's own number first, then every grid_size-th, or from a counter that the last block resets for the next launch.
template <KernelConfig C>
struct JobSource {
    const PrefillParams& params;
    u32 next;
    u32 drawn = 0;

    HOPFILL_INLINE explicit JobSource(const PrefillParams& p) : params(p), next(sm90::block_index()) {}

    // One wave needs no counter: no block has a second job.
    HOPFILL_INLINE bool counting() const { return C.dynamic && static_cast<u32>(params.jobs) > sm90::grid_size(); }

    // The leader lane asks for the next number; nothing waits for the answer until finish_draw(). Asked for too early, a block with a long job
    // takes another one that an idle block should have had.
    HOPFILL_INLINE void start_draw() {
        if (counting()) drawn = sm90::atomic_add(params.work_counter, 1u);
    }
    HOPFILL_INLINE void finish_draw(bool leader) {
        next = counting() ? sm90::grid_size() + sm90::shuffle_from(drawn, sm90::count_trailing_zeros(sm90::ballot(leader)))
                          : next + sm90::grid_size();
    }

    // After a block has drawn its last job it never touches the first word again, so the last block to say so may reset both.
    HOPFILL_INLINE void finish() const {
        if (counting() && sm90::lane_index() == 0) {
            sm90::fence_device();
            if (sm90::atomic_add(params.work_counter + 1, 1u) + 1 == sm90::grid_size()) {
                sm90::store_global(params.work_counter, 0u);
                sm90::store_global(params.work_counter + 1, 0u);
            }
        }
    }
};

// Where the `index`-th of a sequence's tiles starts: with a causal mask the longest come first. Of a folded sequence the first rows do, which meet
// the last; their jobs read most.
template <KernelConfig C>
HOPFILL_INLINE i32 first_tile_row(i32 index, i32 tiles) {
    return (C.mask == Mask::causal && !is_folded(C.family) ? tiles - 1 - index : index) * job_stride(C);
}

// Dense: groups of heads that run together (plan/choose.cpp says how many); in a group the longest tiles of all heads first (causal: the last rows),
// so that what is left at the end is short.
template <KernelConfig C>
HOPFILL_INLINE void decode_dense(const PrefillParams& p, u32 number, Job& job) {
    const u32 all_heads = p.batch * p.heads;
    const u32 per_group = p.heads_per_group * p.q_tiles;
    const u32 group = divide(number, p.by_group);
    const u32 first = group * p.heads_per_group;
    const u32 rest = number - group * per_group;
    const bool whole = all_heads - first >= static_cast<u32>(p.heads_per_group);
    const u32 width = whole ? p.heads_per_group : all_heads - first;
    const u32 level = divide(rest, whole ? p.by_width : p.by_last_width);
    const u32 flat = first + rest - level * width;
    job.sequence = divide(flat, p.by_heads);
    job.head = flat - job.sequence * p.heads;
    job.row0 = first_tile_row<C>(level, p.q_tiles);
    job.q_len = p.seqlen_q;
    job.kv_len = p.seqlen_kv;
    job.q_start = 0;
}

// Packed: number = tile * heads + head; tiles are counted sequence by sequence. All 32 lanes look at 32 sequences at a time.
// The host bounds the tiles by tokens and batch; numbers past the real ones are no jobs.
template <KernelConfig C>
HOPFILL_INLINE bool decode_packed(const PrefillParams& p, u32 number, Job& job, i32& k_start) {
    constexpr i32 kRows = geometry(C).tile_m;
    i32 tile = divide(number, p.by_heads);
    job.head = number - tile * p.heads;
    const i32 lane = sm90::lane_index();
    for (i32 base = 0; base < p.batch; base += 32) {
        const i32 s = base + lane;
        i32 q0 = 0, q1 = 0;
        if (s < p.batch) {
            q0 = clamp_high(clamp_low(sm90::load_global(p.cu_seqlens_q + s), 0), p.total_q);
            q1 = clamp_high(clamp_low(sm90::load_global(p.cu_seqlens_q + s + 1), q0), p.total_q);
        }
        i32 sum = (q1 - q0 + kRows - 1) / kRows;
        const i32 mine = sum;
#pragma unroll
        for (u32 d = 1; d < 32; d *= 2) {
            const i32 below = sm90::shuffle_up(sum, d);
            if (lane >= static_cast<i32>(d)) sum += below;
        }
        const u32 reached = sm90::ballot(sum > tile);
        if (reached != 0) {
            // The lowest set bit, isolated and counted, is the sequence that holds the tile.
            const u32 owner = sm90::count_trailing_zeros(reached);
            i32 k0 = 0, k1 = 0;
            if (lane == static_cast<i32>(owner)) {
                k0 = clamp_high(clamp_low(sm90::load_global(p.cu_seqlens_k + s), 0), p.total_kv);
                k1 = clamp_high(clamp_low(sm90::load_global(p.cu_seqlens_k + s + 1), k0), p.total_kv);
            }
            const i32 within = tile - sm90::shuffle_from(sum - mine, owner);
            const i32 tiles = sm90::shuffle_from(mine, owner);
            job.sequence = base + owner;
            job.row0 = first_tile_row<C>(within, tiles);
            job.q_start = sm90::shuffle_from(q0, owner);
            job.q_len = sm90::shuffle_from(q1 - q0, owner);
            k_start = sm90::shuffle_from(k0, owner);
            job.kv_len = sm90::shuffle_from(k1 - k0, owner);
            return true;
        }
        tile -= sm90::shuffle_from(sum, 31u);
    }
    return false;
}

}  // namespace hopfill

// Multipliers of e4m3 tensors (plan/params.h, ScaleView): where they enter the arithmetic.
//   q, k   the logits' factor: softmax scale * q's * k's, which costs nothing, as each logit is multiplied anyway
//   v      the output's, at the end; when it changes from block to block, the output is kept in units of the latest block's multiplier, and the
//          factor that rescales it takes it from one unit to the next; within a block of two multipliers P takes the ratio to the larger
//   v, per channel   the output's columns, at the end
#pragma once

#include "plan/geometry.h"
#include "plan/params.h"
#include "prefill/shared.cuh"
#include "prefill_fp8/softmax.cuh"
#include "sm90/math.cuh"
#include "tile/fragment.cuh"

namespace hopfill {

// Multipliers in a KV block.
constexpr i32 scale_factors(const KernelConfig& c) { return c.scale_block != 0 && c.scale_block < c.tile_n ? c.tile_n / c.scale_block : 1; }

// Never 0, which times the -inf of a masked logit is NaN.
HOPFILL_INLINE float at_least(float v, float low) { return v < low ? low : v; }
constexpr float kSmallestFactor = 1.17549435e-38f;
// V's multipliers are divided by each other; 2^-64 times the largest e4m3 is nothing beside a float16 output.
constexpr float kSmallestUnit = 5.42101086e-20f;

// Without keys: 1, as the multipliers of an empty sequence may be NaN.
HOPFILL_INLINE float load_scale(const ScaleView& view, i32 sequence, i32 entry, i32 block, i32 keys) {
    if (view.data == nullptr || keys == 0) return 1.0f;
    return sm90::load_global(view.data + (static_cast<i64>(sequence) * view.batch + static_cast<i64>(entry) * view.head +
                                          static_cast<i64>(block) * view.block));
}

// Multipliers of a KV block, where blocks have their own.
template <KernelConfig C>
struct BlockScales {
    static constexpr i32 kCount = scale_factors(C);
    static_assert(kCount <= 2);
    float k[kCount], v[kCount];

    HOPFILL_INLINE static i32 block_of(const ScaleView& view, i32 key) {
        if (view.block_tokens == 0) return 0;
        return any_scale_block(C) ? key >> (view.block_tokens == 64 ? 6 : 7) : key / C.scale_block;
    }

    // Of block n of a job, from global memory. Multipliers of blocks past the sequence's end are never used: they may be anything.
    HOPFILL_INLINE void load(const PrefillFp8Params& p, i32 sequence, i32 head, i32 kv_len, i32 n) {
        const i32 kv_head = divide(head, p.by_kv_group);
#pragma unroll
        for (i32 f = 0; f < kCount; ++f) {
            const i32 key = clamp_high(n * C.tile_n + f * (C.tile_n / kCount), kv_len - 1);
            k[f] = load_scale(p.k_scale, sequence, kv_head, block_of(p.k_scale, key), kv_len);
            v[f] = load_scale(p.v_scale, sequence, kv_head, block_of(p.v_scale, key), kv_len);
        }
    }
    HOPFILL_INLINE void load(const PrefillFp8Params& p, const Job* job, i32 n) {
        load(p, sm90::load_shared(&job->sequence), sm90::load_shared(&job->head), sm90::load_shared(&job->kv_len), n);
    }
    // Through shared memory, for a later block of a job.
    HOPFILL_INLINE void put(float* to) const { sm90::store_shared4(to, k[0], k[kCount - 1], v[0], v[kCount - 1]); }
    HOPFILL_INLINE void get(const float* from) {
        float w[4];
        sm90::load_shared4(from, w);
        k[0] = w[0];
        k[kCount - 1] = w[1];
        v[0] = w[2];
        v[kCount - 1] = w[3];
    }
};

// What the producer adds to a job's description: multipliers of all of a sequence.
template <KernelConfig C>
struct DescribeScales {
    static constexpr bool any() { return scales_in_jobs(C); }
    HOPFILL_INLINE static void add(const PrefillParams& params, Job& job) {
        const PrefillFp8Params& p = static_cast<const PrefillFp8Params&>(params);
        const i32 kv_head = divide(job.head, p.by_kv_group);
        const float q = load_scale(p.q_scale, job.sequence, p.q_scale.by_kv_head != 0 ? kv_head : job.head, 0, job.kv_len);
        const float k = load_scale(p.k_scale, job.sequence, kv_head, 0, job.kv_len);
        job.unit = load_scale(p.v_scale, job.sequence, kv_head, 0, job.kv_len);
        job.logit = at_least(p.scale_log2 * q * k, kSmallestFactor);
    }
};

// What a warpgroup knows of its job's multipliers.
template <KernelConfig C>
struct JobScales {
    static constexpr i32 kFactors = scale_factors(C);
    float logit;  // softmax scale (log2) * q's multiplier * k's where that does not change
    float unit;   // scale_block != 0: the output's

    // Asks for a job's multipliers; nothing waits for them yet.
    HOPFILL_INLINE void open(const PrefillFp8Params& p, const Job* job, u32 row_group) {
        if constexpr (scales_in_jobs(C)) {
            logit = sm90::load_shared(&job->logit);
        } else {
            open_blocks(p, job, row_group);
        }
    }
    HOPFILL_INLINE void open_blocks(const PrefillFp8Params& p, const Job* job, u32 row_group) {
        const i32 head = sm90::load_shared(&job->head), sequence = sm90::load_shared(&job->sequence), kv_len = sm90::load_shared(&job->kv_len);
        i32 q_block = 0;
        if (p.q_scale.block_tokens != 0) {
            // A warpgroup's rows lie in one block; rows past the sequence's end take the last one's.
            const i32 row = sm90::load_shared(&job->row0) + static_cast<i32>(row_group) * kRowsPerWarpgroup;
            q_block = clamp_high(row, sm90::load_shared(&job->q_len) - 1) >> (p.q_scale.block_tokens == 64 ? 6 : 7);
        }
        const i32 entry = p.q_scale.by_kv_head != 0 ? divide(head, p.by_kv_group) : head;
        logit = p.scale_log2 * load_scale(p.q_scale, sequence, entry, q_block, kv_len);
        unit = 1.0f;
    }

    // What a finished job's output is to be multiplied with.
    HOPFILL_INLINE float output([[maybe_unused]] const Job* job) const {
        if constexpr (scales_in_jobs(C))
            return sm90::load_shared(&job->unit);
        else
            return unit;
    }

    // The next block's factors of logits and of P; returns what takes outputs from the unit so far to this block's.
    HOPFILL_INLINE float enter(const BlockScales<C>& b, float (&logits)[kFactors], float (&weights)[kFactors]) {
        if constexpr (C.scale_block == 0) {
            logits[0] = logit;
            return 1.0f;
        } else {
            float next = at_least(b.v[0], kSmallestUnit);
#pragma unroll
            for (i32 f = 1; f < kFactors; ++f) next = sm90::max_float(next, b.v[f]);
            const float inverse = inverse_of(next);
#pragma unroll
            for (i32 f = 0; f < kFactors; ++f) {
                logits[f] = at_least(logit * b.k[f], kSmallestFactor);
                weights[f] = b.v[f] * inverse;
            }
            const float change = unit * inverse;
            unit = next;
            return change;
        }
    }
};

// Columns of the output by V's multipliers per channel, each a constant further than this thread's first: beside logits on their way (hd256) there
// are no registers for an address a column.
template <KernelConfig C>
HOPFILL_INLINE void scale_channels_from_one(const PrefillFp8Params& p, i32 head, float (&o)[C.head_dim / 2]) {
    if (p.v_channel_scale == nullptr) return;
    const i32 first = static_cast<i32>(fragment_column(sm90::thread_index_anew())), left = p.channels - first;
    const float* const scale = p.v_channel_scale + static_cast<i64>(divide(head, p.by_kv_group)) * p.v_channel_stride + first;
#pragma unroll
    for (i32 i = 0; i < C.head_dim / 2; i += 4) {
#pragma unroll
        for (i32 j = 0; j < 2; ++j) {
            const float factor = 2 * i + j < left ? sm90::load_global(scale + 2 * i + j) : 1.0f;
            o[i + j] *= factor;
            o[i + 2 + j] *= factor;
        }
    }
}

// Columns of the output by V's multipliers per channel. (Up to hd128 it is this form that does not spill, the division among it.)
template <KernelConfig C>
HOPFILL_INLINE void scale_channels(const PrefillFp8Params& p, i32 head, float (&o)[C.head_dim / 2]) {
    if (p.v_channel_scale == nullptr) return;
    const float* scale = p.v_channel_scale + static_cast<i64>(head / p.heads_per_kv_head) * p.v_channel_stride;
#pragma unroll
    for (i32 i = 0; i < C.head_dim / 2; i += 4) {
#pragma unroll
        for (i32 j = 0; j < 2; ++j) {
            const i32 column = 2 * i + static_cast<i32>(fragment_column(sm90::thread_index())) + j;
            const float factor = column < p.channels ? sm90::load_global(scale + column) : 1.0f;
            o[i + j] *= factor;
            o[i + 2 + j] *= factor;
        }
    }
}

}  // namespace hopfill

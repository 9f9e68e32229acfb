// The last jobs of a launch, when there are too few of them for a wave: blocks share each, a part of its keys each (KernelConfig::splits; how many
// parts, planner::split_of says). A warp leaves its rows' outputs of the part's keys, and the references and sums of their exponentials, in a record
// in global memory; who finds that all other parts have left theirs adds them up, weighted (FlashAttention-2, section 3.1 has the same sum), always
// in the order of the keys, so that bits do not depend on who is last. Nobody waits for anybody.
#pragma once

#include "plan/split.h"
#include "prefill/epilogue.cuh"
#include "sm90/vector.cuh"
#include "tile/inverse.cuh"

namespace hopfill {

HOPFILL_INLINE const PrefillSplitParams& split_params(const PrefillParams& p) { return static_cast<const PrefillSplitParams&>(p); }

// Which job the `number`-th is, or is a part of; job.part says which.
template <KernelConfig C>
HOPFILL_INLINE u32 whole_job(const PrefillParams& params, u32 number, Job& job) {
    const PrefillSplitParams& p = split_params(params);
    job.part = kWholeJob;
    if (number < static_cast<u32>(p.whole_jobs)) return number;
    job.part = static_cast<i32>(number) - p.whole_jobs;
    return static_cast<u32>(p.whole_jobs + divide(static_cast<u32>(job.part), p.by_parts));
}

// From a job to a part of it: to its KV blocks, which count, as the keys do, from its first one on. A part does not come again (repeats_jobs()), as
// another block may have read what it left: all its blocks are taken by their maxima, like those of a job that does.
template <KernelConfig C>
HOPFILL_INLINE void narrow_to_part(const PrefillParams& params, Job& job, i32& first, i32& last) {
    const PrefillSplitParams& p = split_params(params);
    const i32 part = job.part - divide(static_cast<u32>(job.part), p.by_parts) * p.parts, all = job.blocks;
    first = divide(static_cast<u32>(part * all), p.by_parts);
    last = divide(static_cast<u32>((part + 1) * all), p.by_parts) - 1;
    job.blocks = last - first + 1;
    job.kv_len -= first * C.tile_n;
    job.unmasked = repeats_jobs(C) ? 0 : clamp_high(clamp_low(job.unmasked - first, 0), job.blocks);
}

// Of this thread, found anew, as all that follows: a register for it is not there.
HOPFILL_INLINE i32 consumer_warp() { return static_cast<i32>(sm90::thread_index_anew() / 32) - 4; }

HOPFILL_INLINE u32 lane_anew() { return sm90::thread_index_anew() % 32; }

// First of this thread's two rows of a job.
template <KernelConfig C>
HOPFILL_INLINE i32 row_of_thread(const Job* job, i32 q_len) {
    const u32 thread = sm90::thread_index_anew();
    return first_row<C>(sm90::load_shared(&job->row0), q_len, thread / 128 - 1) + static_cast<i32>(fragment_row(thread));
}

// What a warp leaves of a part: its 16 rows' references and sums, then, four at a time, the outputs that its lanes hold.
template <KernelConfig C>
HOPFILL_INLINE u8* part_record(const PrefillSplitParams& p, i32 part) {
    return static_cast<u8*>(p.part_records) + static_cast<i64>(part * 4 * C.consumers + consumer_warp()) * part_record_bytes(C);
}

// What is known where a job ends.
enum class Ends { any, whole, part };

template <KernelConfig C, Ends Known>
HOPFILL_INLINE bool is_part(const Job* job) {
    if constexpr (!C.splits || Known == Ends::whole) return false;
    return Known == Ends::part || sm90::load_shared(&job->part) != kWholeJob;
}

// The LSE of a job's rows; of a part of one their references and sums, to its record: a reference of a million is an LSE that is off by a tenth.
template <KernelConfig C, Ends Known = Ends::any>
HOPFILL_INLINE void leave_sums(const PrefillParams& p, const Job* job, u32 row_group, const float (&lse)[2], const float (&reference)[2],
                               const float (&sum)[2]) {
    if (!is_part<C, Known>(job)) return store_lse<C>(p, job, row_group, lse);
    if constexpr (C.splits) {
        const u32 thread = sm90::thread_index_anew();
        if (thread % 4 != 0) return;
        float* const to = reinterpret_cast<float*>(part_record<C>(split_params(p), sm90::load_shared(&job->part))) + thread % 32 / 4;
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            sm90::store_global(to + 8 * h, reference[h]);
            sm90::store_global(to + 16 + 8 * h, sum[h]);
        }
    }
}

// What a part's keys weigh in a row, by a reference `top`: its sum, whose reference lies there too.
HOPFILL_INLINE float part_weight(const float* of, float top) {
    return sm90::load_global(of + 16) * sm90::exp2_approx(sm90::load_global(of) - top);
}

// This warp's outputs o of a part, times `inverse`, to its record, and, if all parts' are there, to the output.
template <KernelConfig C>
HOPFILL_INLINE void finish_part(const PrefillParams& params, const Job* job, const float (&o)[C.head_dim / 2], const float (&inverse)[2]) {
    const PrefillSplitParams& p = split_params(params);
    const i32 part = sm90::load_shared(&job->part), split_job = divide(static_cast<u32>(part), p.by_parts);
    u8* const record = part_record<C>(p, part) + part_sums_bytes() + lane_anew() * 16;
#pragma unroll
    for (i32 i = 0; i < C.head_dim / 8; ++i) {
        const u32 w[4] = {sm90::float_bits(o[4 * i] * inverse[0]), sm90::float_bits(o[4 * i + 1] * inverse[0]),
                          sm90::float_bits(o[4 * i + 2] * inverse[1]), sm90::float_bits(o[4 * i + 3] * inverse[1])};
        sm90::store_global16(record + i * 512, w);
    }
    sm90::sync_warp();
    bool is_last = false;
    if (sm90::lane_index() == 0) {
        u32* const done = p.parts_done + split_job * 4 * C.consumers + consumer_warp();
        sm90::fence_device();
        is_last = sm90::atomic_add(done, 1u) + 1 == static_cast<u32>(p.parts);
        sm90::fence_device();
        if (is_last) sm90::store_global(done, 0u);
    }
    if (!sm90::vote_any(is_last)) return;
    sm90::sync_warp();  // (a vote orders no memory)

    // First what the parts' sums come to, while the outputs' registers are free.
    constexpr i64 kStride = i64{4} * C.consumers * part_record_bytes(C);
    const u8* from = part_record<C>(p, split_job * p.parts);
    float top[2], inverse_sum[2], lse[2];
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        const float* const of = reinterpret_cast<const float*>(from) + lane_anew() / 4 + 8 * h;
        float sum = 0.0f;
        top[h] = -sm90::infinity();
#pragma unroll 1
        for (i32 i = 0; i < p.parts; ++i) top[h] = sm90::max_float(top[h], sm90::load_global(of + i * (kStride / 4)));
        // Rows that see no key have none to be multiplied with.
        if (top[h] == -sm90::infinity()) top[h] = 0.0f;
#pragma unroll 1
        for (i32 i = 0; i < p.parts; ++i) sum += part_weight(of + i * (kStride / 4), top[h]);
        constexpr float kLn2 = 0.693147180559945f;
        inverse_sum[h] = sum == 0.0f ? 0.0f : inverse_of(sum);
        lse[h] = sum == 0.0f ? -sm90::infinity() : (top[h] + sm90::log2_approx(sum)) * kLn2;
    }
    const i32 head = sm90::load_shared(&job->head), sequence = sm90::load_shared(&job->sequence), q_len = sm90::load_shared(&job->q_len);
    const i32 row = row_of_thread<C>(job, q_len);
    if (p.lse != nullptr && lane_anew() % 4 == 0) {
        float* const to = p.lse + (static_cast<i64>(sequence) * p.heads + head) * p.seqlen_q + row;
        if (row < q_len) sm90::store_global(to, lse[0]);
        if (row + 8 < q_len) sm90::store_global(to + 8, lse[1]);
    }
    // Warps become last one by one: no staging slots, which are a warpgroup's, and no TMA.
    constexpr i32 kAtOnce = C.head_dim == 256 ? 8 : 4;
    i32 column = static_cast<i32>(fragment_column(lane_anew()));
    u16* to = static_cast<u16*>(p.o_rows) + sequence * p.o_batch + row * p.o_seq + head * p.o_head + column;
    const u8* rows = from + part_sums_bytes() + lane_anew() * 16;
    from += lane_anew() / 4 * 4;
#pragma unroll 1
    for (i32 first = 0; first < C.head_dim / 8; first += kAtOnce, column += 8 * kAtOnce, to += 8 * kAtOnce, rows += 512 * kAtOnce) {
        float sums[kAtOnce][4] = {};
#pragma unroll 1
        for (i32 i = 0; i < p.parts; ++i) {
            const float* const of = reinterpret_cast<const float*>(from + i * kStride);
            const float weight[2] = {part_weight(of, top[0]) * inverse_sum[0], part_weight(of + 8, top[1]) * inverse_sum[1]};
            u32 w[kAtOnce][4];
#pragma unroll
            for (i32 c = 0; c < kAtOnce; ++c) sm90::load_global16(rows + i * kStride + c * 512, w[c]);
#pragma unroll
            for (i32 c = 0; c < kAtOnce; ++c)
#pragma unroll
                for (i32 j = 0; j < 4; ++j) sums[c][j] = sm90::fma_float(sm90::bits_float(w[c][j]), weight[j / 2], sums[c][j]);
        }
#pragma unroll
        for (i32 c = 0; c < kAtOnce; ++c)
#pragma unroll
            for (i32 h = 0; h < 2; ++h)
                if (column + 8 * c < p.channels && row + 8 * h < q_len)
                    sm90::store_global(reinterpret_cast<u32*>(to + 8 * h * p.o_seq + 8 * c), sm90::pack2<C.out>(sums[c][2 * h], sums[c][2 * h + 1]));
    }
}

}  // namespace hopfill

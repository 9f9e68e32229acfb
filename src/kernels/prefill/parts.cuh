// Jobs that blocks share, a part of its keys each (KernelConfig::splits; which jobs, and how many parts, planner::split_of says): without a mask
// those of a last wave that they do not fill, with one the longest, of which there are too few. A warp leaves its rows' outputs of the part's keys,
// and the references and sums of their exponentials, in a record in global memory; who finds that all other parts have left theirs adds them up,
// weighted (FlashAttention-2, section 3.1 has the same sum), always in the order of the keys, so that bits do not depend on who is last. Nobody waits
// for anybody.
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
    if constexpr (C.mask == Mask::causal) {
        // The longest jobs come first, and their parts with them.
        const u32 all_parts = static_cast<u32>(p.jobs - p.whole_jobs);
        if (number >= all_parts) return number - all_parts + divide(all_parts, p.by_parts);
        job.part = static_cast<i32>(number);
        return static_cast<u32>(divide(number, p.by_parts));
    }
    if (number < static_cast<u32>(p.whole_jobs)) return number;
    job.part = static_cast<i32>(number) - p.whole_jobs;
    return static_cast<u32>(p.whole_jobs + divide(static_cast<u32>(job.part), p.by_parts));
}

// From a job to a part of it: to its KV blocks, which count, as the keys do, from its first one on.
template <KernelConfig C>
HOPFILL_INLINE void narrow_to_part(const PrefillParams& params, Job& job, i32& first, i32& last) {
    const PrefillSplitParams& p = split_params(params);
    const i32 part = job.part - divide(static_cast<u32>(job.part), p.by_parts) * p.parts, all = job.blocks;
    first = divide(static_cast<u32>(part * all), p.by_parts);
    last = divide(static_cast<u32>((part + 1) * all), p.by_parts) - 1;
    job.blocks = last - first + 1;
    job.kv_len -= first * C.tile_n;
    job.unmasked = clamp_high(clamp_low(job.unmasked - first, 0), job.blocks);
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

// Whether this warp is to leave something of a part: not what it has left and counted, where the part comes again for another warp (repeats_jobs()).
template <KernelConfig C>
HOPFILL_INLINE bool leaves_part(const Job* job) {
    if constexpr (!repeats_jobs(C)) return true;
    const u32 again = static_cast<u32>(sm90::load_shared(&job->again));
    return again == 0 || (again >> consumer_warp()) % 2 != 0;
}

// The LSE of a job's rows; of a part of one their references and sums, to its record: a reference of a million is an LSE that is off by a tenth.
template <KernelConfig C, Ends Known = Ends::any>
HOPFILL_INLINE void leave_sums(const PrefillParams& p, const Job* job, u32 row_group, const float (&lse)[2], const float (&reference)[2],
                               const float (&sum)[2]) {
    if (!is_part<C, Known>(job)) return store_lse<C>(p, job, row_group, lse);
    if constexpr (C.splits) {
        const u32 thread = sm90::thread_index_anew();
        if (thread % 4 != 0 || !leaves_part<C>(job)) return;
        float* const to = reinterpret_cast<float*>(part_record<C>(split_params(p), sm90::load_shared(&job->part))) + thread % 32 / 4;
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            sm90::store_global(to + 8 * h, reference[h]);
            sm90::store_global(to + 16 + 8 * h, sum[h]);
        }
    }
}

// Parts that are summed up at once: their loads wait for each other no more than once (a load takes 0.5 us here, and there are many).
constexpr i32 parts_at_once() { return 2; }
// Columns likewise, in eights: what registers hold beside a part's that is summed up and one that comes.
constexpr i32 eights_at_once(const KernelConfig& c) { return is_fp8(c.family) ? 4 : 8; }

// Of a row: a part's reference and its sum, the part's number being below `parts`; else nothing.
struct PartSum {
    float reference, sum;

    HOPFILL_INLINE void load(const float* of, i32 part, i32 parts, i64 stride) {
        of += clamp_high(part, parts - 1) * stride;
        reference = sm90::load_global(of);
        sum = sm90::load_global(of + 16);
        if (part >= parts) sum = 0.0f;
    }
    // What the part's keys weigh, by a reference `top`, which is not below its own.
    HOPFILL_INLINE float weight(float top) const { return sum * sm90::exp2_approx(reference - top); }
};

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

    // First what the parts' sums come to, by the greatest reference so far.
    constexpr i64 kStride = i64{4} * C.consumers * part_record_bytes(C);
    constexpr i32 kParts = parts_at_once();
    const u8* from = part_record<C>(p, split_job * p.parts);
    float top[2] = {-sm90::infinity(), -sm90::infinity()}, inverse_sum[2] = {0.0f, 0.0f}, lse[2];
#pragma unroll 1
    for (i32 i = 0; i < p.parts; i += 2 * kParts) {
        PartSum sums[2][2 * kParts];
#pragma unroll
        for (i32 h = 0; h < 2; ++h)
#pragma unroll
            for (i32 j = 0; j < 2 * kParts; ++j)
                sums[h][j].load(reinterpret_cast<const float*>(from) + lane_anew() / 4 + 8 * h, i + j, p.parts, kStride / 4);
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            float raised = top[h];
#pragma unroll
            for (i32 j = 0; j < 2 * kParts; ++j) raised = sm90::max_float(raised, sums[h][j].reference);
            // Rows that see no key have none to be multiplied with.
            if (raised == -sm90::infinity()) continue;
            inverse_sum[h] *= sm90::exp2_approx(top[h] - raised);
            top[h] = raised;
#pragma unroll
            for (i32 j = 0; j < 2 * kParts; ++j) inverse_sum[h] += sums[h][j].weight(raised);
        }
    }
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        constexpr float kLn2 = 0.693147180559945f;
        lse[h] = inverse_sum[h] == 0.0f ? -sm90::infinity() : (top[h] + sm90::log2_approx(inverse_sum[h])) * kLn2;
        if (inverse_sum[h] != 0.0f) inverse_sum[h] = inverse_of(inverse_sum[h]);
        if (top[h] == -sm90::infinity()) top[h] = 0.0f;
    }
    const i32 head = sm90::load_shared(&job->head), sequence = sm90::load_shared(&job->sequence), q_len = sm90::load_shared(&job->q_len);
    const i32 row = row_of_thread<C>(job, q_len);
    if (p.lse != nullptr && lane_anew() % 4 == 0) {
        float* const to = p.lse + (static_cast<i64>(sequence) * p.heads + head) * p.seqlen_q + row;
        if (row < q_len) sm90::store_global(to, lse[0]);
        if (row + 8 < q_len) sm90::store_global(to + 8, lse[1]);
    }
    // Warps become last one by one: no staging slots, which are a warpgroup's, and no TMA.
    constexpr i32 kAtOnce = eights_at_once(C);
    i32 column = static_cast<i32>(fragment_column(lane_anew()));
    u16* to = static_cast<u16*>(p.o_rows) + sequence * p.o_batch + row * p.o_seq + head * p.o_head + column;
    const u8* rows = from + part_sums_bytes() + lane_anew() * 16;
    from += lane_anew() / 4 * 4;
#pragma unroll 1
    for (i32 first = 0; first < C.head_dim / 8; first += kAtOnce, column += 8 * kAtOnce, to += 8 * kAtOnce, rows += 512 * kAtOnce) {
        float sums[kAtOnce][4] = {};
#pragma unroll 1
        for (i32 i = 0; i < p.parts; i += kParts) {
            u32 w[kParts][kAtOnce][4];
            PartSum of[kParts][2];
#pragma unroll
            for (i32 j = 0; j < kParts; ++j) {
                of[j][0].load(reinterpret_cast<const float*>(from), i + j, p.parts, kStride / 4);
                of[j][1].load(reinterpret_cast<const float*>(from) + 8, i + j, p.parts, kStride / 4);
#pragma unroll
                for (i32 c = 0; c < kAtOnce; ++c) sm90::load_global16(rows + clamp_high(i + j, p.parts - 1) * kStride + c * 512, w[j][c]);
            }
#pragma unroll
            for (i32 j = 0; j < kParts; ++j) {
                const float weight[2] = {of[j][0].weight(top[0]) * inverse_sum[0], of[j][1].weight(top[1]) * inverse_sum[1]};
#pragma unroll
                for (i32 c = 0; c < kAtOnce; ++c)
#pragma unroll
                    for (i32 k = 0; k < 4; ++k) sums[c][k] = sm90::fma_float(sm90::bits_float(w[j][c][k]), weight[k / 2], sums[c][k]);
            }
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

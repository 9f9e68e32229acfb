// Kernel arguments of the prefill families, shared by host, NVRTC and the emulator: no std and no CUDA header.
#pragma once

#include "plan/types.h"

namespace hopfill {

// Division of numbers below 2^31 by one that is known before the launch, as a product (Granlund and Montgomery, 1994): a division takes a warp that
// finds the next job some 200 clocks, and it has four to do.
struct Divisor {
    u32 multiplier, shift;  // n / d = floor(2 n * multiplier / 2^(32 + shift))
};
constexpr Divisor divisor_of(u32 d) {
    u32 shift = 0;
    while ((u64{1} << shift) < d) ++shift;
    return {static_cast<u32>(((u64{1} << (31 + shift)) + d - 1) / d), shift};
}
constexpr i32 divide(u32 n, Divisor by) { return static_cast<i32>(static_cast<u32>(static_cast<u64>(2 * n) * by.multiplier >> 32) >> by.shift); }

// Passed by value as a __grid_constant__: tensor maps must lie in param space to be prefetched and used by TMA.
// Tensor map dimensions, innermost first:
//   dense   {head_dim, heads, seq, batch, 1}
//   packed  {head_dim, heads, 2^30, 2^31, 2^31} with wrap-around strides, so that TMA's own bounds check ends at each sequence
//           (see plan/tensor_map.h)
struct PrefillParams {
    TensorMap q, k, v, o;
    float* lse;                 // natural log, or null; [batch, heads, seq] dense, [heads, tokens] packed
    const i32* cu_seqlens_q;    // [batch + 1], packed only
    const i32* cu_seqlens_k;    // [batch + 1], packed only
    u32* work_counter;          // dynamic only: {next job, blocks done}, zero between launches
    float scale_log2;           // softmax scale times log2(e)
    i32 batch;
    i32 heads;
    i32 heads_per_kv_head;      // GQA group: query heads that share a KV head
    i32 seqlen_q;               // dense: length of each sequence; packed: unused
    i32 seqlen_kv;
    i32 total_q;                // packed: tokens in q and k; lengths read on the device are clamped to them
    i32 total_kv;
    i32 q_tiles;                // dense: query tiles of a sequence; packed: bound on the tiles of all sequences
    i32 jobs;                   // q_tiles * heads * (dense ? batch : 1)
    i32 heads_per_group;        // dense: query heads (of all sequences) whose tiles run together: the outermost order of the jobs
    Divisor by_heads, by_kv_group;              // heads, heads_per_kv_head
    Divisor by_group, by_width, by_last_width;  // dense: jobs of a group; heads of one, and of the last, which may have fewer
};

// Multipliers of an e4m3 tensor (descales): value = element * data[sequence * batch + entry * head + token / block_tokens * block]. A stride is 0
// where the multiplier does not vary; tokens count from the sequence's start. Null data means 1 everywhere. Multipliers are not negative.
struct ScaleView {
    const float* data;
    i32 batch, head, block;   // strides in floats
    i32 block_tokens;         // KernelConfig::scale_block; 0: one multiplier for all tokens
    i32 by_kv_head;           // of q: an entry is a KV head's, not a query head's (k's and v's always are)
};

// prefill_fp8 and prefill_mixed.
struct PrefillFp8Params : PrefillParams {
    ScaleView q_scale, k_scale, v_scale;
    const float* v_channel_scale;   // [kv_heads, head_dim] with a row stride of v_channel_stride, beside v_scale, or null
    i32 v_channel_stride;
    i32 channels;                   // head_dim of the problem: what v_channel_scale has
};

// KernelConfig::v_transposed; other kernels read its first part alone, or of that the first, so a launch of any of them passes this. Of it, and of
// v_turned, v's dimensions are {seq, head_dim, heads, batch, 1}, packed {tokens, head_dim, heads, 1, 1}.
struct PrefillVtParams : PrefillFp8Params {
    TensorMap k_odd;    // dense: every second row of k, from the second on; `k` is of the others
    TensorMap v_edge;   // packed: v in boxes of 16 tokens
};

// KernelConfig::v_turned: v's map is of the transposed one, in scratch memory, [batch, kv_heads, head_dim, tokens].
struct PrefillTurnParams : PrefillVtParams {
    TensorMap v_given;          // v as the problem has it, in boxes of piece_tokens() by piece_channels()
    TensorMap v_stored;         // what `v` is of, in such boxes
    u32* turning;               // {next piece, parties done, pieces done of each block of 128 tokens of each KV head ...}, zero between launches
    i32 kv_heads;
    i32 turned_heads;           // KV heads of all sequences
    i32 turned_blocks;          // of one
    i32 turned_width;           // heads whose blocks are transposed together, as jobs read them: those of heads_per_group
    Divisor by_kv_heads, by_turned_group, by_turned_width, by_last_turned_width;  // pieces of a group; of a block of all its heads
};

// KernelConfig::splits: jobs from `whole_jobs` on are parts of jobs; with a mask all but the last `whole_jobs`, as the longest come first. Part i of
// a job has an i-th of its KV blocks, in order, and leaves its outputs, as of these keys alone, in a record of its own; the last part to be done
// makes the job's outputs of all records.
struct PrefillSplitParams : PrefillTurnParams {
    void* part_records;         // of part_record_bytes() for each part and consumer warp
    u32* parts_done;            // of each split job, by consumer warp; zero between launches
    void* o_rows;               // o, which is not stored by TMA there; strides in elements
    i64 o_batch, o_seq, o_head;
    i32 whole_jobs;
    i32 parts;                  // of a split job
    Divisor by_parts;
};

// What a launch of any kernel passes.
using LaunchParams = PrefillSplitParams;

template <bool VTransposed, bool Turns, bool Splits>
struct Fp8ParamsFor {
    using Type = PrefillSplitParams;
};
template <>
struct Fp8ParamsFor<false, false, false> {
    using Type = PrefillFp8Params;
};
template <>
struct Fp8ParamsFor<true, false, false> {
    using Type = PrefillVtParams;
};
template <>
struct Fp8ParamsFor<false, true, false> {
    using Type = PrefillTurnParams;
};
template <bool Splits>
struct ParamsFor {
    using Type = PrefillParams;
};
template <>
struct ParamsFor<true> {
    using Type = PrefillSplitParams;
};

}  // namespace hopfill

// Configs and arguments of the quantiser's kernels, shared by host, NVRTC and the emulator: no std and no CUDA header.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

// Quantising launches the first four in this order; those that a problem does not need are left out.
enum class QuantizeStage : u8 {
    sum,       // smoothed keys: each tile's sums by channel, into the place of its output
    prepare,   // their means; scales that several blocks share start at the least
    greatest,  // such scales rise to the greatest magnitude over 448
    round,     // numbers over their scale, rounded; scales by block of tokens are found on the way
    widen,     // the way back, without scales: e4m3 K and V as 16-bit numbers, for prefill_widened
};

// What a kernel has besides one scale for all that it holds: registers are bytes in flight here.
enum class QuantizeExtra : u8 {
    none,
    mean,      // of keys, to subtract
    channels,  // a scale a channel
};

struct QuantizeConfig {
    QuantizeStage stage = QuantizeStage::round;
    Elem elem = Elem::bf16;  // of the input; widen: of the output
    QuantizeExtra extra = QuantizeExtra::none;
    bool transposed = false;  // round: the output is [heads, channels, tokens]
    bool wide = false;        // a tile of twice the size: a scale for 128 tokens of more than 128 channels

    constexpr bool operator==(const QuantizeConfig&) const = default;
};

// Every kernel that quantises. Keys alone are smoothed; values alone are transposed or have scales by channel.
struct QuantizeKernels {
    static constexpr i32 size = 2 * 14;
    QuantizeConfig config[size];
};

constexpr QuantizeKernels make_quantize_kernels() {
    using enum QuantizeStage;
    using enum QuantizeExtra;
    QuantizeKernels all{};
    i32 n = 0;
    for (const Elem e : {Elem::bf16, Elem::f16}) {
        all.config[n++] = {prepare, e, none, false, false};
        for (const bool wide : {false, true}) all.config[n++] = {sum, e, none, false, wide};
        for (const QuantizeExtra extra : {none, mean, channels}) {
            all.config[n++] = {greatest, e, extra, false, false};
            for (const bool transposed : {false, true}) {
                for (const bool wide : {false, true}) {
                    if ((extra == mean && transposed) || (extra == channels && wide)) continue;
                    all.config[n++] = {round, e, extra, transposed, wide};
                }
            }
        }
    }
    return all;
}

constexpr QuantizeKernels kQuantizeKernels = make_quantize_kernels();

// And the one that does the opposite.
constexpr QuantizeConfig widening_to(Elem e) { return {QuantizeStage::widen, e, QuantizeExtra::none, false, false}; }

// What shares a scale: ScaleKind of include/hopfill/attention.h, without `none`.
enum class QuantizeScale : u8 { tensor, head, sequence, block, channel };

constexpr i32 kQuantizeThreads = 512;
constexpr i32 kQuantizeVector = 8;   // channels of a thread: one 16-byte load, one 8-byte store
constexpr i32 kQuantizeGroups = 4;   // blocks of tokens with a scale of their own in a tile, at most
constexpr i32 kQuantizeSlice = 32;   // channels of a block of `prepare`, so that one head gives several blocks
constexpr i32 kQuantizeSumRows = 4;  // rows of output that hold a float a channel; tiles of fewer tokens are summed by `prepare`
constexpr float kGreatestE4m3 = 448, kLeastScale = 1.17549435e-38f;

// Strides in elements.
struct QuantizeParams {
    const u16* in;
    u8* out;
    float* scale;
    float* mean;            // [batch, heads, head_dim], or null
    const i32* cu_seqlens;  // [batch + 1], or null: dense
    i64 in_batch, in_seq, in_head;
    i64 out_batch, out_seq, out_head;  // transposed: out_seq is of channels
    i64 scale_batch, scale_head, scale_block, scale_channel;
    QuantizeScale kind;
    i32 batch, heads, head_dim;
    i32 seqlen;  // dense
    i32 tokens;  // packed: tokens of the tensors, to which lengths read on the device are clamped
    i32 tile;    // tokens of a thread block
    i32 tiles;   // dense: of a sequence
    i32 group;   // tokens of a scale by block, 2^group
};

// One of the two tensors that `widen` copies: e4m3, with strides in elements, and its copy, [tokens, heads, head_dim] without gaps.
struct WidenTensor {
    const u8* in;
    u16* out;
    i64 batch, seq, head;
};

struct WidenParams {
    WidenTensor tensor[2];
    i32 tokens;          // of all sequences
    i32 seqlen;          // dense: of a sequence; packed: tokens
    i32 heads, vectors;  // vectors of widen_vector() elements in a row of a head
    i32 tile;            // tokens of a thread block
    i32 tiles;           // of a tensor; the grid has the first one's, then the second's
};

template <QuantizeStage S>
struct QuantizeParamsFor {
    using Type = QuantizeParams;
};
template <>
struct QuantizeParamsFor<QuantizeStage::widen> {
    using Type = WidenParams;
};
// (Functions, as one more variable would change the keys of kernels that see it.)
constexpr i32 widen_vector() { return 8; }  // elements of a thread: one 8-byte load, one 16-byte store, so that a warp's are whole lines
constexpr i32 widen_slots() { return 4; }   // loads that a thread has in flight

// Whole tokens, as many as a thread block takes at once, or one that it takes in several passes.
constexpr i32 widen_tile(i32 vectors_of_token) {
    const i32 tokens = kQuantizeThreads * widen_slots() / vectors_of_token;
    return tokens > 1 ? tokens : 1;
}

// A tile of a ragged batch is found by bisection: tiles of sequence s start at cu_seqlens[s] / tile + s, which leaves each sequence enough of them.
constexpr i64 quantize_tiles(i64 batch, i64 seqlen, i64 tokens, i64 tile, bool packed) {
    return packed ? tokens / tile + batch : batch * ((seqlen + tile - 1) / tile);
}

// Tokens of a thread block: 32 KB of input where there are 64, 128 or 256 channels.
constexpr i32 quantize_tile(i32 head_dim, bool wide) { return wide || (head_dim > 64 && head_dim <= 128) ? 128 : head_dim <= 64 ? 256 : 64; }

// Where a row of a tile's bytes starts in shared memory: 8 rows on, two banks on (four in a tile of 64), so that a warp that reads a word of
// each of 16 (8) rows 8 apart, at two (four) times four channels, meets each bank once.
constexpr i32 quantize_row_offset(i32 row, i32 head_dim) { return row * head_dim + row / 8 * (head_dim > 128 ? 16 : 8); }

// Threads of a block, and blocks that a multiprocessor is to hold at once, with registers for them.
constexpr i32 quantize_blocks(QuantizeConfig c) { return c.wide ? 1 : 2; }

// Dynamic shared memory: maxima of the warps and inverse scales, then a tile's bytes; or 9 floats of each thread, by channel.
constexpr i32 kQuantizeScratch = (kQuantizeThreads / 32 + 1) * kQuantizeGroups * 4;

constexpr i32 quantize_shared_bytes(QuantizeConfig c, i32 head_dim) {
    const i32 turned = c.transposed ? quantize_row_offset(quantize_tile(head_dim, c.wide), head_dim) : 0;
    if (c.stage == QuantizeStage::widen) return 0;
    if (c.stage == QuantizeStage::round) return kQuantizeScratch + turned;
    return kQuantizeThreads * (kQuantizeVector + 1) * 4;
}

}  // namespace hopfill

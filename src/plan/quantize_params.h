// Configs and arguments of the quantiser's kernels, shared by host, NVRTC and the emulator: no std and no CUDA header.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

// Launches in this order; those that a problem does not need are left out.
enum class QuantizeStage : u8 {
    prepare,   // the means of smoothed keys; scales that several blocks share start at the least
    greatest,  // such scales rise to the greatest magnitude over 448
    round,     // numbers over their scale, rounded; scales by block of tokens are found on the way
};

struct QuantizeConfig {
    QuantizeStage stage = QuantizeStage::round;
    Elem elem = Elem::bf16;   // of the input
    bool transposed = false;  // round: the output is [heads, channels, tokens]

    constexpr bool operator==(const QuantizeConfig&) const = default;
};

// What shares a scale: ScaleKind of include/hopfill/attention.h, without `none`.
enum class QuantizeScale : u8 { tensor, head, sequence, block, channel };

constexpr i32 kQuantizeThreads = 512;
constexpr i32 kQuantizeVector = 16;  // channels of a thread: two 16-byte loads, one 16-byte store
constexpr i32 kQuantizeTile = 128;   // tokens of a block, or those of a scale's block if fewer
constexpr i32 kQuantizeSlice = 32;   // channels of a block of `prepare`: 64 bytes of a row, so that one head gives several blocks
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
    i32 tile;    // tokens of a block
    i32 tiles;   // dense: of a sequence
};

// A tile of a ragged batch is found by bisection: tiles of sequence s start at cu_seqlens[s] / tile + s, which leaves each sequence enough of them.
constexpr i64 quantize_tiles(i64 batch, i64 seqlen, i64 tokens, i64 tile, bool packed) {
    return packed ? tokens / tile + batch : batch * ((seqlen + tile - 1) / tile);
}

// Dynamic shared memory: 16 floats of each thread by channel; by token, a tile's bytes with rows four bytes apart from a multiple of 128.
constexpr i32 quantize_shared_bytes(QuantizeConfig c, i32 head_dim) {
    return c.stage == QuantizeStage::round ? (c.transposed ? kQuantizeTile * (head_dim + 4) : 0) + 128 : kQuantizeThreads * kQuantizeVector * 4 + 128;
}

}  // namespace hopfill

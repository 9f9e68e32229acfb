// e4m3 V to a transposed copy, for prefill_fp8's kernels that read it so: streams memory, 1 byte read and 1 written a number. Within 16 keys V^T's
// columns are keys 0 1 8 9 | 2 3 10 11 | 4 5 12 13 | 6 7 14 15, the order in which those kernels' fragments of P have them
// (prefill_fp8/transpose.cuh).
#pragma once

#include "plan/quantize_params.h"
#include "quantize/bytes.cuh"
#include "sm90/math.cuh"
#include "sm90/vector.cuh"

namespace hopfill {

// 16 keys of 4 channels, from rows in shared memory to 16 bytes a channel. The keys are of one group, in which rows follow each other without gaps.
HOPFILL_INLINE void store_turned_keys(const u8* rows, i32 head_dim, u8* out, i64 out_row) {
    u32 turned[4][4];
#pragma unroll
    for (i32 w = 0; w < 4; ++w) {
        u32 in[4], bytes[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i) in[i] = sm90::load_shared(reinterpret_cast<const u32*>(rows + (2 * w + i % 2 + i / 2 * 8) * head_dim));
        turn4(in, bytes);
#pragma unroll
        for (i32 c = 0; c < 4; ++c) turned[c][w] = bytes[c];
    }
#pragma unroll
    for (i32 c = 0; c < 4; ++c) sm90::store_global16(out + c * out_row, turned[c]);
}

// HeadDim: the problem's, where it is known, as addresses of constant steps halve the instructions; else 0.
template <i32 HeadDim>
HOPFILL_INLINE void turn_rows(const TurnParams& p) {
    constexpr i32 kSlots = 4, kBytes = 16, kKeys = turn_keys(), kThreads = turn_threads();
    const i32 head_dim = HeadDim > 0 ? HeadDim : p.head_dim;
    const i32 block = static_cast<i32>(sm90::block_index()), thread = static_cast<i32>(sm90::thread_index());
    const i32 of_sequence = p.heads * p.tiles, sequence = block / of_sequence, in_sequence = block - sequence * of_sequence;
    const i32 tile = in_sequence / p.heads, head = in_sequence - tile * p.heads, first = tile * turn_tile(head_dim);
    const i32 tokens = p.seqlen - first < turn_tile(head_dim) ? p.seqlen - first : turn_tile(head_dim), groups = ceil_div(tokens, kKeys);
    u8* const rows = sm90::shared_memory();
    {
        // Rows past the sequence's end, up to a whole group, are zeros: NaNs that lie there would, times a P of 0, reach the outputs.
        const u8* const in = p.in + sequence * p.batch + static_cast<i64>(first) * p.seq + head * p.head;
        const i32 vectors = head_dim / kBytes, all = groups * kKeys * vectors;
#pragma unroll 1
        for (i32 begin = thread; begin < all; begin += kSlots * kThreads) {
            u32 bytes[kSlots][4];
            // All loads before the first use; what is past the end is loaded from the last row.
#pragma unroll
            for (i32 slot = 0; slot < kSlots; ++slot) {
                const i32 i = begin + slot * kThreads, row = i / vectors, column = i - row * vectors;
                sm90::load_global16(in + static_cast<i64>(row < tokens ? row : tokens - 1) * p.seq + column * kBytes, bytes[slot]);
            }
#pragma unroll
            for (i32 slot = 0; slot < kSlots; ++slot) {
                const i32 i = begin + slot * kThreads, row = i / vectors, column = i - row * vectors;
                if (i >= all) break;
                if (row >= tokens) bytes[slot][0] = bytes[slot][1] = bytes[slot][2] = bytes[slot][3] = 0;
                sm90::store_shared16(rows + turn_row_offset(row, head_dim) + column * kBytes, bytes[slot]);
            }
        }
    }
    sm90::sync_block();
    // Neighbouring threads write up to 128 bytes of a channel, the next ones those of the next four channels.
    u8* const out = p.out + (static_cast<i64>(sequence) * p.heads + head) * head_dim * p.out_row + first;
    constexpr i32 kLanes = 8;
    const i32 quads = head_dim / turn_channels(), lanes = turn_tile(head_dim) / kKeys < kLanes ? turn_tile(head_dim) / kKeys : kLanes;
    const i32 units = ceil_div(groups, lanes) * lanes * quads;
#pragma unroll 1
    for (i32 unit = thread; unit < units; unit += kThreads) {
        const i32 group = unit / (lanes * quads) * lanes + unit % lanes, channel = unit / lanes % quads * turn_channels();
        if (group < groups)
            store_turned_keys(rows + turn_row_offset(group * kKeys, head_dim) + channel, head_dim, out + channel * p.out_row + group * kKeys,
                              p.out_row);
    }
}

HOPFILL_INLINE void turn(const TurnParams& p) {
    if (p.head_dim == 256)
        turn_rows<256>(p);
    else if (p.head_dim == 128)
        turn_rows<128>(p);
    else if (p.head_dim == 64)
        turn_rows<64>(p);
    else
        turn_rows<0>(p);
}

}  // namespace hopfill

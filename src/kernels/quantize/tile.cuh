// The part of a tensor that a block works on, and a thread's share of it: 16 channels of rows that lie a fixed distance apart.
#pragma once

#include "plan/quantize_params.h"
#include "sm90/math.cuh"
#include "sm90/vector.cuh"

namespace hopfill {

struct QuantizeTile {
    i32 sequence, head;
    i64 begin;          // first row of the sequence in a packed tensor; dense: 0
    i32 first, tokens;  // of the sequence; tokens <= 0: nothing to do
    i32 length;         // of the sequence
};

HOPFILL_INLINE void find_length(const QuantizeParams& p, QuantizeTile& t) {
    t.begin = 0;
    t.length = p.seqlen;
    if (p.cu_seqlens == nullptr) return;
    const i32 begin = sm90::load_global(p.cu_seqlens + t.sequence), end = sm90::load_global(p.cu_seqlens + t.sequence + 1);
    t.begin = begin;
    t.length = (end < p.tokens ? end : p.tokens) - begin;
}

HOPFILL_INLINE QuantizeTile find_tile(const QuantizeParams& p) {
    QuantizeTile t;
    const i32 block = static_cast<i32>(sm90::block_index()), tile = block / p.heads;
    t.head = block % p.heads;
    if (p.cu_seqlens == nullptr) {
        t.sequence = tile / p.tiles;
        t.first = tile % p.tiles * p.tile;
    } else {
        // The last sequence whose tiles start at or before this one.
        i32 low = 0, high = p.batch;
        while (high - low > 1) {
            const i32 middle = (low + high) / 2;
            if (sm90::load_global(p.cu_seqlens + middle) / p.tile + middle <= tile)
                low = middle;
            else
                high = middle;
        }
        t.sequence = low;
        t.first = (tile - sm90::load_global(p.cu_seqlens + low) / p.tile - low) * p.tile;
    }
    find_length(p, t);
    t.tokens = t.length - t.first < p.tile ? t.length - t.first : p.tile;
    return t;
}

// Vectors of 16 channels side by side, rows of them `rows` apart.
struct QuantizeShare {
    i32 vector, row, rows;
    bool active;

    HOPFILL_INLINE explicit QuantizeShare(i32 vectors) {
        const i32 thread = static_cast<i32>(sm90::thread_index());
        rows = kQuantizeThreads / vectors;
        vector = thread % vectors;
        row = thread / vectors;
        active = row < rows;
    }
};

HOPFILL_INLINE const u16* input_row(const QuantizeParams& p, const QuantizeTile& t, i32 token) {
    return p.in + (p.cu_seqlens == nullptr ? t.sequence * p.in_batch : i64{0}) + (t.begin + token) * p.in_seq + t.head * p.in_head;
}

// 16 numbers of 16 bits, as loaded.
struct QuantizeVector {
    u32 low[4], high[4];

    HOPFILL_INLINE void load(const u16* from) {
        sm90::load_global16(from, low);
        sm90::load_global16(from + 8, high);
    }
    HOPFILL_INLINE void clear() {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) low[i] = high[i] = 0;
    }
    template <Elem E>
    HOPFILL_INLINE void unpack(float (&x)[kQuantizeVector]) const {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            sm90::unpack2<E>(low[i], x[2 * i], x[2 * i + 1]);
            sm90::unpack2<E>(high[i], x[2 * i + 8], x[2 * i + 9]);
        }
    }
};

// The means of a thread's channels, or zeros.
HOPFILL_INLINE void load_means(const QuantizeParams& p, const QuantizeTile& t, i32 vector, float (&mean)[kQuantizeVector]) {
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; i += 4) {
        u32 bits[4] = {0, 0, 0, 0};
        if (p.mean != nullptr)
            sm90::load_global16(p.mean + (static_cast<i64>(t.sequence) * p.heads + t.head) * p.head_dim + vector * kQuantizeVector + i, bits);
#pragma unroll
        for (i32 j = 0; j < 4; ++j) mean[i + j] = sm90::bits_float(bits[j]);
    }
}

// |x|, or 0 where x is infinite or no number.
HOPFILL_INLINE float finite_magnitude(float x) {
    const u32 bits = sm90::float_bits(x) & 0x7fffffffu;
    return bits < 0x7f800000u ? sm90::bits_float(bits) : 0.0f;
}

HOPFILL_INLINE float scale_for(float greatest) { return sm90::max_float(sm90::divide(greatest, kGreatestE4m3), kLeastScale); }

// The scale of the tile's token blocks together; of channel 0.
HOPFILL_INLINE float* scale_of(const QuantizeParams& p, const QuantizeTile& t) {
    const i64 block = p.kind == QuantizeScale::block ? t.first / p.tile : 0;
    return p.scale + t.sequence * p.scale_batch + t.head * p.scale_head + block * p.scale_block;
}

// The maximum of all threads of the block, in every thread. All take part. `scratch` holds a float a warp.
HOPFILL_INLINE float block_maximum(float x, float* scratch) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask /= 2) x = sm90::max_float(x, sm90::shuffle_xor(x, mask));
    if (sm90::lane_index() == 0) sm90::store_shared(scratch + sm90::thread_index() / 32, x);
    sm90::sync_block();
    float most = 0;
#pragma unroll
    for (i32 i = 0; i < kQuantizeThreads / 32; ++i) most = sm90::max_float(most, sm90::load_shared(scratch + i));
    return most;
}

}  // namespace hopfill

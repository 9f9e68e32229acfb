// The part of a tensor that a block works on, and a thread's share of it: some channels of rows that lie a fixed distance apart.
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

// `backwards`: what the launch before read last is read first, and found in L2.
HOPFILL_INLINE QuantizeTile find_tile(const QuantizeParams& p, bool backwards) {
    QuantizeTile t;
    const i32 index = static_cast<i32>(sm90::block_index()), block = backwards ? static_cast<i32>(sm90::grid_size()) - 1 - index : index;
    const i32 tile = block / p.heads;
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

// Vectors of channels side by side, rows of them `rows` apart. Threads that are left over are not active, and read what thread 0 reads.
struct QuantizeShare {
    i32 vector, row, rows;
    bool active;

    HOPFILL_INLINE explicit QuantizeShare(i32 vectors) {
        const i32 thread = static_cast<i32>(sm90::thread_index());
        rows = kQuantizeThreads / vectors;
        active = thread < rows * vectors;
        vector = active ? thread % vectors : 0;
        row = active ? thread / vectors : 0;
    }
};

HOPFILL_INLINE const u16* input_row(const QuantizeParams& p, const QuantizeTile& t, i32 token) {
    return p.in + (p.cu_seqlens == nullptr ? t.sequence * p.in_batch : i64{0}) + (t.begin + token) * p.in_seq + t.head * p.in_head;
}

HOPFILL_INLINE u8* output_row(const QuantizeParams& p, const QuantizeTile& t, i32 token) {
    return p.out + (p.cu_seqlens == nullptr ? t.sequence * p.out_batch : i64{0}) + (t.begin + token) * p.out_seq + t.head * p.out_head;
}

// A tile's sum of channel c while there is no output yet: rows of out hold a byte a channel, so four hold a float a channel.
HOPFILL_INLINE float* sum_place(const QuantizeParams& p, const QuantizeTile& t, i32 c) {
    const i32 in_row = p.head_dim / kQuantizeSumRows;
    return reinterpret_cast<float*>(output_row(p, t, t.first + c / in_row)) + c % in_row;
}

HOPFILL_INLINE float* mean_of(const QuantizeParams& p, const QuantizeTile& t) {
    return p.mean + (static_cast<i64>(t.sequence) * p.heads + t.head) * p.head_dim;
}

// Numbers of 16 bits, as loaded.
struct QuantizeVector {
    u32 bits[4];

    HOPFILL_INLINE void load(const u16* from) { sm90::load_global16(from, bits); }
    HOPFILL_INLINE void renew() {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) sm90::renew(bits[i]);
    }
    template <Elem E>
    HOPFILL_INLINE void unpack(float (&x)[kQuantizeVector]) const {
#pragma unroll
        for (i32 i = 0; i < 4; ++i) sm90::unpack2<E>(bits[i], x[2 * i], x[2 * i + 1]);
    }
};

// The means of a thread's channels, or zeros.
template <QuantizeConfig C>
HOPFILL_INLINE void load_means(const QuantizeParams& p, const QuantizeTile& t, i32 vector, float (&mean)[kQuantizeVector]) {
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; i += 4) {
        u32 bits[4] = {0, 0, 0, 0};
        if constexpr (C.extra == QuantizeExtra::mean) sm90::load_global16(mean_of(p, t) + vector * kQuantizeVector + i, bits);
#pragma unroll
        for (i32 j = 0; j < 4; ++j) mean[i + j] = sm90::bits_float(bits[j]);
    }
}

template <QuantizeConfig C>
HOPFILL_INLINE float centred(float x, float mean) {
    return C.extra == QuantizeExtra::mean ? x - mean : x;
}

// |x|, or 0 where x is infinite or no number.
HOPFILL_INLINE float finite_magnitude(float x) {
    const float magnitude = x < 0 ? -x : x;
    return magnitude < sm90::infinity() ? magnitude : 0.0f;
}

HOPFILL_INLINE float scale_for(float greatest) { return sm90::max_float(sm90::divide(greatest, kGreatestE4m3), kLeastScale); }

// The scale of the tile's first token; of channel 0.
HOPFILL_INLINE float* scale_of(const QuantizeParams& p, const QuantizeTile& t) {
    const i64 block = p.kind == QuantizeScale::block ? t.first >> p.group : 0;
    return p.scale + t.sequence * p.scale_batch + t.head * p.scale_head + block * p.scale_block;
}

// The maximum of all threads of a warp, in each.
HOPFILL_INLINE float warp_maximum(float x) {
#pragma unroll
    for (u32 mask = 16; mask > 0; mask /= 2) x = sm90::max_float(x, sm90::shuffle_xor(x, mask));
    return x;
}

// What the warps wrote to `maxima`, a row of kQuantizeGroups each: their maximum in column `group`.
HOPFILL_INLINE float block_maximum(const float* maxima, i32 group) {
    float most = 0;
#pragma unroll
    for (i32 warp = 0; warp < kQuantizeThreads / 32; ++warp) most = sm90::max_float(most, sm90::load_shared(maxima + warp * kQuantizeGroups + group));
    return most;
}

}  // namespace hopfill

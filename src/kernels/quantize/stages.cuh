// The three launches of the quantiser; see SCHEDULE.md.
#pragma once

#include "quantize/tile.cuh"

namespace hopfill {

// Rows of a tile that a thread holds: 128 rows over the 32 or more rows that 512 threads cover at once.
constexpr i32 kQuantizeSlots = 4;

// Adds up or takes the maximum of what threads of different rows hold for the same channels; f(channel, result) for each channel of the block.
template <class Combine, class Use>
HOPFILL_INLINE void reduce_rows(const QuantizeShare& share, i32 channels, const float (&x)[kQuantizeVector], Combine combine, Use use) {
    auto* rows = reinterpret_cast<float*>(sm90::shared_memory());
    if (share.active) {
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; i += 4)
            sm90::store_shared4(rows + share.row * channels + share.vector * kQuantizeVector + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
    sm90::sync_block();
    for (i32 c = static_cast<i32>(sm90::thread_index()); c < channels; c += kQuantizeThreads) {
        float sum = sm90::load_shared(rows + c);
        for (i32 row = 1; row < share.rows; ++row) sum = combine(sum, sm90::load_shared(rows + row * channels + c));
        use(c, sum);
    }
}

// A block takes 32 channels of one head of one sequence.
template <Elem E>
HOPFILL_INLINE void prepare(const QuantizeParams& p) {
    const i32 slices = ceil_div(p.head_dim, kQuantizeSlice), block = static_cast<i32>(sm90::block_index());
    const i32 slice = block % slices, first_channel = slice * kQuantizeSlice;
    const i32 channels = p.head_dim - first_channel < kQuantizeSlice ? p.head_dim - first_channel : kQuantizeSlice;
    QuantizeTile t{};
    t.head = block / slices % p.heads;
    t.sequence = block / slices / p.heads;
    const i32 thread = static_cast<i32>(sm90::thread_index());
    const bool first_sequence = t.sequence == 0, first_slice = slice == 0;
    if (p.kind == QuantizeScale::channel) {
        if (first_sequence && thread < channels) sm90::store_global(scale_of(p, t) + (first_channel + thread) * p.scale_channel, kLeastScale);
    } else if (thread == 0 && first_slice && p.kind != QuantizeScale::block) {
        const bool mine = p.kind == QuantizeScale::sequence || (first_sequence && (p.kind == QuantizeScale::head || t.head == 0));
        if (mine) sm90::store_global(scale_of(p, t), kLeastScale);
    }
    if (p.mean == nullptr) return;
    find_length(p, t);
    const QuantizeShare share(channels / kQuantizeVector);
    float sum[kQuantizeVector] = {};
    if (share.active) {
#pragma unroll 4
        for (i32 token = share.row; token < t.length; token += share.rows) {
            QuantizeVector v;
            v.load(input_row(p, t, token) + first_channel + share.vector * kQuantizeVector);
            float x[kQuantizeVector];
            v.unpack<E>(x);
#pragma unroll
            for (i32 i = 0; i < kQuantizeVector; ++i) sum[i] += x[i];
        }
    }
    float* mean = p.mean + (static_cast<i64>(t.sequence) * p.heads + t.head) * p.head_dim + first_channel;
    reduce_rows(
        share, channels, sum, [](float a, float b) { return a + b; },
        [&](i32 c, float total) { sm90::store_global(mean + c, t.length > 0 ? sm90::divide(total, static_cast<float>(t.length)) : 0.0f); });
}

// Starts all of a thread's loads.
HOPFILL_INLINE void load_tile(const QuantizeParams& p, const QuantizeTile& t, const QuantizeShare& share, QuantizeVector (&v)[kQuantizeSlots]) {
#pragma unroll
    for (i32 slot = 0; slot < kQuantizeSlots; ++slot) {
        const i32 row = share.row + slot * share.rows;
        v[slot].clear();
        if (share.active && row < t.tokens) v[slot].load(input_row(p, t, t.first + row) + share.vector * kQuantizeVector);
    }
}

HOPFILL_INLINE bool holds(const QuantizeTile& t, const QuantizeShare& share, i32 slot) {
    return share.active && share.row + slot * share.rows < t.tokens;
}

template <Elem E>
HOPFILL_INLINE void greatest_channels(const QuantizeTile& t, const QuantizeShare& share, const QuantizeVector (&v)[kQuantizeSlots],
                                      const float (&mean)[kQuantizeVector], float (&most)[kQuantizeVector]) {
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; ++i) most[i] = 0;
#pragma unroll
    for (i32 slot = 0; slot < kQuantizeSlots; ++slot) {
        if (!holds(t, share, slot)) continue;
        float x[kQuantizeVector];
        v[slot].unpack<E>(x);
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i) most[i] = sm90::max_float(most[i], finite_magnitude(x[i] - mean[i]));
    }
}

HOPFILL_INLINE float greatest_of(const float (&most)[kQuantizeVector]) {
    float all = most[0];
#pragma unroll
    for (i32 i = 1; i < kQuantizeVector; ++i) all = sm90::max_float(all, most[i]);
    return all;
}

template <Elem E>
HOPFILL_INLINE void greatest(const QuantizeParams& p) {
    const QuantizeTile t = find_tile(p);
    if (t.tokens <= 0) return;
    const QuantizeShare share(p.head_dim / kQuantizeVector);
    QuantizeVector v[kQuantizeSlots];
    load_tile(p, t, share, v);
    float mean[kQuantizeVector], most[kQuantizeVector];
    load_means(p, t, share.vector, mean);
    greatest_channels<E>(t, share, v, mean, most);
    float* scale = scale_of(p, t);
    if (p.kind == QuantizeScale::channel) {
        reduce_rows(
            share, p.head_dim, most, [](float a, float b) { return sm90::max_float(a, b); },
            [&](i32 c, float all) { sm90::atomic_max(scale + c * p.scale_channel, scale_for(all)); });
        return;
    }
    const float all = block_maximum(greatest_of(most), reinterpret_cast<float*>(sm90::shared_memory()));
    if (sm90::thread_index() == 0) sm90::atomic_max(scale, scale_for(all));
}

// Bytes of four words of channels turned into a word a channel: word c gets byte c of each.
HOPFILL_INLINE void turn4(const u32 (&in)[4], u32 (&out)[4]) {
#pragma unroll
    for (i32 c = 0; c < 4; ++c)
        out[c] = (in[0] >> 8 * c & 0xff) | (in[1] >> 8 * c & 0xff) << 8 | (in[2] >> 8 * c & 0xff) << 16 | (in[3] >> 8 * c & 0xff) << 24;
}

// From rows of bytes in shared memory to rows of tokens: a thread takes 16 tokens of 4 channels.
HOPFILL_INLINE void store_transposed(const QuantizeParams& p, const QuantizeTile& t, const u8* rows, i32 stride) {
    const i32 thread = static_cast<i32>(sm90::thread_index()), first = thread % 8 * 16, channel = thread / 8 * 4;
    if (channel >= p.head_dim || first >= t.tokens) return;
    u32 turned[4][4];
#pragma unroll
    for (i32 j = 0; j < 4; ++j) {
        u32 in[4] = {0, 0, 0, 0}, out[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            const i32 row = first + 4 * j + i;
            if (row < t.tokens) in[i] = sm90::load_shared(reinterpret_cast<const u32*>(rows + row * stride + channel));
        }
        turn4(in, out);
#pragma unroll
        for (i32 c = 0; c < 4; ++c) turned[c][j] = out[c];
    }
#pragma unroll
    for (i32 c = 0; c < 4; ++c) {
        u8* to = p.out + (p.cu_seqlens == nullptr ? t.sequence * p.out_batch : i64{0}) + t.head * p.out_head + (channel + c) * p.out_seq + t.begin +
                 t.first + first;
        // A ragged sequence begins anywhere.
        if (first + 16 <= t.tokens && reinterpret_cast<u64>(to) % 16 == 0) {
            sm90::store_global16(to, turned[c]);
            continue;
        }
#pragma unroll
        for (i32 i = 0; i < 16; ++i)
            if (first + i < t.tokens) sm90::store_global(to + i, static_cast<u8>(turned[c][i / 4] >> 8 * (i % 4)));
    }
}

template <Elem E, bool kTransposed>
HOPFILL_INLINE void round(const QuantizeParams& p) {
    const QuantizeTile t = find_tile(p);
    if (t.tokens <= 0) return;
    const QuantizeShare share(p.head_dim / kQuantizeVector);
    u8* const rows = sm90::shared_memory() + 128;
    const i32 stride = p.head_dim + 4;
    QuantizeVector v[kQuantizeSlots];
    load_tile(p, t, share, v);
    float mean[kQuantizeVector], inverse[kQuantizeVector];
    load_means(p, t, share.vector, mean);
    float* scale = scale_of(p, t);
    if (p.kind == QuantizeScale::channel) {
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i)
            inverse[i] = sm90::divide(1.0f, sm90::load_global(scale + (share.vector * kQuantizeVector + i) * p.scale_channel));
    } else {
        float s;
        if (p.kind == QuantizeScale::block) {
            float most[kQuantizeVector];
            greatest_channels<E>(t, share, v, mean, most);
            s = scale_for(block_maximum(greatest_of(most), reinterpret_cast<float*>(sm90::shared_memory())));
            if (sm90::thread_index() == 0) sm90::store_global(scale, s);
        } else {
            s = sm90::load_global(scale);
        }
        const float one = sm90::divide(1.0f, s);
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i) inverse[i] = one;
    }
#pragma unroll
    for (i32 slot = 0; slot < kQuantizeSlots; ++slot) {
        if (!holds(t, share, slot)) continue;
        const i32 row = share.row + slot * share.rows;
        float x[kQuantizeVector];
        v[slot].unpack<E>(x);
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i) x[i] = (x[i] - mean[i]) * inverse[i];
        u32 bytes[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i) bytes[i] = sm90::pack4_e4m3(x[4 * i], x[4 * i + 1], x[4 * i + 2], x[4 * i + 3]);
        if constexpr (kTransposed) {
#pragma unroll
            for (i32 i = 0; i < 4; ++i)
                sm90::store_shared(reinterpret_cast<u32*>(rows + row * stride + share.vector * kQuantizeVector + 4 * i), bytes[i]);
        } else {
            sm90::store_global16(p.out + (p.cu_seqlens == nullptr ? t.sequence * p.out_batch : i64{0}) + (t.begin + t.first + row) * p.out_seq +
                                     t.head * p.out_head + share.vector * kQuantizeVector,
                                 bytes);
        }
    }
    if constexpr (kTransposed) {
        sm90::sync_block();
        store_transposed(p, t, rows, stride);
    }
}

}  // namespace hopfill

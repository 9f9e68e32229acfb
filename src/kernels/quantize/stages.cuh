// The launches of the quantiser; see SCHEDULE.md.
#pragma once

#include "quantize/bytes.cuh"
#include "quantize/tile.cuh"
#include "sm90/matrix.cuh"

namespace hopfill {

// Rows of a tile that a thread holds.
constexpr i32 quantize_slots(QuantizeConfig c) { return c.wide ? 8 : 4; }

// Adds up or takes the maximum of what threads of different rows hold for the same channels, in a fixed order; f(channel, result) for each.
template <i32 N, class Combine, class Use>
HOPFILL_INLINE void reduce_rows(const QuantizeShare& share, i32 channels, const float (&x)[N], Combine combine, Use use) {
    auto* const rows = reinterpret_cast<float*>(sm90::shared_memory());
    float* const parts = rows + kQuantizeThreads * kQuantizeVector;
    if (share.active) {
#pragma unroll
        for (i32 i = 0; i < N; i += 4) sm90::store_shared4(rows + share.row * channels + share.vector * N + i, x[i], x[i + 1], x[i + 2], x[i + 3]);
    }
    sm90::sync_block();
    const i32 thread = static_cast<i32>(sm90::thread_index()), c = thread % channels, part = thread / channels, n = kQuantizeThreads / channels;
    if (part < n) {
        float sum = sm90::load_shared(rows + part * channels + c);
        for (i32 row = part + n; row < share.rows; row += n) sum = combine(sum, sm90::load_shared(rows + row * channels + c));
        sm90::store_shared(parts + part * channels + c, sum);
    }
    sm90::sync_block();
    if (thread >= channels) return;
    float sum = sm90::load_shared(parts + thread);
    for (i32 i = 1; i < n; ++i) sum = combine(sum, sm90::load_shared(parts + i * channels + thread));
    use(thread, sum);
}

HOPFILL_INLINE bool holds(const QuantizeTile& t, const QuantizeShare& share, i32 slot) {
    return share.active && share.row + slot * share.rows < t.tokens;
}

// Starts all of a thread's loads. Slots past the tile's end get its last row again, which changes no maximum: the loads need no predicates, which
// would have to be kept for what follows.
template <i32 Slots>
HOPFILL_INLINE void load_tile(const QuantizeParams& p, const QuantizeTile& t, const QuantizeShare& share, QuantizeVector (&v)[Slots]) {
    const u16* const from = input_row(p, t, t.first) + share.vector * kQuantizeVector;
#pragma unroll
    for (i32 slot = 0; slot < Slots; ++slot) {
        const i32 row = share.row + slot * share.rows;
        v[slot].load(from + (row < t.tokens ? row : t.tokens - 1) * p.in_seq);
    }
}

template <QuantizeConfig C>
HOPFILL_INLINE void sum(const QuantizeParams& p) {
    const QuantizeTile t = find_tile(p, false);
    if (t.tokens < kQuantizeSumRows) return;
    const QuantizeShare share(p.head_dim / kQuantizeVector);
    QuantizeVector v[quantize_slots(C)];
    load_tile(p, t, share, v);
    float sum[kQuantizeVector] = {};
#pragma unroll
    for (i32 slot = 0; slot < quantize_slots(C); ++slot) {
        if (!holds(t, share, slot)) continue;
        float x[kQuantizeVector];
        v[slot].template unpack<C.elem>(x);
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i) sum[i] += x[i];
    }
    reduce_rows(
        share, p.head_dim, sum, [](float a, float b) { return a + b; }, [&](i32 c, float all) { sm90::store_global(sum_place(p, t, c), all); });
}

// Adds the sums of a tile at channels c to c + 3.
template <Elem E>
HOPFILL_INLINE void add_tile(const QuantizeParams& p, const QuantizeTile& t, i32 c, float (&sum)[4]) {
    if (t.tokens >= kQuantizeSumRows) {
        u32 bits[4];
        sm90::load_global16(sum_place(p, t, c), bits);
#pragma unroll
        for (i32 i = 0; i < 4; ++i) sum[i] += sm90::bits_float(bits[i]);
        return;
    }
    for (i32 row = 0; row < t.tokens; ++row) {
#pragma unroll
        for (i32 i = 0; i < 4; i += 2) {
            float lo, hi;
            sm90::unpack2<E>(sm90::load_global(reinterpret_cast<const u32*>(input_row(p, t, t.first + row) + c + i)), lo, hi);
            sum[i] += lo;
            sum[i + 1] += hi;
        }
    }
}

// A block takes 32 channels of one head of one sequence.
template <QuantizeConfig C>
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
    constexpr i32 kVector = 4;
    const QuantizeShare share(channels / kVector);
    float sum[kVector] = {};
    if (share.active) {
        const i32 tiles = ceil_div(t.length, p.tile);
#pragma unroll 4
        for (i32 tile = share.row; tile < tiles; tile += share.rows) {
            t.first = tile * p.tile;
            t.tokens = t.length - t.first < p.tile ? t.length - t.first : p.tile;
            add_tile<C.elem>(p, t, first_channel + share.vector * kVector, sum);
        }
    }
    float* const mean = mean_of(p, t) + first_channel;
    reduce_rows(
        share, channels, sum, [](float a, float b) { return a + b; },
        [&](i32 c, float total) { sm90::store_global(mean + c, t.length > 0 ? sm90::divide(total, static_cast<float>(t.length)) : 0.0f); });
}

template <QuantizeConfig C, i32 Slots>
HOPFILL_INLINE void greatest_channels(const QuantizeVector (&v)[Slots], float (&most)[kQuantizeVector]) {
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; ++i) most[i] = 0;
#pragma unroll
    for (i32 slot = 0; slot < Slots; ++slot) {
        float x[kQuantizeVector];
        v[slot].template unpack<C.elem>(x);
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i) most[i] = sm90::max_float(most[i], finite_magnitude(x[i]));
    }
}

// Of a slot's channels together.
template <QuantizeConfig C>
HOPFILL_INLINE float greatest_number(const QuantizeVector& v, const float (&mean)[kQuantizeVector]) {
    float x[kQuantizeVector], most = 0;
    v.template unpack<C.elem>(x);
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; ++i) most = sm90::max_float(most, finite_magnitude(centred<C>(x[i], mean[i])));
    return most;
}

template <QuantizeConfig C>
HOPFILL_INLINE void greatest(const QuantizeParams& p) {
    const QuantizeTile t = find_tile(p, true);
    if (t.tokens <= 0) return;
    const QuantizeShare share(p.head_dim / kQuantizeVector);
    QuantizeVector v[quantize_slots(C)];
    load_tile(p, t, share, v);
    float* scale = scale_of(p, t);
    if constexpr (C.extra == QuantizeExtra::channels) {
        float most[kQuantizeVector];
        greatest_channels<C>(v, most);
        reduce_rows(
            share, p.head_dim, most, [](float a, float b) { return sm90::max_float(a, b); },
            [&](i32 c, float all) { sm90::atomic_max(scale + c * p.scale_channel, scale_for(all)); });
    } else {
        float mean[kQuantizeVector], most = 0;
        load_means<C>(p, t, share.vector, mean);
#pragma unroll
        for (i32 slot = 0; slot < quantize_slots(C); ++slot) most = sm90::max_float(most, greatest_number<C>(v[slot], mean));
        auto* const maxima = reinterpret_cast<float*>(sm90::shared_memory());
        most = warp_maximum(most);
        if (sm90::lane_index() == 0) sm90::store_shared(maxima + sm90::thread_index() / 32 * kQuantizeGroups, most);
        sm90::sync_block();
        if (sm90::thread_index() == 0) sm90::atomic_max(scale, scale_for(block_maximum(maxima, 0)));
    }
}

// Finds and stores the scales of the tile's blocks of tokens; returns their inverses, in shared memory.
template <QuantizeConfig C, i32 Slots>
HOPFILL_INLINE const float* find_scales(const QuantizeParams& p, const QuantizeTile& t, const QuantizeShare& share, const QuantizeVector (&v)[Slots],
                                        const float (&mean)[kQuantizeVector]) {
    auto* const maxima = reinterpret_cast<float*>(sm90::shared_memory());
    float* const inverse = maxima + kQuantizeThreads / 32 * kQuantizeGroups;
    float most[kQuantizeGroups] = {};
#pragma unroll
    for (i32 slot = 0; slot < Slots; ++slot) {
        const float mine = greatest_number<C>(v[slot], mean);
        // Past the tile's end: that of its last row, or one that is not stored.
        const i32 group = (share.row + slot * share.rows) >> p.group;
#pragma unroll
        for (i32 g = 0; g < kQuantizeGroups; ++g) most[g] = sm90::max_float(most[g], g == group ? mine : 0.0f);
    }
    const i32 thread = static_cast<i32>(sm90::thread_index()), groups = ceil_div(t.tokens, 1 << p.group);
#pragma unroll
    for (i32 g = 0; g < kQuantizeGroups; ++g) {
        if (g >= groups) break;
        const float all = warp_maximum(most[g]);
        if (sm90::lane_index() == 0) sm90::store_shared(maxima + thread / 32 * kQuantizeGroups + g, all);
    }
    sm90::sync_block();
    if (thread < groups) {
        const float scale = scale_for(block_maximum(maxima, thread));
        sm90::store_global(scale_of(p, t) + thread * p.scale_block, scale);
        sm90::store_shared(inverse + thread, sm90::reciprocal(scale));
    }
    sm90::sync_block();
    return inverse;
}

// 8 tokens of 4 channels, from rows of bytes in shared memory to rows of tokens.
HOPFILL_INLINE void store_turned(const QuantizeParams& p, const QuantizeTile& t, const u8* rows, i32 first, i32 channel) {
    u32 turned[4][2];
#pragma unroll
    for (i32 j = 0; j < 2; ++j) {
        u32 in[4] = {0, 0, 0, 0}, out[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            const i32 row = first + 4 * j + i;
            if (row < t.tokens) in[i] = sm90::load_shared(reinterpret_cast<const u32*>(rows + quantize_row_offset(row, p.head_dim) + channel));
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
        if (first + 8 <= t.tokens && reinterpret_cast<u64>(to) % 8 == 0) {
            sm90::store_global8(to, turned[c]);
            continue;
        }
#pragma unroll
        for (i32 i = 0; i < 8; ++i)
            if (first + i < t.tokens) sm90::store_global(to + i, static_cast<u8>(turned[c][i / 4] >> 8 * (i % 4)));
    }
}

// A slot's numbers over their scales, to shared memory where they are to be transposed.
template <QuantizeConfig C, class Inverse>
HOPFILL_INLINE void store_slot(const QuantizeVector& v, u8* to, const float (&mean)[kQuantizeVector],
                               Inverse inverse) {
    float x[kQuantizeVector];
    v.template unpack<C.elem>(x);
#pragma unroll
    for (i32 i = 0; i < kQuantizeVector; ++i) x[i] = centred<C>(x[i], mean[i]) * inverse(i);
    const u32 bytes[2] = {sm90::pack4_e4m3(x[0], x[1], x[2], x[3]), sm90::pack4_e4m3(x[4], x[5], x[6], x[7])};
    if constexpr (C.transposed)
        sm90::store_shared8(to, bytes);
    else
        sm90::store_global8(to, bytes);
}

template <QuantizeConfig C>
HOPFILL_INLINE void round(const QuantizeParams& p) {
    const QuantizeTile t = find_tile(p, false);
    if (t.tokens <= 0) return;
    const QuantizeShare share(p.head_dim / kQuantizeVector);
    u8* const rows = sm90::shared_memory() + kQuantizeScratch;
    QuantizeVector v[quantize_slots(C)];
    load_tile(p, t, share, v);
    const auto store = [&](const float(&mean)[kQuantizeVector], auto inverse_of_row) {
        u8* out = C.transposed ? nullptr : output_row(p, t, t.first + share.row) + share.vector * kQuantizeVector;
        const i64 step = share.rows * p.out_seq;
#pragma unroll
        for (i32 slot = 0; slot < quantize_slots(C); ++slot, out += C.transposed ? 0 : step) {
            if (!holds(t, share, slot)) continue;
            v[slot].renew();
            const i32 row = share.row + slot * share.rows;
            u8* const to = C.transposed ? rows + quantize_row_offset(row, p.head_dim) + share.vector * kQuantizeVector : out;
            store_slot<C>(v[slot], to, mean, inverse_of_row(row));
        }
    };
    const float* scale = scale_of(p, t);
    float mean[kQuantizeVector];
    load_means<C>(p, t, share.vector, mean);
    if constexpr (C.extra == QuantizeExtra::channels) {
        float inverse[kQuantizeVector];
#pragma unroll
        for (i32 i = 0; i < kQuantizeVector; ++i)
            inverse[i] = sm90::reciprocal(sm90::load_global(scale + (share.vector * kQuantizeVector + i) * p.scale_channel));
        store(mean, [&](i32) { return [&](i32 i) { return inverse[i]; }; });
    } else if (p.kind == QuantizeScale::block) {
        const float* inverses = find_scales<C>(p, t, share, v, mean);
        store(mean, [&](i32 row) {
            const float inverse = sm90::load_shared(inverses + (row >> p.group));
            return [inverse](i32) { return inverse; };
        });
    } else {
        const float inverse = sm90::reciprocal(sm90::load_global(scale));
        store(mean, [&](i32) { return [inverse](i32) { return inverse; }; });
    }
    if constexpr (C.transposed) {
        sm90::sync_block();
        // Neighbouring threads take 8 tokens each of up to 128, which lie together in the output, then the next 4 channels.
        const i32 thread = static_cast<i32>(sm90::thread_index()), quads = p.head_dim / 4, lanes = p.tile < 128 ? p.tile / 8 : 16;
        for (i32 i = thread / lanes; i < quads * (p.tile / 8 / lanes); i += kQuantizeThreads / lanes) {
            const i32 first = (i / quads * lanes + thread % lanes) * 8;
            if (first < t.tokens) store_turned(p, t, rows, first, i % quads * 4);
        }
    }
}

}  // namespace hopfill

// e4m3 K and V to 16-bit copies for prefill_widened: streams memory, 1 byte read and 2 written a number. Every e4m3 number is one of bf16 and of f16,
// so nothing is rounded. It knows no lengths: padding is converted, too, and masked by who reads it.
#pragma once

#include "plan/quantize_params.h"
#include "sm90/vector.cuh"

namespace hopfill {

template <Elem E>
HOPFILL_INLINE void widen(const WidenParams& p) {
    constexpr i32 kSlots = widen_slots(), kThreads = kQuantizeThreads;
    const i32 block = static_cast<i32>(sm90::block_index()), thread = static_cast<i32>(sm90::thread_index());
    const WidenTensor& t = p.tensor[block >= p.tiles];
    const i32 begin = (block >= p.tiles ? block - p.tiles : block) * p.tile, of_token = p.heads * p.vectors;
    const i32 all = (p.tokens - begin < p.tile ? p.tokens - begin : p.tile) * of_token;
    u16* const out = t.out + static_cast<i64>(begin) * of_token * widen_vector();
#pragma unroll 1
    for (i32 first = thread; first < all; first += kSlots * kThreads) {
        u32 bytes[kSlots][2];
        // All loads before the first use. Slots past the end get its last vector again: the loads need no predicates.
#pragma unroll
        for (i32 slot = 0; slot < kSlots; ++slot) {
            const i32 i = first + slot * kThreads < all ? first + slot * kThreads : all - 1;
            const i32 row = i / of_token, column = i - row * of_token, head = column / p.vectors;
            const i32 token = begin + row, sequence = token / p.seqlen;
            sm90::load_global8(t.in + sequence * t.batch + (token - sequence * p.seqlen) * t.seq + head * t.head +
                                   (column - head * p.vectors) * widen_vector(),
                               bytes[slot]);
        }
#pragma unroll
        for (i32 slot = 0; slot < kSlots; ++slot) {
            const i32 i = first + slot * kThreads;
            if (i >= all) break;
            u32 words[4];
            sm90::unpack4_e4m3<E>(bytes[slot][0], words[0], words[1]);
            sm90::unpack4_e4m3<E>(bytes[slot][1], words[2], words[3]);
            sm90::store_global16(out + static_cast<i64>(i) * widen_vector(), words);
        }
    }
}

}  // namespace hopfill

// Which element a thread of a warpgroup holds (PTX ISA 9.7.15.5.1, figures of wgmma register fragments).
// Accumulator d[i] of thread t, with warp w = t / 32 and lane l = t % 32:
//   row  16 w + l / 4 + 8 * (i / 2 % 2)          column  8 * (i / 4) + 2 * (l % 4) + i % 2
#pragma once

#include "plan/kernel_config.h"
#include "sm90/math.cuh"

namespace hopfill {

HOPFILL_INLINE u32 fragment_row(u32 thread) { return (thread % 128) / 32 * 16 + (thread % 32) / 4; }  // and the row 8 below it
HOPFILL_INLINE u32 fragment_column(u32 thread) { return 2 * (thread % 4); }
// Which of the thread's two rows accumulator i belongs to.
constexpr i32 fragment_half(i32 i) { return i / 2 % 2; }

// Which key of a block of N accumulator i of Q K^T holds, counted from this thread's first. Paired: the block's even rows lie first, then the odd
// ones, so that a thread has keys 4 c to 4 c + 3 of every 16.
template <i32 N, bool Paired>
constexpr i32 fragment_key(i32 i) {
    return !Paired ? 8 * (i / 4) + i % 2 : 16 * (i % (N / 4) / 4) + 2 * (i % 2) + i / (N / 4);
}
template <bool Paired>
HOPFILL_INLINE i32 first_fragment_key(u32 thread) {
    return static_cast<i32>(fragment_column(thread)) * (Paired ? 2 : 1);
}

// FP32 accumulators of 64 x N to the A operand of a 16-bit product over N: fragment k covers columns 16 k to 16 k + 15, and lies in the
// same thread, so no exchange is needed. Of a wider operand the columns past N are 0.
template <Elem E, i32 N, i32 Columns = N>
HOPFILL_INLINE void pack_fragments(const float (&s)[N / 2], u32 (&p)[Columns / 16][4]) {
#pragma unroll
    for (i32 k = 0; k < Columns / 16; ++k)
#pragma unroll
        for (i32 w = 0; w < 4; ++w) p[k][w] = k < N / 16 ? sm90::pack2<E>(s[8 * k + 2 * w], s[8 * k + 2 * w + 1]) : 0u;
}

// The same for e4m3: fragment k of the product covers 32 columns, of which a thread's word needs four that follow each other. Columns 2 c, 2 c + 1,
// 2 c + 8, 2 c + 9 of each 16 lie in thread c: they are taken as the four, and the other operand's rows are put in that order
// (prefill_fp8/transpose.cuh, turner.cuh). Paired: the four keys lie in thread c, and nothing has to be put in order.
template <i32 N, bool Paired>
HOPFILL_INLINE void pack_fragments_e4m3(const float (&s)[N / 2], u32 (&p)[N / 32][4]) {
#pragma unroll
    for (i32 k = 0; k < N / 32; ++k)
#pragma unroll
        for (i32 w = 0; w < 4; ++w) {
            if constexpr (Paired) {
                const i32 even = 8 * k + w / 2 * 4 + w % 2 * 2, odd = even + N / 4;
                p[k][w] = sm90::pack4_e4m3(s[even], s[odd], s[even + 1], s[odd + 1]);
            } else {
                const i32 i = 16 * k + w / 2 * 8 + w % 2 * 2;
                p[k][w] = sm90::pack4_e4m3(s[i], s[i + 1], s[i + 4], s[i + 5]);
            }
        }
}

}  // namespace hopfill

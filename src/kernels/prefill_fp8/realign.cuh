// A ragged batch's V^T, [kv_heads, head_dim, tokens]: a sequence may start at any byte of a row, and TMA brings rows from multiples of 16 bytes
// alone. So the warps that transpose V otherwise move each row by up to 15 bytes on its way, put its keys in the order that a fragment of P has them
// (transpose.cuh), and write zeros for those of the next sequence, which may be NaNs.
#pragma once

#include "plan/geometry.h"
#include "sm90/math.cuh"
#include "sm90/matrix.cuh"
#include "sm90/vector.cuh"
#include "tile/descriptor.cuh"

namespace hopfill {

// One of `warps` warps; the block's first key lies `shift` bytes into the rows at `from`; `keys` of them are the sequence's.
template <KernelConfig C>
HOPFILL_INLINE void realign(const u8* from, u8* to, u32 warp, u32 warps, u32 shift, i32 keys) {
    static_assert(C.tile_n == kSlabBytes && C.head_dim % 4 == 0);
    // Eight lanes have a row's eight chunks, so that neither reading nor writing has a bank conflict.
    const u32 chunk = sm90::lane_index() % 8;
    const u32 selector = 0x3210u + 0x1111u * (shift % 4);
#pragma unroll 1
    for (u32 row = 4 * warp + sm90::lane_index() / 8; row < C.head_dim; row += 4 * warps) {
        const u32 at = swizzled_chunk(row, chunk);
        u32 low[4], high[4];
        sm90::load_shared16(from + at, low);
        sm90::load_shared16(from + (chunk < 7 ? swizzled_chunk(row, chunk + 1) : vt_rows(C) + row * edge_keys()), high);
        u32 w[8] = {low[0], low[1], low[2], low[3], high[0], high[1], high[2], high[3]};
        if (shift & 8) {
#pragma unroll
            for (i32 i = 0; i < 6; ++i) w[i] = w[i + 2];
        }
        if (shift & 4) {
#pragma unroll
            for (i32 i = 0; i < 5; ++i) w[i] = w[i + 1];
        }
#pragma unroll
        for (i32 i = 0; i < 4; ++i) w[i] = sm90::permute_bytes(w[i], w[i + 1], selector);
        if (keys < C.tile_n) {
#pragma unroll
            for (i32 i = 0; i < 4; ++i) {
                const i32 left = keys - static_cast<i32>(16 * chunk) - 4 * i;
                if (left < 4) w[i] = left <= 0 ? 0 : w[i] & ((1u << 8 * left) - 1);
            }
        }
        sm90::store_shared16(to + at, {sm90::permute_bytes(w[0], w[2], 0x5410u), sm90::permute_bytes(w[0], w[2], 0x7632u),
                                       sm90::permute_bytes(w[1], w[3], 0x5410u), sm90::permute_bytes(w[1], w[3], 0x7632u)});
    }
}

}  // namespace hopfill

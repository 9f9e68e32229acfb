// Mask policies: which keys of a block a row may see.
#pragma once

#include "plan/geometry.h"
#include "sm90/math.cuh"
#include "tile/fragment.cuh"

namespace hopfill {

// Keys [0, limit) are visible to a row: the sequence's end, and with a causal mask the row's own position, bottom-right aligned.
template <KernelConfig C>
HOPFILL_INLINE i32 visible_keys(i32 row, i32 q_len, i32 kv_len) {
    if constexpr (C.mask == Mask::causal)
        return clamp_high(row + 1 + kv_len - q_len, kv_len);
    else
        return kv_len;
}

// Sets the logits of keys at or past a row's limit to -inf. `first_key` is the key of this thread's first column.
template <KernelConfig C, i32 N = C.tile_n>
HOPFILL_INLINE void mask_block(float (&s)[N / 2], i32 first_key, const i32 (&limit)[2]) {
    const i32 left[2] = {limit[0] - first_key, limit[1] - first_key};
#pragma unroll
    for (i32 i = 0; i < N / 2; ++i) {
        const i32 column = fragment_key<N, pairs_keys(C)>(i);
        if (column >= left[fragment_half(i)]) s[i] = -sm90::infinity();
    }
}

}  // namespace hopfill

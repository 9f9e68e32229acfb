// Words in global memory by which blocks know what of V has been transposed (turner.cuh). Templates, as the producers of all families see this file.
#pragma once

#include "plan/geometry.h"
#include "plan/params.h"
#include "sm90/fence.cuh"
#include "sm90/math.cuh"

namespace hopfill {

// Counts the pieces that are transposed of a block of 128 tokens.
template <KernelConfig C>
HOPFILL_INLINE u32* turned_word(const PrefillTurnParams& p, i32 sequence, i32 kv_head, i32 block) {
    return p.turning + 2 + (sequence * p.kv_heads + kv_head) * p.turned_blocks + block;
}

// One lane: until block n of the job's keys is transposed, as far as the sequence goes, for TMA to load.
template <KernelConfig C>
HOPFILL_INLINE void wait_turned(const PrefillTurnParams& p, i32 sequence, i32 kv_head, i32 n) {
    const i32 end = clamp_high(ceil_div((n + 1) * C.tile_n, piece_tokens()), p.turned_blocks);
#pragma unroll 1
    for (i32 at = n * C.tile_n / piece_tokens(); at < end; ++at)
        sm90::wait_global(turned_word<C>(p, sequence, kv_head, at), static_cast<u32>(channel_pieces(C)));
    sm90::fence_async_global();
}

// A warp that touches the words no more: of each block the one that loads and the first of those that transpose. The last of all resets them for the
// next launch.
template <KernelConfig C>
HOPFILL_INLINE void finish_turning(const PrefillTurnParams& p, bool leader) {
    bool last = false;
    if (leader) {
        sm90::fence_device();
        last = sm90::atomic_add(p.turning + 1, 1u) + 1 == 2 * sm90::grid_size();
    }
    if (!sm90::vote_any(last)) return;
    sm90::sync_warp();
#pragma unroll 1
    for (i32 i = sm90::lane_index(); i < 2 + p.turned_heads * p.turned_blocks; i += 32) sm90::store_global(p.turning + i, 0u);
}

}  // namespace hopfill

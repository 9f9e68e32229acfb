// As prefill_mixed's, with V's multipliers by channel taken where consumers that repeat jobs, or have wide outputs, find the registers for them.
#pragma once

#include "prefill_mixed/scales.cuh"

namespace hopfill {

template <KernelConfig C>
struct WidenedScales : MixedScales<C> {
    // Before the job's description is read, which takes six registers (one more than three warpgroups at hd64 have beside the columns').
    HOPFILL_INLINE static constexpr bool columns_first() { return C.head_dim <= 128; }

    // Above hd128 a load for 32 columns, each lane's for all: with loads of its own a thread needs up to 13 registers more than there are.
    HOPFILL_INLINE static void scale_columns(const PrefillParams& p, i32 head, float (&o)[C.head_dim / 2]) {
        if constexpr (C.head_dim <= 128) {
            MixedScales<C>::scale_columns(p, head, o);
        } else {
            const PrefillFp8Params& a = MixedScales<C>::all(p);
            if (a.v_channel_scale == nullptr) return;
            const i32 lane = static_cast<i32>(sm90::lane_index()), left = a.channels - lane;
            const float* scale = a.v_channel_scale + static_cast<i64>(divide(head, a.by_kv_group)) * a.v_channel_stride + lane;
            const u32 first = fragment_column(sm90::thread_index());
#pragma unroll
            for (i32 column = 0; column < C.head_dim; column += 32) {
                const float mine = column < left ? sm90::load_global(scale + column) : 1.0f;
#pragma unroll
                for (i32 i = 0; i < 16; i += 4) {
#pragma unroll
                    for (i32 j = 0; j < 2; ++j) {
                        const float factor = sm90::shuffle_from(mine, first + static_cast<u32>(2 * i + j));
                        o[column / 2 + i + j] *= factor;
                        o[column / 2 + i + 2 + j] *= factor;
                    }
                }
            }
        }
    }
};

}  // namespace hopfill

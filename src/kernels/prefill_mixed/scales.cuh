// Multipliers of e4m3 K and V beside 16-bit Q, as prefill/mainloop.cuh takes them: k's in the factor of the logits, v's in that of the outputs.
#pragma once

#include "prefill_fp8/scales.cuh"

namespace hopfill {

template <KernelConfig C>
struct MixedScales {
    static_assert(C.scale_block == 0);
    float factor;

    HOPFILL_INLINE static constexpr bool columns_first() { return false; }
    // A kernel of this family is launched with the longer parameters.
    HOPFILL_INLINE static const PrefillFp8Params& all(const PrefillParams& p) { return static_cast<const PrefillFp8Params&>(p); }

    // Of a sequence without keys they may be anything: they are not used.
    HOPFILL_INLINE static float of_job(const PrefillParams& p, const ScaleView& view, const Job* job) {
        return load_scale(view, sm90::load_shared(&job->sequence), divide(sm90::load_shared(&job->head), p.by_kv_group), 0,
                          sm90::load_shared(&job->kv_len));
    }

    HOPFILL_INLINE void open(const PrefillParams& p, const Job* job) {
        factor = at_least(p.scale_log2 * of_job(p, all(p).k_scale, job), kSmallestFactor);
    }
    HOPFILL_INLINE float logit(const PrefillParams&) const { return factor; }
    HOPFILL_INLINE static void scale_rows(const PrefillParams& p, const Job* job, float (&inverse)[2]) {
        const float v = of_job(p, all(p).v_scale, job);
        inverse[0] *= v;
        inverse[1] *= v;
    }
    // As scale_channels(), with one address for all: the next job's P is in registers already, and few are left.
    HOPFILL_INLINE static void scale_columns(const PrefillParams& p, i32 head, float (&o)[C.head_dim / 2]) {
        const PrefillFp8Params& a = all(p);
        if (a.v_channel_scale == nullptr) return;
        const float* scale = a.v_channel_scale + static_cast<i64>(divide(head, a.by_kv_group)) * a.v_channel_stride;
        const i32 first = static_cast<i32>(fragment_column(sm90::thread_index())), left = a.channels - first;
#pragma unroll
        for (i32 i = 0; i < C.head_dim / 2; i += 4) {
#pragma unroll
            for (i32 j = 0; j < 2; ++j) {
                const float factor = 2 * i + j < left ? sm90::load_global(scale + first + 2 * i + j) : 1.0f;
                o[i + j] *= factor;
                o[i + 2 + j] *= factor;
            }
        }
    }
};

}  // namespace hopfill

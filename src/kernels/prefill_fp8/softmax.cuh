// Online softmax whose P is rounded to e4m3: as prefill/softmax.cuh, with the row's maximum mapped to 2^8, so that P uses the format's whole range
// (448 is the largest value; 2^-9 the smallest), and with multipliers of K that may change from one half of a block to the other.
#pragma once

#include "sm90/math.cuh"
#include "tile/fragment.cuh"
#include "tile/inverse.cuh"

namespace hopfill {

// Two rows a thread; Paired as in tile/fragment.cuh. `reference` is the row's running maximum of scaled logits, less kOffset. Sums are this thread's
// share of P before it is rounded; or OfProducts: the row's, of the rounded P, made by its products (Fp8Mainloop::promote) and, like the output, a
// step behind. Then the reference is the block's own maximum, even where an earlier block had a greater: each block's P has e4m3's whole range, and
// its greatest, whose rounding would count most, is 2^8 exactly.
template <i32 N, i32 Factors, bool Paired>
struct Fp8Softmax {
    static constexpr float kOffset = 8.0f;
    // References fall by at most 2^16 a block, and not while a sum, which may be two falls behind, exceeds 2^60: so no sum reaches 2^93, and no
    // output, of values up to 448, 2^102. What is left out then is below 2^-60 of the whole.
    static constexpr float kFall = 16.0f, kMostSum = 0x1p60f;
    float reference[2];
    float sum[2];

    // Which factor the logit in accumulator i takes.
    static constexpr i32 factor_of(i32 i) { return fragment_key<N, Paired>(i) / (N / Factors); }

    HOPFILL_INLINE void reset() {
        reset_references();
        reset_sums();
    }
    HOPFILL_INLINE void reset_references() { reference[0] = reference[1] = -sm90::infinity(); }
    HOPFILL_INLINE void reset_sums() { sum[0] = sum[1] = 0.0f; }

    // Raises the references to this block's maxima where they are higher, and lowers those of sums of products where they are lower; returns what
    // exponentials() is to use, and in `rescale` what earlier sums (done here, but for those of products) and outputs (the caller's) are to be
    // multiplied with.
    // A row of which every logit is -inf keeps -inf as its reference and gets 0 everywhere, never -inf - -inf.
    template <bool OfProducts>
    HOPFILL_INLINE void raise(const float (&s)[N / 2], const float (&scale)[Factors], float (&used)[2], float (&rescale)[2]) {
        float top[2];
#pragma unroll
        for (i32 f = 0; f < Factors; ++f) {
            float part[2];
            maximum(s, f, part);
#pragma unroll
            for (i32 h = 0; h < 2; ++h) {
                const float scaled = sm90::fma_float(part[h], scale[f], -kOffset);
                top[h] = f == 0 ? scaled : sm90::max_float(top[h], scaled);
            }
        }
#pragma unroll
        for (u32 distance = 1; distance < 4; distance *= 2) {
            const float other[2] = {sm90::shuffle_xor(top[0], distance), sm90::shuffle_xor(top[1], distance)};
#pragma unroll
            for (i32 h = 0; h < 2; ++h) top[h] = sm90::max_float(top[h], other[h]);
        }
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            float least = reference[h];
            if constexpr (OfProducts) least = sum[h] > kMostSum ? least : least - kFall;
            const float raised = sm90::max_float(least, top[h]);
            used[h] = raised == -sm90::infinity() ? 0.0f : raised;
            rescale[h] = sm90::exp2_approx(reference[h] - used[h]);
            reference[h] = raised;
            if constexpr (!OfProducts) sum[h] *= rescale[h];
        }
    }

    // Replaces raw logits s by 2^8 P = exp2(scale * s - reference).
    template <bool OfProducts>
    HOPFILL_INLINE void exponentials(float (&s)[N / 2], const float (&scale)[Factors], const float (&used)[2]) {
#pragma unroll
        for (i32 i = 0; i < N / 2; ++i) {
            const i32 h = fragment_half(i);
            s[i] = sm90::exp2_approx(sm90::fma_float(s[i], scale[factor_of(i)], -used[h]));
            if constexpr (!OfProducts) sum[h] += s[i];
        }
    }

    // Completes the sums, which are to the references `of`, over the quad; inverse[h] is 0 for a row without keys. Returns the natural log-sum-exp in
    // lse.
    template <bool OfProducts>
    HOPFILL_INLINE void finish(const float (&of)[2], float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            if constexpr (!OfProducts) {
                sum[h] += sm90::shuffle_xor(sum[h], 1u);
                sum[h] += sm90::shuffle_xor(sum[h], 2u);
            }
            inverse[h] = sum[h] == 0.0f ? 0.0f : inverse_of(sum[h]);
            constexpr float kLn2 = 0.693147180559945f;
            lse[h] = sum[h] == 0.0f ? -sm90::infinity() : (of[h] + sm90::log2_approx(sum[h])) * kLn2;
        }
    }

private:
    // The i-th accumulator of factor f.
    static constexpr i32 accumulator(i32 f, i32 i) {
        constexpr i32 kRun = N / (Paired ? 4 : 2) / Factors;
        return i / kRun * (N / 4) + f * kRun + i % kRun;
    }

    // This thread's largest logits of both rows among those of factor f: two chains, side by side.
    HOPFILL_INLINE static void maximum(const float (&s)[N / 2], i32 f, float (&top)[2]) {
        constexpr i32 kShare = N / 2 / Factors;
        top[0] = s[accumulator(f, 0)];
        top[1] = s[accumulator(f, 2)];
#pragma unroll
        for (i32 i = 1; i < kShare; ++i)
            if (i != 2) top[fragment_half(i)] = sm90::max_float(top[fragment_half(i)], s[accumulator(f, i)]);
    }
};

}  // namespace hopfill

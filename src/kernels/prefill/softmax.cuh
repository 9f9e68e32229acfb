// Online softmax over the rows that a thread shares with its quad (Milakov and Gimelshein 2018; FlashAttention-2, algorithm 1).
#pragma once

#include "plan/geometry.h"
#include "sm90/math.cuh"
#include "tile/fragment.cuh"
#include "tile/inverse.cuh"

namespace hopfill {

// Two rows a thread. `reference` is the row's running maximum times scale_log2, or where blocks came by step_by_references(), not far below it; sums
// are this thread's share.
struct Softmax {
    // By stale references: when a thread's exponentials of a row (32 of them, or 16) add up to more than this, the row has outgrown its reference.
    // BF16's P has the range of float; FP16's ends at 65,504, ten powers of two above.
    template <Elem P>
    static constexpr float outgrown() {
        return P == Elem::f16 ? 64.0f : 1024.0f;
    }
    float reference[2];
    float sum[2];
    float recent[2];  // of the block before, if that came by step_by_references()

    HOPFILL_INLINE Softmax() { reset(); }
    HOPFILL_INLINE void reset() {
        reference[0] = reference[1] = -sm90::infinity();
        sum[0] = sum[1] = recent[0] = recent[1] = 0.0f;
    }

    // The first block of a job: replaces raw logits s by exp2(scale_log2 * s - reference), reference being the block's maxima.
    template <i32 N, bool ByRow = false>
    HOPFILL_INLINE void start(float (&s)[N / 2], float scale_log2) {
        reset();
        float rescale[2];
        step<N, ByRow>(s, scale_log2, rescale);
    }

    // Later blocks: raises the references to this block's maxima where they are higher, and returns in `rescale` what earlier sums (done here)
    // and outputs (the caller's) are to be multiplied with.
    // A row of which every logit is -inf keeps -inf as its reference and gets 0 everywhere, never -inf - -inf.
    // ByRow: one row's exponentials before the other's, sums last; the same operations on the same values, so the same bits.
    template <i32 N, bool ByRow = false>
    HOPFILL_INLINE void step(float (&s)[N / 2], float scale_log2, float (&rescale)[2]) {
        float top[2];
        maxima<N, ByRow>(s, top);
        float used[2];
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            const float raised = sm90::max_float(reference[h], top[h] * scale_log2);
            used[h] = raised == -sm90::infinity() ? 0.0f : raised;
            rescale[h] = sm90::exp2_approx(reference[h] - used[h]);
            reference[h] = raised;
            sum[h] *= rescale[h];
            if constexpr (ByRow) {
#pragma unroll
                for (i32 i = 0; i < N / 2; ++i)
                    if (fragment_half(i) == h) s[i] = sm90::exp2_approx(sm90::fma_float(s[i], scale_log2, -used[h]));
            }
        }
        if constexpr (ByRow) {
#pragma unroll
            for (i32 h = 0; h < 2; ++h)
#pragma unroll
                for (i32 i = 0; i < N / 2; ++i)
                    if (fragment_half(i) == h) sum[h] += s[i];
            return;
        }
#pragma unroll
        for (i32 i = 0; i < N / 2; ++i) {
            const i32 h = fragment_half(i);
            s[i] = sm90::exp2_approx(sm90::fma_float(s[i], scale_log2, -used[h]));
            sum[h] += s[i];
        }
    }

    // step() in parts, for who has products to ask for between them: raise_to_maxima() says what the rows' exponents are less than their logits by,
    // exponents() leaves the logits' registers, exponentials() ends with a row. The same operations on the same values.
    template <i32 N>
    HOPFILL_INLINE void raise_to_maxima(const float (&s)[N / 2], float scale_log2, float (&used)[2], float (&rescale)[2]) {
        float top[2];
        maxima<N, true>(s, top);
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            const float raised = sm90::max_float(reference[h], top[h] * scale_log2);
            used[h] = raised == -sm90::infinity() ? 0.0f : raised;
            rescale[h] = sm90::exp2_approx(reference[h] - used[h]);
            reference[h] = raised;
            sum[h] *= rescale[h];
        }
    }
    template <i32 N>
    HOPFILL_INLINE static void exponents(const float (&s)[N / 2], float (&e)[N / 2], float scale_log2, const float (&used)[2], i32 h) {
#pragma unroll
        for (i32 i = 0; i < N / 2; ++i)
            if (fragment_half(i) == h) e[i] = sm90::fma_float(s[i], scale_log2, -used[h]);
    }
    template <i32 N>
    HOPFILL_INLINE void exponentials(float (&e)[N / 2], i32 h) {
#pragma unroll
        for (i32 i = 0; i < N / 2; ++i)
            if (fragment_half(i) == h) e[i] = sm90::exp2_approx(e[i]);
#pragma unroll
        for (i32 i = 0; i < N / 2; ++i)
            if (fragment_half(i) == h) sum[h] += e[i];
    }

    // As step(), but without this block's maxima: their comparisons and their way across the quad would be a fifth of a step, on its critical path.
    // Exponentials are taken by the references as they are; where the sums tell that a row has outgrown its reference, that is raised, by a power of
    // two, before the next block's logits are there. What exceeds P's range leaves sums or outputs that are not finite: Consumer has the job done
    // again. Every row must have a finite reference.
    template <i32 N, bool ByRow, Elem P>
    HOPFILL_INLINE bool step_by_references(float (&s)[N / 2], float scale_log2, float (&rescale)[2]) {
        rescale[0] = rescale[1] = 1.0f;
        const bool raised = raise<P>(rescale);
        recent[0] = recent[1] = 0.0f;
        if constexpr (ByRow) {
#pragma unroll
            for (i32 h = 0; h < 2; ++h)
#pragma unroll
                for (i32 i = 0; i < N / 2; ++i)
                    if (fragment_half(i) == h) s[i] = sm90::exp2_approx(sm90::fma_float(s[i], scale_log2, -reference[h]));
#pragma unroll
            for (i32 h = 0; h < 2; ++h)
#pragma unroll
                for (i32 i = 0; i < N / 2; ++i)
                    if (fragment_half(i) == h) recent[h] += s[i];
        } else {
#pragma unroll
            for (i32 i = 0; i < N / 2; ++i) {
                const i32 h = fragment_half(i);
                s[i] = sm90::exp2_approx(sm90::fma_float(s[i], scale_log2, -reference[h]));
                recent[h] += s[i];
            }
        }
        sum[0] += recent[0];
        sum[1] += recent[1];
        return raised;
    }

    // Row maxima of a block, over the quad.
    template <i32 N, bool ByRow = false>
    HOPFILL_INLINE static void maxima(const float (&s)[N / 2], float (&top)[2]) {
        if constexpr (ByRow) {
#pragma unroll
            for (i32 h = 0; h < 2; ++h) {
                top[h] = s[2 * h];
#pragma unroll
                for (i32 i = 0; i < N / 2; ++i)
                    if (fragment_half(i) == h && i != 2 * h) top[h] = sm90::max_float(top[h], s[i]);
                top[h] = sm90::max_float(top[h], sm90::shuffle_xor(top[h], 1u));
                top[h] = sm90::max_float(top[h], sm90::shuffle_xor(top[h], 2u));
            }
            return;
        }
        top[0] = s[0];
        top[1] = s[2];
#pragma unroll
        for (i32 i = 1; i < N / 2; ++i) {
            if (i != 2) top[fragment_half(i)] = sm90::max_float(top[fragment_half(i)], s[i]);
        }
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            top[h] = sm90::max_float(top[h], sm90::shuffle_xor(top[h], 1u));
            top[h] = sm90::max_float(top[h], sm90::shuffle_xor(top[h], 2u));
        }
    }

    // Completes the sums over the quad; inverse[h] is 0 for a row without keys. Returns the natural log-sum-exp in lse. (A
    // division's path for denormals would be a call and a branch, in the open where a job ends.)
    HOPFILL_INLINE void finish(float (&inverse)[2], float (&lse)[2]) {
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            sum[h] += sm90::shuffle_xor(sum[h], 1u);
            sum[h] += sm90::shuffle_xor(sum[h], 2u);
            inverse[h] = sum[h] == 0.0f ? 0.0f : inverse_of(sum[h]);
            constexpr float kLn2 = 0.693147180559945f;
            lse[h] = sum[h] == 0.0f ? -sm90::infinity() : (reference[h] + sm90::log2_approx(sum[h])) * kLn2;
        }
    }

private:
    // Raises the references of rows whose most recent sums have grown by far, if any of the warp has; the quad agrees.
    template <Elem P>
    HOPFILL_INLINE bool raise(float (&rescale)[2]) {
        if (!sm90::vote_any(recent[0] > outgrown<P>() || recent[1] > outgrown<P>())) return false;
#pragma unroll
        for (i32 h = 0; h < 2; ++h) {
            float top = sm90::max_float(recent[h], sm90::shuffle_xor(recent[h], 1u));
            top = sm90::max_float(top, sm90::shuffle_xor(top, 2u));
            // By its exponent; of one that has overflowed by less, which does no harm. References of a million and more are rounded: what was added
            // up so far must be multiplied by what they were raised by in truth.
            const i32 by = top > outgrown<P>() ? clamp_high(static_cast<i32>(sm90::float_bits(top) >> 23) - 127, 126) : 0;
            const float raised = reference[h] + static_cast<float>(by);
            rescale[h] = sm90::exp2_approx(reference[h] - raised);
            reference[h] = raised;
            sum[h] *= rescale[h];
        }
        return true;
    }
};

}  // namespace hopfill

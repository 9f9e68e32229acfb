// 1 / x of sums and multipliers.
#pragma once

#include "sm90/math.cuh"

namespace hopfill {

// Rounded to nearest where x and 1 / x are normal numbers: a division without its branch for others, by a Newton step from the approximation.
HOPFILL_INLINE float inverse_of(float x) {
    const float near = sm90::reciprocal_approx(x);
    return sm90::fma_float(near, sm90::fma_float(-x, near, 1.0f), near);
}

}  // namespace hopfill

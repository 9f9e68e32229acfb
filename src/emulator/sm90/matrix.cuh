// The emulator's twin of src/kernels/sm90/matrix.cuh.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

HOPFILL_INLINE void load_matrix_transposed_x4(const void* row, u32 (&m)[4], Site at = Site::current()) {
    emulator::load_matrix_transposed(row, m, at);
}

HOPFILL_INLINE u32 permute_bytes(u32 a, u32 b, u32 selector) {
    const u64 bytes = a | u64{b} << 32;
    u32 r = 0;
    for (u32 i = 0; i < 4; ++i) r |= static_cast<u32>(bytes >> (selector >> 4 * i & 7) * 8 & 0xff) << 8 * i;
    return r;
}

}  // namespace hopfill::sm90

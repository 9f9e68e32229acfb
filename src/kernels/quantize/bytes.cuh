// Tokens and channels change places, four by four.
#pragma once

#include "sm90/matrix.cuh"

namespace hopfill {

// Bytes of four words of channels turned into a word a channel: word c gets byte c of each.
HOPFILL_INLINE void turn4(const u32 (&in)[4], u32 (&out)[4]) {
    const u32 low01 = sm90::permute_bytes(in[0], in[1], 0x5140), high01 = sm90::permute_bytes(in[0], in[1], 0x7362);
    const u32 low23 = sm90::permute_bytes(in[2], in[3], 0x5140), high23 = sm90::permute_bytes(in[2], in[3], 0x7362);
    out[0] = sm90::permute_bytes(low01, low23, 0x5410);
    out[1] = sm90::permute_bytes(low01, low23, 0x7632);
    out[2] = sm90::permute_bytes(high01, high23, 0x5410);
    out[3] = sm90::permute_bytes(high01, high23, 0x7632);
}

}  // namespace hopfill

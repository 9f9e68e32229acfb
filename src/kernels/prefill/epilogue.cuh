// Normalises a warpgroup's output, stages it in shared memory and stores it by TMA, whose bounds check drops rows past the sequence's end and
// columns past head_dim; writes the LSE.
#pragma once

#include "prefill/shared.cuh"
#include "prefill/softmax.cuh"
#include "sm90/fence.cuh"
#include "sm90/tma.cuh"
#include "tile/descriptor.cuh"

namespace hopfill {

template <KernelConfig C>
HOPFILL_INLINE void store_lse(const PrefillParams& p, const Job& job, u32 warpgroup, const float (&lse)[2]) {
    const u32 thread = sm90::thread_index() % 128;
    if (p.lse == nullptr || thread % 4 != 0) return;
    const i64 line = C.packed ? static_cast<i64>(job.head) * p.total_q + job.q_start
                              : (static_cast<i64>(job.sequence) * p.heads + job.head) * p.seqlen_q;
#pragma unroll
    for (i32 h = 0; h < 2; ++h) {
        const i32 row = job.row0 + warpgroup * kRowsPerWarpgroup + fragment_row(thread) + 8 * h;
        if (row < job.q_len) sm90::store_global(p.lse + line + row, lse[h]);
    }
}

// The staging slot must be free: see Consumer::run.
template <KernelConfig C>
HOPFILL_INLINE void stage_output(u8* to, float (&o)[C.head_dim / 2], const float (&inverse)[2]) {
    const u32 lane = sm90::lane_index();
    const u32 row = sm90::thread_index() % 128 / 32 * 16 + lane % 16;
    const u32 half = lane / 16;
#pragma unroll
    for (i32 c = 0; c < C.head_dim / 16; ++c) {
        u32 w[4];
#pragma unroll
        for (i32 i = 0; i < 4; ++i) w[i] = sm90::pack2<C.out>(o[8 * c + 2 * i] * inverse[i % 2], o[8 * c + 2 * i + 1] * inverse[i % 2]);
        const u32 chunk = 2 * c + half;
        sm90::store_matrix_x4(to + chunk / 8 * kRowsPerWarpgroup * kSlabBytes + swizzled_chunk(row, chunk % 8), w[0], w[1], w[2], w[3]);
    }
}

// One thread of the warpgroup, after its barrier.
template <KernelConfig C>
HOPFILL_INLINE void store_output(const PrefillParams& p, const Job& job, u32 warpgroup, const u8* from) {
    const RowCoord at = row_coord<C>(job.sequence, job.q_start, job.q_len);
    constexpr i32 kColumns = kSlabBytes / elem_bytes(C.out);
#pragma unroll
    for (i32 s = 0; s < ceil_div(C.head_dim, kColumns); ++s)
        sm90::tma_store(&p.o, from + s * kRowsPerWarpgroup * kSlabBytes,
                        {s * kColumns, job.head, at.row + job.row0 + static_cast<i32>(warpgroup) * kRowsPerWarpgroup, at.c3, at.c4});
    sm90::tma_store_commit();
}

}  // namespace hopfill

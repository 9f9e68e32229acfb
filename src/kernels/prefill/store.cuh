// The stored output, warp by warp: a warp stages its own 16 rows and stores them, so that none waits for its warpgroup's others.
#pragma once

#include "prefill/epilogue.cuh"

namespace hopfill {

// Slab `slab` of the output times `inverse`, in its type, to a slot: as stage_slabs() and stage_slabs_e4m3(), with addresses that follow from
// `thread`.
template <KernelConfig C>
HOPFILL_INLINE void stage_slab(u8* to, const float (&o)[C.head_dim / 2], const float (&inverse)[2], i32 slab, u32 thread) {
    if constexpr (C.out == Elem::e4m3) {
        const u32 row = fragment_row(thread), column = fragment_column(thread);
#pragma unroll
        for (i32 i = 0; i < 16; ++i) {
            const i32 c = 16 * slab + i;
            if (c >= C.head_dim / 8) break;
            const u32 w = sm90::pack4_e4m3(o[4 * c] * inverse[0], o[4 * c + 1] * inverse[0], o[4 * c + 2] * inverse[1], o[4 * c + 3] * inverse[1]);
            u8* const at = to + swizzled_chunk(row, i / 2) + i % 2 * 8 + column;
            sm90::store_shared(reinterpret_cast<u16*>(at), static_cast<u16>(w));
            sm90::store_shared(reinterpret_cast<u16*>(at + 8 * kSlabBytes), static_cast<u16>(w >> 16));
        }
    } else {
        const u32 row = thread % 128 / 32 * 16 + thread % 16, half = thread % 32 / 16;
#pragma unroll
        for (i32 i = 0; i < 4; ++i) {
            const i32 c = 4 * slab + i;
            if (c >= C.head_dim / 16) break;
            u32 w[4];
#pragma unroll
            for (i32 j = 0; j < 4; ++j) w[j] = sm90::pack2<C.out>(o[8 * c + 2 * j] * inverse[j % 2], o[8 * c + 2 * j + 1] * inverse[j % 2]);
            sm90::store_matrix_x4(to + swizzled_chunk(row, 2 * i + half), w[0], w[1], w[2], w[3]);
        }
    }
}

// A warp's rows to global memory. Its rows of a staging slot are free once the groups of its lane 0 that were stored from there have read them: where
// there are fewer slots than slabs, a slab is staged while the one before is read.
template <KernelConfig C>
HOPFILL_INLINE void store_rows(const PrefillParams& p, const Job& job, u32 row_group, u8* staging, const float (&o)[C.head_dim / 2],
                               const float (&inverse)[2]) {
    constexpr Geometry kGeometry = geometry(C);
    constexpr i32 kColumns = kSlabBytes / elem_bytes(C.out), kSlots = kGeometry.o_staged;
    constexpr i32 kAtOnce = kSlots == kGeometry.o_slabs ? kSlots : 1;  // slabs of a group
    static_assert(kGeometry.o_slabs % kSlots == 0, "a slot's last group is kSlots / kAtOnce groups back, across jobs too");
    // So that no address waits in a register from job to job.
    const u32 thread = sm90::thread_index_anew() % 128;
    const i32 row_in_tile = static_cast<i32>(thread / 32) * rows_per_warp();
    const RowCoord at = row_coord<C>(job.sequence, job.q_start, job.q_len);
    const i32 row = at.row + first_row<C>(job.row0, job.q_len, row_group) + row_in_tile;
    const bool storer = thread % 32 == 0;
#pragma unroll
    for (i32 first = 0; first < kGeometry.o_slabs; first += kAtOnce) {
        u8* const slot = staging + first % kSlots * kGeometry.o_slab;
        if (storer) {
            // A job that comes again overwrites what it stored the first time.
            if (repeats_jobs(C) && first == 0)
                sm90::tma_store_wait<0>();
            else
                sm90::tma_store_wait_read<kSlots / kAtOnce - 1>();
        }
        sm90::sync_warp();
#pragma unroll
        for (i32 s = 0; s < kAtOnce; ++s) stage_slab<C>(slot + s * kGeometry.o_slab, o, inverse, first + s, thread);
        sm90::fence_async_shared();
        sm90::sync_warp();
        if (storer) {
#pragma unroll
            for (i32 s = 0; s < kAtOnce; ++s)
                sm90::tma_store(&p.o, slot + s * kGeometry.o_slab + row_in_tile * kSlabBytes,
                                {(first + s) * kColumns, job.head, row, at.c3, kWrap<C>});
            sm90::tma_store_commit();
        }
    }
}

// Before a consumer leaves: what it has staged is read.
template <KernelConfig C>
HOPFILL_INLINE void finish_stores() {
    if (sm90::thread_index() % (stores_by_warps(C) ? 32 : 128) == 0) sm90::tma_store_wait_read<0>();
}

}  // namespace hopfill

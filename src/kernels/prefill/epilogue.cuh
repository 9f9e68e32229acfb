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
HOPFILL_INLINE void store_lse(const PrefillParams& p, const Job* job, u32 row_group, const float (&lse)[2]) {
    const u32 thread = sm90::thread_index() % 128;
    if (p.lse == nullptr || thread % 4 != 0) return;
    const i32 head = sm90::load_shared(&job->head);
    const i64 line = C.packed ? static_cast<i64>(head) * p.total_q + sm90::load_shared(&job->q_start)
                              : (static_cast<i64>(sm90::load_shared(&job->sequence)) * p.heads + head) * p.seqlen_q;
    const i32 q_len = sm90::load_shared(&job->q_len);
    const i32 row = first_row<C>(sm90::load_shared(&job->row0), q_len, row_group) + fragment_row(thread);
    if (row < q_len) sm90::store_global(p.lse + line + row, lse[0]);
    if (row + 8 < q_len) sm90::store_global(p.lse + line + row + 8, lse[1]);
}

// Rows times `inverse`, in the output's type, to the staging slots; only slabs [first, first + count).
template <KernelConfig C>
HOPFILL_INLINE void stage_slabs(u8* to, const float (&o)[C.head_dim / 2], const float (&inverse)[2], i32 first) {
    constexpr Geometry kGeometry = geometry(C);
    const u32 lane = sm90::lane_index();
    const u32 row = sm90::thread_index() % 128 / 32 * 16 + lane % 16;
    const u32 half = lane / 16;
#pragma unroll
    for (i32 i = 0; i < 4 * kGeometry.o_staged; ++i) {
        const i32 c = 4 * first + i;
        if (c >= C.head_dim / 16) break;
        u32 w[4];
#pragma unroll
        for (i32 j = 0; j < 4; ++j) w[j] = sm90::pack2<C.out>(o[8 * c + 2 * j] * inverse[j % 2], o[8 * c + 2 * j + 1] * inverse[j % 2]);
        sm90::store_matrix_x4(to + i / 4 * kGeometry.o_slab + swizzled_chunk(row, 2 * (i % 4) + half), w[0], w[1], w[2], w[3]);
    }
}

// The same in e4m3: a thread's two columns of eight are two bytes, which no matrix of 16-bit elements holds in their place.
template <KernelConfig C>
HOPFILL_INLINE void stage_slabs_e4m3(u8* to, const float (&o)[C.head_dim / 2], const float (&inverse)[2], i32 first) {
    constexpr Geometry kGeometry = geometry(C);
    const u32 row = fragment_row(sm90::thread_index()), column = fragment_column(sm90::thread_index());
#pragma unroll
    for (i32 i = 0; i < 16 * kGeometry.o_staged; ++i) {
        const i32 c = 16 * first + i;
        if (c >= C.head_dim / 8) break;
        const u32 w = sm90::pack4_e4m3(o[4 * c] * inverse[0], o[4 * c + 1] * inverse[0], o[4 * c + 2] * inverse[1], o[4 * c + 3] * inverse[1]);
        // Eight rows have eight different chunks, and the row eight below has its own at the same place: no two lanes meet in a bank.
        u8* const at = to + i / 16 * kGeometry.o_slab + swizzled_chunk(row, i % 16 / 2) + i % 2 * 8 + column;
        sm90::store_shared(reinterpret_cast<u16*>(at), static_cast<u16>(w));
        sm90::store_shared(reinterpret_cast<u16*>(at + 8 * kSlabBytes), static_cast<u16>(w >> 16));
    }
}

// Of a warpgroup, where it stores as a whole.
HOPFILL_INLINE bool is_storer() { return sm90::thread_index() % 128 == 0; }

// The storing thread's: until the staging slots may be written again. A job that comes again overwrites what it stored the first time, so that must
// be complete.
template <KernelConfig C>
HOPFILL_INLINE void wait_for_staging(bool first) {
    if (repeats_jobs(C) && first)
        sm90::tma_store_wait<0>();
    else
        sm90::tma_store_wait_read<0>();
}

// A warpgroup's rows to global memory. `Free`: the storing thread has waited for the staging slots, and the warpgroup for that thread.
template <KernelConfig C, bool Free = false>
HOPFILL_INLINE void store_output(const PrefillParams& p, const Job& job, u32 row_group, u8* staging, const float (&o)[C.head_dim / 2],
                                 const float (&inverse)[2]) {
    constexpr Geometry kGeometry = geometry(C);
    constexpr i32 kColumns = kSlabBytes / elem_bytes(C.out);
    const bool storer = is_storer();
    const RowCoord at = row_coord<C>(job.sequence, job.q_start, job.q_len);
    const i32 row = at.row + first_row<C>(job.row0, job.q_len, row_group);
#pragma unroll
    for (i32 first = 0; first < kGeometry.o_slabs; first += kGeometry.o_staged) {
        if (!Free || first > 0) {
            if (storer) wait_for_staging<C>(first == 0);
            sm90::named_barrier_sync(kEpilogue + row_group, 128);
        }
        if constexpr (C.out == Elem::e4m3)
            stage_slabs_e4m3<C>(staging, o, inverse, first);
        else
            stage_slabs<C>(staging, o, inverse, first);
        sm90::fence_async_shared();
        sm90::named_barrier_sync(kEpilogue + row_group, 128);
        if (storer) {
#pragma unroll
            for (i32 s = 0; s < kGeometry.o_staged; ++s)
                if (first + s < kGeometry.o_slabs)
                    sm90::tma_store(&p.o, staging + s * kGeometry.o_slab, {(first + s) * kColumns, job.head, row, at.c3, kWrap<C>});
            sm90::tma_store_commit();
        }
    }
}

}  // namespace hopfill

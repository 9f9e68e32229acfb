// Outputs of the folded family, warp by warp: each stores its 16 rows by itself, and waits for no other.
#pragma once

#include "prefill/epilogue.cuh"

namespace hopfill {

template <KernelConfig C>
struct RowStore {
    static constexpr Geometry kGeometry = geometry(C);
    const PrefillParams& params;
    u8* staging;
    i32 head, row, c3;

    HOPFILL_INLINE RowStore(const PrefillParams& p, const Shared<C>& s, u32 slot, u32 row_group) : params(p), staging(s.o(row_group)) {
        const Job* const job = s.job(slot);
        const i32 q_len = sm90::load_shared(&job->q_len);
        const RowCoord at = row_coord<C>(sm90::load_shared(&job->sequence), sm90::load_shared(&job->q_start), q_len);
        head = sm90::load_shared(&job->head);
        row = at.row + first_row<C>(sm90::load_shared(&job->row0), q_len, row_group) + static_cast<i32>(first_of_warp());
        c3 = at.c3;
    }

    // Outputs times `inverse`, in the output's type, slab by slab: the first is on its way while the next is staged.
    HOPFILL_INLINE void all(const float (&o)[C.head_dim / 2], const float (&inverse)[2]) const {
        constexpr i32 kColumns = kSlabBytes / elem_bytes(C.out);
        static_assert(elem_bytes(C.out) == 2);
        const bool storer = sm90::lane_index() == 0;
        const u32 row = first_of_warp() + sm90::lane_index() % 16, half = sm90::lane_index() / 16;
#pragma unroll
        for (i32 s = 0; s < kGeometry.o_slabs; ++s) {
            u8* const to = staging + s % kGeometry.o_staged * kGeometry.o_slab;
            // What is staged there was stored by this lane.
            if (s % kGeometry.o_staged == 0) {
                if (storer) sm90::tma_store_wait_read<0>();
                sm90::sync_warp();
            }
#pragma unroll
            for (i32 i = 0; i < 4; ++i) {
                const i32 c = 4 * s + i;
                if (c >= C.head_dim / 16) break;
                u32 w[4];
#pragma unroll
                for (i32 j = 0; j < 4; ++j) w[j] = sm90::pack2<C.out>(o[8 * c + 2 * j] * inverse[j % 2], o[8 * c + 2 * j + 1] * inverse[j % 2]);
                sm90::store_matrix_x4(to + swizzled_chunk(row, 2 * i + half), w[0], w[1], w[2], w[3]);
            }
            sm90::fence_async_shared();
            sm90::sync_warp();
            if (storer) {
                sm90::tma_store(&params.o, to + first_of_warp() * kSlabBytes, {s * kColumns, head, this->row, c3, kWrap<C>});
                sm90::tma_store_commit();
            }
        }
    }

private:
    HOPFILL_INLINE static u32 first_of_warp() { return sm90::thread_index() % 128 / 32 * stored_rows(C); }
};

}  // namespace hopfill

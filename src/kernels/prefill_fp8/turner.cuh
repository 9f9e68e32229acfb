// V transposed once, beside the jobs: the three warps that would transpose each block for their own block's jobs take 128 tokens of 128 channels at a
// time, of whatever head comes next, from global memory to global memory. Whoever loads a block of V^T waits until its pieces are there (turned.cuh).
// Pieces are drawn from a counter by blocks that run, and who draws waits for no job and no piece, so whoever waits, waits for pieces that are being
// transposed, or that its own block will draw.
#pragma once

#include "prefill/shared.cuh"
#include "prefill_fp8/transpose.cuh"
#include "prefill_fp8/turned.cuh"
#include "sm90/tma.cuh"

namespace hopfill {

template <KernelConfig C>
struct Turner {
    static constexpr i32 kWarps = 3;
    static constexpr u32 kUnits = clamp_high(C.head_dim, piece_channels()) / 16;  // of 16 channels
    static constexpr i32 kParts = channel_pieces(C);

    const PrefillTurnParams& params;
    Shared<C> shared;
    u32 warp;  // 0, 1, 2
    bool leader = sm90::elect_one() && warp == 0;
    u32 number = 0;  // the leader's: the piece that it has asked for

    HOPFILL_INLINE Turner(const PrefillTurnParams& p, Shared<C> s, u32 w) : params(p), shared(s), warp(w) {}

    struct Piece {
        i32 sequence, kv_head, block, channel;
    };
    // In the order in which jobs ask for them: of a group of heads the last block of all heads, then the one before.
    HOPFILL_INLINE Piece piece() const {
        const i32 width = params.turned_width, group = divide(number, params.by_turned_group);
        const i32 first = group * width, rest = static_cast<i32>(number) - first * params.turned_blocks * kParts;
        const bool whole = params.turned_heads - first >= width;
        const i32 level = divide(rest, whole ? params.by_turned_width : params.by_last_turned_width);
        const i32 in_level = rest - level * (whole ? width : params.turned_heads - first) * kParts;
        const i32 head = first + in_level / kParts, sequence = divide(head, params.by_kv_heads);
        return {sequence, head - sequence * params.kv_heads, params.turned_blocks - 1 - level, in_level % kParts * piece_channels()};
    }

    // The leader: the next piece is drawn and asked for, or there is none.
    HOPFILL_INLINE void begin_piece() {
        number = sm90::atomic_add(params.turning, 1u);
        const bool some = number < static_cast<u32>(params.turned_heads * params.turned_blocks * kParts);
        sm90::store_shared(shared.turn_word(), some ? 1u : 0u);
        if (!some) {
            sm90::mbarrier_arrive(shared.turn_full());
            return;
        }
        const Piece p = piece();
        sm90::mbarrier_arrive_expect_bytes(shared.turn_full(), piece_bytes());
        sm90::tma_load(shared.turn(0), &params.v_given, shared.turn_full(), {p.channel, p.kv_head, p.block * piece_tokens(), p.sequence, 0},
                       sm90::CacheHint::evict_first);
    }
    HOPFILL_INLINE void store_piece(const Piece& p) {
        sm90::tma_store(&params.v_stored, shared.turn(1), {p.block * piece_tokens(), p.channel, p.kv_head, p.sequence, 0});
        sm90::tma_store_commit();
    }

    // One warp's share of 128 keys by 128 columns, as Transposer does it.
    HOPFILL_INLINE void transpose() const {
        const u32 lane = sm90::lane_index(), row = lane % 8, matrix = lane / 8;
        const u32 pick[2] = {lane < 16 ? 0x6420u : 0x7531u, lane < 16 ? 0x7531u : 0x6420u};
        const u8* const read = shared.turn(0) + lane * kSlabBytes;
        u8* const to = shared.turn(1);
        const u32 write = swizzled_chunk(2 * row + ((row >= 4) ^ (matrix % 2)), matrix / 2);
#pragma unroll 1
        for (u32 unit = warp; unit < kUnits; unit += kWarps) {
            u32 m[2][4];
            const u8* const at = read + ((unit ^ row) << 4);
            sm90::load_matrix_transposed_x4(at, m[0]);
#pragma unroll
            for (u32 k = 0; k < 4; ++k) {
                if (k < 3) sm90::load_matrix_transposed_x4(at + (k + 1) * 32 * kSlabBytes, m[(k + 1) % 2]);
                const u32 (&w)[4] = m[k % 2];
                sm90::store_matrix_x4(to + unit * 16 * kSlabBytes + (write ^ (k << 5)),  //
                                      sm90::permute_bytes(w[0], w[1], pick[0]), sm90::permute_bytes(w[0], w[1], pick[1]),
                                      sm90::permute_bytes(w[2], w[3], pick[0]), sm90::permute_bytes(w[2], w[3], pick[1]));
            }
        }
    }

    HOPFILL_INLINE void run() {
        sm90::wait_for_previous_launch();
        if (leader) {
            begin_piece();
            sm90::mbarrier_arrive(shared.turn_full());
        }
        for (u32 phase = 0;; phase ^= 1) {
            sm90::mbarrier_wait(shared.turn_full(), phase);
            if (sm90::load_shared(shared.turn_word()) == 0) break;
            transpose();
            sm90::fence_async_shared();
            sm90::named_barrier_sync(kTurner, 32 * kWarps);
            if (leader) {
                const Piece p = piece();
                store_piece(p);
                u32* const done = turned_word<C>(params, p.sequence, p.kv_head, p.block);
                begin_piece();
                // What is stored may be overwritten once it is read.
                sm90::tma_store_wait_read<0>();
                sm90::mbarrier_arrive(shared.turn_full());
                sm90::tma_store_wait<0>();
                sm90::fence_device();
                sm90::atomic_add(done, 1u);
            }
            sm90::sync_warp();
        }
        if (warp == 0) finish_turning<C>(params, leader);
    }
};

}  // namespace hopfill

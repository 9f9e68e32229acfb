// V^T for the products: e4m3 wgmma takes its second operand K-major only, so V [keys, head_dim] is turned into [head_dim, keys] on its way. Three
// warps of the producer's warpgroup read what TMA brought, 8x8 matrices of byte pairs at a time, and write a second ring.
//
// Within 16 keys the columns of V^T come out as keys 0 1 8 9 | 2 3 10 11 | 4 5 12 13 | 6 7 14 15: the order in which a thread's accumulators of
// Q K^T, packed four to a word, make a fragment of P (tile/fragment.cuh). Neither side has to exchange anything between lanes.
#pragma once

#include "prefill/shared.cuh"
#include "prefill_fp8/realign.cuh"
#include "prefill_fp8/scales.cuh"
#include "sm90/fence.cuh"
#include "sm90/math.cuh"
#include "sm90/matrix.cuh"
#include "tile/descriptor.cuh"

namespace hopfill {

template <KernelConfig C>
struct Transposer {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr i32 kWarps = Shared<C>::transposers();
    // A unit is 32 keys by 16 columns: four matrices. A warp takes every kWarps-th 16 columns, and of those all keys.
    static constexpr i32 kKeyUnits = C.tile_n / 32;
    static constexpr i32 kColumnUnits = C.head_dim / 16;
    static constexpr i32 kAtOnce = C.consumers == 2 && C.scale_block == 0 ? 4 : 2;  // units in registers, of which there are few
    static_assert(kColumnUnits >= kWarps && kKeyUnits % kAtOnce == 0);
    static constexpr bool realigns() { return C.v_transposed && C.packed; }

    const PrefillFp8Params& params;
    Shared<C> shared;
    i32 warp;  // 0, 1, 2
    // Registers are scarce: all slots and phases follow from two counts.
    u32 blocks = 0;  // transposed so far
    u32 tasks = 0;   // begun so far

    HOPFILL_INLINE Transposer(const PrefillFp8Params& p, Shared<C> s, i32 w) : params(p), shared(s), warp(w) {}

    // Lane l reads row l % 8 of matrix l / 8, which holds eight keys by sixteen columns, and gets two keys of columns 2 g and 2 g + 1, g = l / 4, in
    // each register: two registers make four keys of one column. The matrices that are written take even columns from the lower half of the warp and
    // odd ones from the upper (and the other way round), so that the eight rows of a matrix lie in eight different groups of banks.
    //
    // What is read next is asked for as soon as its registers are free: the latency of shared memory, not its throughput, would be the time of this.
    HOPFILL_INLINE void transpose(const u8* from, u32 slot) const {
        u8* const to = shared.vt(slot);
        const u32 lane = sm90::lane_index();
        const u32 row = lane % 8, matrix = lane / 8;
        const u32 pick[2] = {lane < 16 ? 0x6420u : 0x7531u, lane < 16 ? 0x7531u : 0x6420u};
        const u8* const read = from + lane * kSlabBytes;
        u32 write = warp * 16 * kSlabBytes + swizzled_chunk(2 * row + ((row >= 4) ^ (matrix % 2)), matrix / 2);
        const u8* at = read + ((static_cast<u32>(warp) ^ row) << 4);
        u32 m[kAtOnce][4];
#pragma unroll
        for (i32 k = 0; k < kAtOnce; ++k) sm90::load_matrix_transposed_x4(at + k * 32 * kSlabBytes, m[k]);
#pragma unroll 1
        for (i32 next = warp + kWarps;; next += kWarps) {
#pragma unroll
            for (i32 k = 0; k < kKeyUnits; ++k) {
                const u32 (&w)[4] = m[k % kAtOnce];
                // 32 keys are two chunks of V^T.
                const bool shares = 32 * k >= C.tile_n - vt_shared_keys(C);
                const u32 inside = write ^ static_cast<u32>(k % 4 << 5);
                u8* const at_keys = shares ? shared.vt(kGeometry.vt_stages) + (inside ^ slot * vt_shared_keys(C)) : to + k / 4 * vt_slab(C) + inside;
                sm90::store_matrix_x4(at_keys,  //
                                      sm90::permute_bytes(w[0], w[1], pick[0]), sm90::permute_bytes(w[0], w[1], pick[1]),
                                      sm90::permute_bytes(w[2], w[3], pick[0]), sm90::permute_bytes(w[2], w[3], pick[1]));
                const i32 ahead = k + kAtOnce;
                if (ahead == kKeyUnits) at = read + next / 8 * kGeometry.kv_slab + ((static_cast<u32>(next % 8) ^ row) << 4);
                if (ahead < kKeyUnits || next < kColumnUnits)
                    sm90::load_matrix_transposed_x4(at + ahead % kKeyUnits * 32 * kSlabBytes, m[k % kAtOnce]);
            }
            if (next >= kColumnUnits) break;
            write += kWarps * 16 * kSlabBytes;
        }
    }

    // What it has to know of a job.
    struct Task {
        i32 blocks, sequence, head, kv_len;
        i32 keys = 0;   // realigning: of the sequence, or 0 if the job's rows see none
        u32 shift = 0;  // and bytes from a multiple of 16 to its first
    };

    HOPFILL_INLINE Task next_task() {
        const u32 slot = tasks % kJobSlots;
        sm90::mbarrier_wait(shared.job_full() + slot, tasks / kJobSlots % 2);
        ++tasks;
        const Job* job = shared.job(slot);
        Task task{sm90::load_shared(&job->blocks), sm90::load_shared(&job->sequence), sm90::load_shared(&job->head),
                  sm90::load_shared(&job->kv_len)};
        if constexpr (realigns()) {
            if (task.blocks != kNoMoreJobs) {
                const i32 row0 = sm90::load_shared(&job->row0), q_len = sm90::load_shared(&job->q_len);
                task.keys = job_range(C, row0, q_len, task.kv_len).end > 0 ? task.kv_len : 0;
                task.shift = static_cast<u32>(clamp_high(clamp_low(sm90::load_global(params.cu_seqlens_k + task.sequence), 0), params.total_kv)) %
                             edge_keys();
            }
        }
        sm90::sync_warp();
        if (sm90::lane_index() == 0) sm90::mbarrier_arrive(shared.job_empty() + slot);
        return task;
    }

    // Block n of a task. With it go the multipliers of the one that the consumers multiply by Q next: block `following` of task `next`, if it is not
    // negative.
    HOPFILL_INLINE void transpose_block(const Task& task, i32 n, const Task& next, i32 following) {
        const bool scaling = C.scale_block != 0 && warp == 0 && sm90::lane_index() == 0;
        BlockScales<C> scales;
        if (scaling) scales.load(params, next.sequence, next.head, following < 0 ? 0 : next.kv_len, following);
        const u32 to = blocks % kGeometry.vt_stages;
        const u32 empty_phase = 1 - blocks / kGeometry.vt_stages % 2;
        if constexpr (v_direct(C)) {
            ++blocks;
            sm90::mbarrier_wait(shared.vt_empty() + to, empty_phase);
            if (scaling) scales.put(shared.scales(to));
            sm90::sync_warp();
            if (sm90::lane_index() == 0) sm90::mbarrier_arrive(shared.vt_full() + to);
        } else {
            const u32 from = blocks % kGeometry.v_stages;
            sm90::mbarrier_wait(shared.v_full(0) + from, blocks / kGeometry.v_stages % 2);
            sm90::mbarrier_wait(shared.vt_empty() + to, empty_phase);
            ++blocks;
            if constexpr (realigns())
                realign<C>(shared.v(0, from), shared.vt(to), static_cast<u32>(warp), kWarps, task.shift, task.keys - n * C.tile_n);
            else
                transpose(shared.v(0, from), to);
            if (scaling) scales.put(shared.scales(to));
            sm90::fence_async_shared();
            sm90::sync_warp();
            if (sm90::lane_index() == 0) {
                sm90::mbarrier_arrive(shared.vt_full() + to);
                sm90::mbarrier_arrive(shared.v_empty(0) + from);
            }
        }
    }

    // Beside a job's last V go multipliers of the next job, which is described without waiting for that V. Who needs none, and gets the last V before
    // the producer has found the next job (last_v_first()), does not wait for it.
    HOPFILL_INLINE void run() {
        constexpr bool kAhead = C.scale_block != 0 || !last_v_first(C);
        for (Task task = next_task(); task.blocks != kNoMoreJobs;) {
#pragma unroll 1
            for (i32 n = task.blocks - 1; n >= (kAhead ? 1 : 0); --n) transpose_block(task, n, task, n - 1);
            const Task last = task;
            task = next_task();
            if constexpr (kAhead) transpose_block(last, 0, task, task.blocks - 1);
        }
    }
};

}  // namespace hopfill

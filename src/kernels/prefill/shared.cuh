// Shared memory and barriers of the prefill family: who arrives, who waits. Offsets come from plan/geometry.h, which the planner shares.
#pragma once

#include "plan/geometry.h"
#include "plan/params.h"
#include "sm90/mbarrier.cuh"
#include "tile/pipeline.cuh"

namespace hopfill {

// A query tile of one head of one sequence, as the producer describes it to the consumers.
struct Job {
    i32 head;
    i32 sequence;
    i32 row0;         // first query row of the tile, within the sequence
    i32 q_len;
    i32 kv_len;
    i32 q_start;      // packed: the sequence's first token in q
    i32 blocks;       // KV blocks to read
    i32 unmasked;     // of which this many, from the first, need no mask
};
static_assert(sizeof(Job) == kJobBytes);
constexpr i32 kNoMoreJobs = -1;  // as Job::blocks

// Named barriers; 0 is the block's own.
enum NamedBarrier : u32 {
    kTurn = 1,      // + warpgroup: whose turn it is to issue matrix products (pingpong); 128 threads wait, 128 of the one before arrive
    kEpilogue = 5,  // + warpgroup: its 128 threads, around the staged output
};

template <KernelConfig C>
struct Shared {
    static constexpr Geometry kGeometry = geometry(C);
    u8* base;

    HOPFILL_INLINE u8* q(u32 warpgroup, u32 slot) const {
        return base + kGeometry.q + (slot * C.consumers + warpgroup) * kGeometry.q_warpgroup;
    }
    HOPFILL_INLINE u8* o(u32 warpgroup) const { return base + kGeometry.o + warpgroup * kGeometry.o_staged * kGeometry.o_slab; }
    HOPFILL_INLINE u8* k(u32 stage) const { return base + kGeometry.k + stage * kGeometry.kv_block; }
    HOPFILL_INLINE u8* v(u32 stage) const { return base + kGeometry.v + stage * kGeometry.kv_block; }
    HOPFILL_INLINE Job* job(u32 slot) const { return reinterpret_cast<Job*>(base + kGeometry.jobs + slot * kJobBytes); }

    // barrier          arrivals of a phase                                        waits
    // q_full[w][i]     producer lane (+ bytes)                                    warpgroup w
    // q_empty[w][i]    4: lane 0 of each warp of warpgroup w, once the job's      producer
    //                  last Q K^T is complete
    // k_full[s]        producer lane (+ bytes)                                    all consumers
    // k_empty[s]       4 * consumers: lane 0 of each consumer warp                producer
    // v_full, v_empty  as k
    // job_full[j]      producer lane                                              all consumers
    // job_empty[j]     4 * consumers: lane 0 of each consumer warp                producer
    HOPFILL_INLINE u64* barrier(i32 i) const { return reinterpret_cast<u64*>(base + kGeometry.barriers) + i; }
    HOPFILL_INLINE u64* q_full(u32 w) const { return barrier(w * 2 * kGeometry.q_slots); }
    HOPFILL_INLINE u64* q_empty(u32 w) const { return barrier(w * 2 * kGeometry.q_slots + kGeometry.q_slots); }
    static constexpr i32 kKv = 2 * kGeometry.q_slots * C.consumers;
    HOPFILL_INLINE u64* k_full() const { return barrier(kKv); }
    HOPFILL_INLINE u64* k_empty() const { return barrier(kKv + C.stages); }
    HOPFILL_INLINE u64* v_full() const { return barrier(kKv + 2 * C.stages); }
    HOPFILL_INLINE u64* v_empty() const { return barrier(kKv + 3 * C.stages); }
    HOPFILL_INLINE u64* job_full() const { return barrier(kKv + 4 * C.stages); }
    HOPFILL_INLINE u64* job_empty() const { return barrier(kKv + 4 * C.stages + kJobSlots); }

    // One thread, before the block's first barrier.
    HOPFILL_INLINE void init_barriers() const {
        for (i32 w = 0; w < C.consumers; ++w) {
            for (i32 i = 0; i < kGeometry.q_slots; ++i) {
                sm90::mbarrier_init(q_full(w) + i, 1);
                sm90::mbarrier_init(q_empty(w) + i, 4);
            }
        }
        for (i32 s = 0; s < C.stages; ++s) {
            sm90::mbarrier_init(k_full() + s, 1);
            sm90::mbarrier_init(k_empty() + s, 4 * C.consumers);
            sm90::mbarrier_init(v_full() + s, 1);
            sm90::mbarrier_init(v_empty() + s, 4 * C.consumers);
        }
        for (i32 j = 0; j < kJobSlots; ++j) {
            sm90::mbarrier_init(job_full() + j, 1);
            sm90::mbarrier_init(job_empty() + j, 4 * C.consumers);
        }
        sm90::fence_mbarrier_init();
    }
};

// TMA coordinates of a [.., head_dim] tensor: dense {column, head, row, sequence, 0}; packed as plan/tensor_map.h describes.
struct RowCoord {
    i32 row, c3, c4;
};
template <KernelConfig C>
HOPFILL_INLINE RowCoord row_coord(i32 sequence, i32 start, i32 len) {
    if constexpr (C.packed)
        return {(1 << 30) - len, start + len, 1 << 30};
    else
        return {0, sequence, 0};
}

}  // namespace hopfill

// Shared memory and barriers of the prefill family: who arrives, who waits. Offsets come from plan/geometry.h, which the planner shares.
#pragma once

#include "plan/geometry.h"
#include "plan/params.h"
#include "sm90/fence.cuh"
#include "sm90/math.cuh"
#include "sm90/mbarrier.cuh"
#include "sm90/vector.cuh"
#include "tile/pipeline.cuh"

namespace hopfill {

// A query tile of one head of one sequence, as it is described to the consumers and, where a warp schedules, to the one that loads.
struct Job {
    i32 head;
    i32 sequence;
    i32 row0;         // first query row of the tile, within the sequence
    i32 q_len;
    i32 kv_len;
    union {
        i32 q_start;  // packed: the sequence's first token in q
        i32 again;    // KernelConfig::splits: of a job that comes again the consumer warps whose exponentials have overflowed, a bit each; else 0
    };
    i32 blocks;       // KV blocks to read
    i32 unmasked;     // of which this many, from the first, need no mask
    union {
        i32 number;   // what the job was decoded from
        float logit;  // prefill_fp8: what logits are to be multiplied with
    };
    union {
        i32 kv_head;  // schedules(): where its keys lie, for the warp that loads them
        float unit;   // prefill_fp8: what outputs are to be multiplied with
    };
    i32 kv_row, kv_c3;
    i32 first_block;
    i32 part;         // KernelConfig::splits: number of the part of a job that this is, or kWholeJob
    i32 failed[kConsumerWarps];  // by consumer warp: exponentials have overflowed (repeats_jobs())
};
static_assert(sizeof(Job) == kJobBytes);
constexpr i32 kNoMoreJobs = -1;  // as Job::blocks
enum : i32 { kWholeJob = -1 };  // as Job::part (no object, which would be in every kernel's constants)

// Named barriers; 0 is the block's own.
enum NamedBarrier : u32 {
    kTurn = 1,      // + warpgroup: whose turn it is to issue matrix products (pingpong); 128 threads wait, 128 of the one before arrive
    kEpilogue = 5,  // + warpgroup: its 128 threads, around the staged output
    kTurner = 8,    // prefill_fp8: the warps that transpose V for all blocks
};

// The first turn is warpgroup 0's: it gives itself the arrival that its predecessor would have made, and takes the one that the last warpgroup's
// last turn leaves, so that the barrier ends empty.
template <KernelConfig C>
HOPFILL_INLINE void begin_turns(u32 warpgroup) {
    if constexpr (C.pingpong) {
        if (warpgroup == 0) sm90::named_barrier_arrive(kTurn, 256);
    }
}
template <KernelConfig C>
HOPFILL_INLINE void end_turns(u32 warpgroup) {
    if constexpr (C.pingpong) {
        if (warpgroup == 0) sm90::named_barrier_sync(kTurn, 256);
    }
}

template <KernelConfig C>
struct Shared {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr bool kSplit = C.family == Family::prefill_short;
    // prefill_fp8: warps of the producer's warpgroup that write V^T, or, where TMA does, the multipliers of blocks beside it.
    static constexpr i32 transposers() { return kGeometry.vt_stages == 0 || C.v_turned ? 0 : !v_direct(C) ? 3 : C.scale_block != 0 ? 1 : 0; }
    static constexpr i32 converters() { return kGeometry.raw_stages > 0 ? 3 : 0; }  // prefill_mixed: the producer's warpgroup but for its first warp
    static constexpr i32 kRowGroups = kSplit ? 1 : C.consumers;
    u8* base;

    // Tiles; `ring` is 0 but for prefill_short, where each warpgroup has its own.
    HOPFILL_INLINE u8* q(u32 row_group, u32 slot) const { return base + kGeometry.q + slot * kGeometry.q_tile + row_group * kGeometry.q_rows; }
    HOPFILL_INLINE u8* o(u32 row_group) const { return base + kGeometry.o + row_group * kGeometry.o_staged * kGeometry.o_slab; }
    HOPFILL_INLINE u8* k(u32 ring, u32 stage) const { return base + kGeometry.k + (ring * C.stages + stage) * kGeometry.kv_block; }
    HOPFILL_INLINE u8* v(u32 ring, u32 stage) const {
        return base + kGeometry.v + (ring * kGeometry.v_stages + stage) * v_block_stride(C, kGeometry);
    }
    HOPFILL_INLINE u8* vt(u32 stage) const { return base + kGeometry.vt + stage * kGeometry.vt_block; }
    HOPFILL_INLINE u8* raw(u32 stage) const { return base + kGeometry.raw + stage * kGeometry.raw_block; }
    HOPFILL_INLINE float* scales(u32 stage) const { return reinterpret_cast<float*>(base + kGeometry.scales + stage * scale_bytes()); }
    HOPFILL_INLINE Job* job(u32 slot) const { return reinterpret_cast<Job*>(base + kGeometry.jobs + slot * kJobBytes); }
    HOPFILL_INLINE u8* p(u32 warpgroup) const { return base + kGeometry.merge + warpgroup * kGeometry.merge_bytes; }
    HOPFILL_INLINE float* merge(u32 warpgroup) const {
        return reinterpret_cast<float*>(base + kGeometry.merge + (warpgroup - 1) * kGeometry.merge_bytes);
    }

    // barrier        arrivals of a phase                                               waits
    // q_full[w][i]   producer lane (+ bytes)                                           warpgroup w; prefill_short: all consumers
    // q_empty[w][i]  lane 0 of each warp that reads the rows (4, or 4 * consumers      producer
    //                in prefill_short), once its last Q K^T of the job is complete
    // k_full[s]      producer lane (+ bytes)                                           all consumers; prefill_short: the ring's warpgroup
    // k_empty[s]     lane 0 of each consumer warp (4 * consumers; prefill_short: 4)    producer
    // v_full, v_empty  as k; prefill_fp8: the transposing warps wait, and lane 0 of each arrives
    //                prefill_mixed: of k_full and v_full lane 0 of each converting warp arrives; those warps wait for k_empty and v_empty
    // vt_full[s]     prefill_fp8: lane 0 of each transposing warp; v_direct():         all consumers
    //                producer lane (+ bytes) too
    // vt_empty[s]    prefill_fp8: lane 0 of each consumer warp                         transposing warps; as above: producer
    // raw_full[s]    prefill_mixed: producer lane (+ bytes)                            converting warps
    // raw_empty[s]   prefill_mixed: lane 0 of each converting warp                     producer
    // job_full[j]    producer lane; the scheduling warp's, of the first job the        all consumers; transposing or converting warps; loading lane
    //                loading lane
    // job_empty[j]   4 * consumers: lane 0 of each consumer warp; of those warps too,  producer; scheduling warp
    //                and where a warp schedules, the loading lane
    // draw           loading lane: time for the next job                               scheduling warp
    // turn_full      prefill_fp8 (v_turned): the leader of the warps that          those warps
    //                transpose V for all blocks, twice (+ bytes)
    // merge_full[w]  4: lane 0 of each warp of warpgroup w, its partial result written   warpgroup 0 (prefill_short)
    // merge_empty[w] 4: lane 0 of each warp of warpgroup 0, having read it             warpgroup w
    HOPFILL_INLINE u64* barrier(i32 i) const { return reinterpret_cast<u64*>(base + kGeometry.barriers) + i; }
    HOPFILL_INLINE u64* q_full(u32 w) const { return barrier(w * 2 * kGeometry.q_slots); }
    HOPFILL_INLINE u64* q_empty(u32 w) const { return barrier(w * 2 * kGeometry.q_slots + kGeometry.q_slots); }
    static constexpr i32 kKv = 2 * kGeometry.q_slots * kRowGroups;
    HOPFILL_INLINE u64* k_full(u32 ring) const { return barrier(kKv + ring * 2 * (C.stages + kGeometry.v_stages)); }
    HOPFILL_INLINE u64* k_empty(u32 ring) const { return k_full(ring) + C.stages; }
    HOPFILL_INLINE u64* v_full(u32 ring) const { return k_full(ring) + 2 * C.stages; }
    HOPFILL_INLINE u64* v_empty(u32 ring) const { return v_full(ring) + kGeometry.v_stages; }
    static constexpr i32 first_vt() { return kKv + kGeometry.rings * 2 * (C.stages + kGeometry.v_stages); }
    HOPFILL_INLINE u64* vt_full() const { return barrier(first_vt()); }
    HOPFILL_INLINE u64* vt_empty() const { return barrier(first_vt() + kGeometry.vt_stages); }
    static constexpr i32 first_raw() { return first_vt() + 2 * kGeometry.vt_stages; }
    HOPFILL_INLINE u64* raw_full() const { return barrier(first_raw()); }
    HOPFILL_INLINE u64* raw_empty() const { return barrier(first_raw() + kGeometry.raw_stages); }
    static constexpr i32 kJobs = first_raw() + 2 * kGeometry.raw_stages;
    HOPFILL_INLINE u64* job_full() const { return barrier(kJobs); }
    HOPFILL_INLINE u64* job_empty() const { return barrier(kJobs + kJobSlots); }
    HOPFILL_INLINE u64* draw() const { return barrier(kJobs + 2 * kJobSlots); }
    // v_turned: what the turning warps wait for, and whether it is anything.
    HOPFILL_INLINE u64* turn_full() const { return barrier(kJobs + 2 * kJobSlots); }
    HOPFILL_INLINE u32* turn_word() const { return reinterpret_cast<u32*>(barrier(kJobs + 2 * kJobSlots + 1)); }
    HOPFILL_INLINE u8* turn(i32 slot) const { return base + kGeometry.merge + slot * piece_bytes(); }
    HOPFILL_INLINE u64* merge_full(u32 warpgroup) const { return barrier(kJobs + 2 * kJobSlots + 2 * (warpgroup - 1)); }
    HOPFILL_INLINE u64* merge_empty(u32 warpgroup) const { return merge_full(warpgroup) + 1; }

    // One thread, before the block's first barrier.
    HOPFILL_INLINE void init_barriers() const {
        constexpr u32 kWriters = converters() > 0 ? converters() : 1;
        for (i32 w = 0; w < kRowGroups; ++w) init_ring(q_full(w), kGeometry.q_slots, kSplit ? 4 * C.consumers : 4);
        for (i32 r = 0; r < kGeometry.rings; ++r) {
            init_ring(k_full(r), C.stages, kSplit ? 4 : 4 * C.consumers, kWriters);
            init_ring(v_full(r), kGeometry.v_stages, transposers() > 0 ? transposers() : kSplit ? 4 : 4 * C.consumers,
                      kWriters);
        }
        if constexpr (converters() > 0) init_ring(raw_full(), kGeometry.raw_stages, converters());
        for (i32 i = 0; i < kGeometry.vt_stages; ++i) {
            sm90::mbarrier_init(vt_full() + i, transposers() + (v_direct(C) ? 1 : 0));
            sm90::mbarrier_init(vt_empty() + i, 4 * C.consumers);
        }
        init_ring(job_full(), kJobSlots, 4 * C.consumers + transposers() + converters() + (schedules(C) ? 1 : 0));
        if constexpr (schedules(C)) sm90::mbarrier_init(draw(), 1);
        if constexpr (C.v_turned) sm90::mbarrier_init(turn_full(), 2);
        if constexpr (kSplit) {
            for (i32 w = 1; w < C.consumers; ++w) {
                sm90::mbarrier_init(merge_full(w), 4);
                sm90::mbarrier_init(merge_empty(w), 4);
            }
        }
        if constexpr (repeats_jobs(C)) {
            for (i32 i = 0; i < kJobSlots; ++i)
                for (i32 w = 0; w < 4 * C.consumers; ++w) sm90::store_shared(&job(i)->failed[w], 0);
        }
        sm90::fence_mbarrier_init();
    }

    // One of `warps` warps, before the block's first barrier: the rows of ones behind each V^T. Nothing else ever writes there; equal bytes need no
    // swizzle.
    HOPFILL_INLINE void write_ones(u32 warp, u32 warps) const {
        constexpr u32 kOnes = 0x38383838;  // e4m3
        constexpr i32 kBytes = sum_columns(C) * kSlabBytes;
        constexpr u32 kSlabs = vt_bytes(C, kGeometry) / vt_slab(C);
#pragma unroll 1
        for (u32 s = warp; s < kSlabs; s += warps) {
            u8* const to = vt(0) + s * vt_slab(C) + vt_rows(C);
#pragma unroll
            for (i32 at = 0; at < kBytes; at += 32 * 16) sm90::store_shared16(to + at + sm90::lane_index() * 16, {kOnes, kOnes, kOnes, kOnes});
        }
        sm90::fence_async_shared();
    }

private:
    // `slots` full barriers, then as many empty ones.
    HOPFILL_INLINE static void init_ring(u64* full, i32 slots, u32 readers, u32 writers = 1) {
        for (i32 i = 0; i < slots; ++i) {
            sm90::mbarrier_init(full + i, writers);
            sm90::mbarrier_init(full + slots + i, readers);
        }
    }
};

// First query row of row group w in a job that starts at row0.
template <KernelConfig C>
HOPFILL_INLINE i32 first_row(i32 row0, i32 q_len, u32 w) {
    return is_folded(C.family) ? folded_row(row0, q_len, w) : row0 + static_cast<i32>(w) * kRowsPerWarpgroup;
}

// TMA coordinates of a [.., head_dim] tensor: dense {column, head, row, sequence, 0}; packed as plan/tensor_map.h describes.
struct RowCoord {
    i32 row, c3;
};
template <KernelConfig C>
constexpr i32 kWrap = C.packed ? 1 << 30 : 0;

template <KernelConfig C>
HOPFILL_INLINE RowCoord row_coord(i32 sequence, i32 start, i32 len) {
    if constexpr (C.packed)
        return {(1 << 30) - len, start + len};
    else
        return {0, sequence};
}

}  // namespace hopfill

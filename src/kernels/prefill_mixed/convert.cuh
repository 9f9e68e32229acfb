// e4m3 K and V to the 16-bit numbers that the products read: three warps of the producer's warpgroup take what TMA brought, sixteen columns of a row
// a lane at a time, and write the rings of K and V. Every e4m3 number is one of bf16 and of f16, so nothing is rounded.
#pragma once

#include "prefill/shared.cuh"
#include "sm90/fence.cuh"
#include "sm90/vector.cuh"
#include "tile/descriptor.cuh"

namespace hopfill {

template <KernelConfig C>
struct Converter {
    static constexpr Geometry kGeometry = geometry(C);
    static constexpr i32 kWarps = Shared<C>::converters();
    // A unit is eight rows of a slab: 512 bytes that follow each other become the 1,024 of a swizzle's atom. A warp takes every kWarps-th.
    static constexpr i32 kUnits = kGeometry.raw_block / 512;
    static constexpr i32 kAhead = 3;  // units asked for before they are converted, of which each takes four registers
    static_assert(kUnits >= kWarps * kAhead && C.tile_n % 8 == 0 && C.head_dim % 64 == 0);

    Shared<C> shared;
    i32 warp;  // 0, 1, 2
    Ring<kGeometry.raw_stages> raw;
    Ring<C.stages> k, v;
    Ring<kJobSlots> jobs;

    HOPFILL_INLINE Converter(Shared<C> s, i32 w)
        : shared(s), warp(w), raw(s.raw_full(), s.raw_empty()), k(s.k_full(0), s.k_empty(0)), v(s.v_full(0), s.v_empty(0)),
          jobs(s.job_full(), s.job_empty()) {}

    // Lane l has columns 16 (l % 4) to 16 (l % 4) + 15 of row l / 4: two chunks of the 16-bit row. Of eight lanes that go together four write even
    // chunks and four, a row further, odd ones, so that they lie in different banks; the e4m3 rows are not swizzled and follow each other.
    HOPFILL_INLINE void convert(const u8* block, u8* to) const {
        const u32 lane = sm90::lane_index();
        const u8* from = block + warp * 512 + lane * 16;
        const u32 write = static_cast<u32>(warp) * kAtomBytes + swizzled_chunk(lane / 4, 2 * (lane % 4));
        u32 bytes[kAhead][4];
#pragma unroll
        for (i32 i = 0; i < kAhead; ++i) sm90::load_shared16(from + i * kWarps * 512, bytes[i]);
#pragma unroll 1
        for (i32 unit = warp; unit < kUnits; unit += kWarps * kAhead) {
#pragma unroll
            for (i32 i = 0; i < kAhead; ++i) {
                if (unit + i * kWarps < kUnits) {
#pragma unroll
                    for (i32 half = 0; half < 2; ++half) {
                        u32 words[4];
                        sm90::unpack4_e4m3<C.elem>(bytes[i][2 * half], words[0], words[1]);
                        sm90::unpack4_e4m3<C.elem>(bytes[i][2 * half + 1], words[2], words[3]);
                        sm90::store_shared16(to + i * kWarps * kAtomBytes + (half == 0 ? write : write ^ 16), words);
                    }
                    if (unit + (i + kAhead) * kWarps < kUnits) sm90::load_shared16(from + (i + kAhead) * kWarps * 512, bytes[i]);
                }
            }
            from += kAhead * kWarps * 512;
            to += kAhead * kWarps * kAtomBytes;
        }
    }

    // The next raw block to a slot of K or of V.
    HOPFILL_INLINE void convert_block(Ring<C.stages>& ring, u8* to) {
        raw.wait_full();
        ring.wait_empty();
        convert(shared.raw(raw.slot), to);
        sm90::fence_async_shared();
        sm90::sync_warp();
        if (sm90::lane_index() == 0) {
            sm90::mbarrier_arrive(ring.full_barrier());
            raw.release();
        }
        raw.advance();
        ring.advance();
    }

    // Blocks of the next job, or kNoMoreJobs.
    HOPFILL_INLINE i32 next_job() {
        jobs.wait_full();
        const i32 blocks = sm90::load_shared(&shared.job(jobs.slot)->blocks);
        sm90::sync_warp();
        if (sm90::lane_index() == 0) jobs.release();
        jobs.advance();
        return blocks;
    }

    // The producer's order: a K, then a K and the V of the block before in turn, across jobs, and the last V. It describes the next job, or the end,
    // before it asks for this one's last V.
    HOPFILL_INLINE void run() {
        i32 left = next_job();
        bool behind = false;  // a block whose V is to come
#pragma unroll 1
        while (left != kNoMoreJobs || behind) {
            const bool some = left != kNoMoreJobs;
            if (some) convert_block(k, shared.k(0, k.slot));
            if (behind) convert_block(v, shared.v(0, v.slot));
            behind = some;
            if (some && --left == 0) left = next_job();
        }
    }
};

}  // namespace hopfill

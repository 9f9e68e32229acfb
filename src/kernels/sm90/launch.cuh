// Launch, thread coordinates, block and warp collectives, programmatic dependent launch. The emulator has its twin of this file.
#pragma once

#include "plan/types.h"

#define HOPFILL_KERNEL(threads) __global__ __launch_bounds__(threads, 1)
#define HOPFILL_GRID_CONSTANT __grid_constant__
#define HOPFILL_INLINE __forceinline__

namespace hopfill::sm90 {

HOPFILL_INLINE u32 thread_index() { return threadIdx.x; }
// Read where it stands, not once before all loops: what follows from it needs no registers elsewhere.
HOPFILL_INLINE u32 thread_index_anew() {
    u32 i;
    asm volatile("mov.u32 %0, %%tid.x;\n" : "=r"(i));
    return i;
}
HOPFILL_INLINE u32 block_index() { return blockIdx.x; }
HOPFILL_INLINE u32 grid_size() { return gridDim.x; }
HOPFILL_INLINE u32 lane_index() { return threadIdx.x & 31u; }

// The block's dynamic shared memory; 1024-byte alignment is what a 128-byte swizzle needs.
HOPFILL_INLINE u8* shared_memory() {
    extern __shared__ __align__(1024) u8 hopfill_shared[];
    return hopfill_shared;
}

// Address in the shared window, as instructions take it.
HOPFILL_INLINE u32 shared_address(const void* p) { return static_cast<u32>(__cvta_generic_to_shared(p)); }

// The value of lane 0, so that the compiler knows that it is uniform (PTX ISA 9.7.9.6, shfl.sync).
HOPFILL_INLINE u32 warp_uniform(u32 v) { return __shfl_sync(0xffffffffu, v, 0); }

template <class T>
HOPFILL_INLINE T shuffle_xor(T v, u32 lane_mask) {
    return __shfl_xor_sync(0xffffffffu, v, lane_mask);
}
template <class T>
HOPFILL_INLINE T shuffle_up(T v, u32 delta) {
    return __shfl_up_sync(0xffffffffu, v, delta);
}
template <class T>
HOPFILL_INLINE T shuffle_from(T v, u32 lane) {
    return __shfl_sync(0xffffffffu, v, lane);
}
HOPFILL_INLINE bool vote_any(bool p) { return __any_sync(0xffffffffu, p); }
HOPFILL_INLINE u32 ballot(bool p) { return __ballot_sync(0xffffffffu, p); }
HOPFILL_INLINE u32 count_trailing_zeros(u32 v) { return __ffs(static_cast<int>(v)) - 1; }
HOPFILL_INLINE void sync_warp() { __syncwarp(); }

// Exactly one lane of a converged warp gets true (PTX ISA 9.7.13.15, elect.sync).
HOPFILL_INLINE bool elect_one() {
    u32 chosen;
    asm volatile(
        "{\n.reg .pred p;\nelect.sync _|p, 0xffffffff;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(chosen));
    return chosen != 0;
}

// Barrier of the whole block (PTX ISA 9.7.13.1, bar.sync 0).
HOPFILL_INLINE void sync_block() { asm volatile("bar.sync 0;\n" ::: "memory"); }

// Named barriers 1 to 15: `threads` is the number that sync or arrive, warps counted whole (PTX ISA 9.7.13.1).
HOPFILL_INLINE void named_barrier_sync(u32 id, u32 threads) { asm volatile("bar.sync %0, %1;\n" ::"r"(id), "r"(threads) : "memory"); }
HOPFILL_INLINE void named_barrier_arrive(u32 id, u32 threads) { asm volatile("bar.arrive %0, %1;\n" ::"r"(id), "r"(threads) : "memory"); }

// Waits until the launches that this one depends on have finished and flushed (PTX ISA 9.7.13.13, griddepcontrol).
HOPFILL_INLINE void wait_for_previous_launch() { asm volatile("griddepcontrol.wait;\n" ::: "memory"); }
HOPFILL_INLINE void let_next_launch_start() { asm volatile("griddepcontrol.launch_dependents;\n" ::: "memory"); }

// Relaxed, device scope; returns the old value.
HOPFILL_INLINE u32 atomic_add(u32* p, u32 v) { return atomicAdd(p, v); }
// Until *p is `least` or more (acquire, device scope).
HOPFILL_INLINE void wait_global(const u32* p, u32 least) {
    u32 v;
    for (;;) {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];\n" : "=r"(v) : "l"(p) : "memory");
        if (v >= least) return;
        __nanosleep(32);
    }
}
// The release half of a hand-over between blocks: earlier writes are seen by whoever sees a later atomic.
HOPFILL_INLINE void fence_device() { __threadfence(); }

}  // namespace hopfill::sm90

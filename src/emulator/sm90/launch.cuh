// The emulator's twin of src/kernels/sm90/launch.cuh.
#pragma once

#include <cstring>

#include "emulator/instructions.h"
#include "plan/types.h"

#define HOPFILL_KERNEL(threads)
#define HOPFILL_GRID_CONSTANT
#define HOPFILL_INLINE inline

namespace hopfill::sm90 {

using Site = std::source_location;

HOPFILL_INLINE u32 thread_index() { return emulator::thread_index(); }
HOPFILL_INLINE u32 thread_index_anew() { return emulator::thread_index(); }
HOPFILL_INLINE u32 block_index() { return emulator::block_index(); }
HOPFILL_INLINE u32 grid_size() { return emulator::grid_size(); }
HOPFILL_INLINE u32 lane_index() { return emulator::thread_index() & 31u; }

HOPFILL_INLINE u8* shared_memory() { return emulator::shared_memory(); }
HOPFILL_INLINE u32 shared_address(const void* p, Site at = Site::current()) { return emulator::shared_address(p, at); }

// Any value of up to eight bytes, through the 64 bits that the collectives carry.
template <class T>
HOPFILL_INLINE T shuffle_value(emulator::Shuffle kind, T v, u32 operand, Site at) {
    static_assert(sizeof(T) <= 8);
    u64 bits = 0;
    std::memcpy(&bits, &v, sizeof v);
    if constexpr (sizeof(T) == 4) emulator::checked(__builtin_bit_cast(float, v), at);
    bits = emulator::shuffle(kind, bits, operand, at);
    std::memcpy(&v, &bits, sizeof v);
    return v;
}
HOPFILL_INLINE u32 warp_uniform(u32 v, Site at = Site::current()) { return shuffle_value(emulator::Shuffle::from, v, 0, at); }
template <class T>
HOPFILL_INLINE T shuffle_xor(T v, u32 lane_mask, Site at = Site::current()) {
    return shuffle_value(emulator::Shuffle::exclusive_or, v, lane_mask, at);
}
template <class T>
HOPFILL_INLINE T shuffle_up(T v, u32 delta, Site at = Site::current()) {
    return shuffle_value(emulator::Shuffle::up, v, delta, at);
}
template <class T>
HOPFILL_INLINE T shuffle_from(T v, u32 lane, Site at = Site::current()) {
    return shuffle_value(emulator::Shuffle::from, v, lane, at);
}
HOPFILL_INLINE u32 ballot(bool p, Site at = Site::current()) { return emulator::ballot(p, at); }
HOPFILL_INLINE bool vote_any(bool p, Site at = Site::current()) { return emulator::ballot(p, at) != 0; }
HOPFILL_INLINE u32 count_trailing_zeros(u32 v) { return v == 0 ? ~0u : static_cast<u32>(__builtin_ctz(v)); }
HOPFILL_INLINE void sync_warp(Site at = Site::current()) { emulator::sync_warp(at); }
HOPFILL_INLINE bool elect_one(Site at = Site::current()) { return emulator::elect_one(at); }

HOPFILL_INLINE void sync_block(Site at = Site::current()) { emulator::sync_block(at); }
HOPFILL_INLINE void named_barrier_sync(u32 id, u32 threads, Site at = Site::current()) { emulator::named_barrier(id, threads, true, at); }
HOPFILL_INLINE void named_barrier_arrive(u32 id, u32 threads, Site at = Site::current()) { emulator::named_barrier(id, threads, false, at); }

HOPFILL_INLINE void wait_for_previous_launch(Site at = Site::current()) { emulator::wait_for_previous_launch(at); }
HOPFILL_INLINE void let_next_launch_start() {}

HOPFILL_INLINE u32 atomic_add(u32* p, u32 v, Site at = Site::current()) { return emulator::global_add(p, v, at); }
HOPFILL_INLINE void wait_global(const u32* p, u32 least, Site at = Site::current()) { emulator::wait_global(p, least, at); }
HOPFILL_INLINE void fence_device() { emulator::fence_device(); }

}  // namespace hopfill::sm90

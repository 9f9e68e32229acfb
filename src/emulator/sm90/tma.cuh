// The emulator's twin of src/kernels/sm90/tma.cuh.
#pragma once

#include "sm90/launch.cuh"
#include "sm90/mbarrier.cuh"

namespace hopfill::sm90 {

struct TmaCoord {
    i32 c0, c1, c2, c3, c4;
};

enum class CacheHint : u64 {
    normal = 0x1000000000000000ull,
    evict_first = 0x12F0000000000000ull,
    evict_last = 0x14F0000000000000ull,
};

HOPFILL_INLINE void tma_prefetch_map(const TensorMap* map, Site at = Site::current()) { emulator::tma_prefetch_map(map, at); }

HOPFILL_INLINE void tma_load(void* to, const TensorMap* map, u64* bar, TmaCoord c, CacheHint = CacheHint::normal, Site at = Site::current()) {
    emulator::tma_load(to, map, bar, {c.c0, c.c1, c.c2, c.c3, c.c4}, at);
}
HOPFILL_INLINE void tma_store(const TensorMap* map, const void* from, TmaCoord c, Site at = Site::current()) {
    emulator::tma_store(map, from, {c.c0, c.c1, c.c2, c.c3, c.c4}, at);
}
HOPFILL_INLINE void tma_store_commit(Site at = Site::current()) { emulator::tma_store_commit(at); }
template <u32 Pending>
HOPFILL_INLINE void tma_store_wait_read(Site at = Site::current()) {
    emulator::tma_store_wait(Pending, true, at);
}
template <u32 Pending>
HOPFILL_INLINE void tma_store_wait(Site at = Site::current()) {
    emulator::tma_store_wait(Pending, false, at);
}

}  // namespace hopfill::sm90

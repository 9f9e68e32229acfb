// TMA: bulk tensor copies between global and shared memory (PTX ISA 9.7.9.27.1, cp.async.bulk.tensor).
// Coordinates are in elements, innermost dimension first. Elements out of bounds read as zero and are not written.
#pragma once

#include "sm90/launch.cuh"
#include "sm90/mbarrier.cuh"

namespace hopfill::sm90 {

struct TmaCoord {
    i32 c0, c1, c2, c3, c4;
};

// L2 eviction policies, as createpolicy would make them (CUTLASS documents the same encodings as TMA::CacheHintSm90).
enum class CacheHint : u64 {
    normal = 0x1000000000000000ull,
    evict_first = 0x12F0000000000000ull,
    evict_last = 0x14F0000000000000ull,
};

HOPFILL_INLINE void tma_prefetch_map(const TensorMap* map) {
    asm volatile("prefetch.tensormap [%0];\n" ::"l"(reinterpret_cast<u64>(map)) : "memory");
}

// One thread copies a box into shared memory; its bytes count on `bar` when they have landed.
HOPFILL_INLINE void tma_load(void* to, const TensorMap* map, u64* bar, TmaCoord at, CacheHint hint = CacheHint::normal) {
    asm volatile(
        "cp.async.bulk.tensor.5d.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint "
        "[%0], [%1, {%3, %4, %5, %6, %7}], [%2], %8;\n" ::"r"(
            shared_address(to)),
        "l"(reinterpret_cast<u64>(map)), "r"(shared_address(bar)), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3), "r"(at.c4),
        "l"(static_cast<u64>(hint))
        : "memory");
}

// One thread copies a box from shared memory; it belongs to that thread's current bulk group.
HOPFILL_INLINE void tma_store(const TensorMap* map, const void* from, TmaCoord at) {
    asm volatile("cp.async.bulk.tensor.5d.global.shared::cta.bulk_group [%0, {%2, %3, %4, %5, %6}], [%1];\n" ::"l"(reinterpret_cast<u64>(map)),
                 "r"(shared_address(from)), "r"(at.c0), "r"(at.c1), "r"(at.c2), "r"(at.c3), "r"(at.c4)
                 : "memory");
}
HOPFILL_INLINE void tma_store_commit() { asm volatile("cp.async.bulk.commit_group;\n" ::: "memory"); }
// Until at most `Pending` groups of this thread still read shared memory.
template <u32 Pending>
HOPFILL_INLINE void tma_store_wait_read() {
    asm volatile("cp.async.bulk.wait_group.read %0;\n" ::"n"(Pending) : "memory");
}
// Until at most `Pending` groups of this thread are still being written.
template <u32 Pending>
HOPFILL_INLINE void tma_store_wait() {
    asm volatile("cp.async.bulk.wait_group %0;\n" ::"n"(Pending) : "memory");
}

}  // namespace hopfill::sm90

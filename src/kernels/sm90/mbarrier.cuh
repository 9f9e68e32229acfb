// mbarrier objects in shared memory (PTX ISA 9.7.13.15). A barrier completes a phase when its pending arrivals and pending bytes are zero.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

HOPFILL_INLINE void mbarrier_init(u64* bar, u32 arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;\n" ::"r"(shared_address(bar)), "r"(arrivals) : "memory");
}
// Makes initialised barriers visible to the async proxy (PTX ISA 9.7.13.4, fence.mbarrier_init).
HOPFILL_INLINE void fence_mbarrier_init() { asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory"); }

// One arrival (release, block scope).
HOPFILL_INLINE void mbarrier_arrive(u64* bar) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];\n" ::"r"(shared_address(bar)) : "memory");
}
// One arrival that also adds `bytes` to what the phase waits for.
HOPFILL_INLINE void mbarrier_arrive_expect_bytes(u64* bar, u32 bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;\n" ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}
// True once the phase of the given parity has completed; may suspend for a while before it says no.
HOPFILL_INLINE bool mbarrier_try_wait(u64* bar, u32 parity) {
    u32 done;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(bar)), "r"(parity)
        : "memory");
    return done != 0;
}
// The same without suspending. An answer that is asked for ahead costs nothing; a wait costs some 100 clocks, even for what has come.
HOPFILL_INLINE bool mbarrier_test(u64* bar, u32 parity) {
    u32 done;
    asm volatile(
        "{\n.reg .pred p;\nmbarrier.test_wait.parity.shared::cta.b64 p, [%1], %2;\nselp.u32 %0, 1, 0, p;\n}\n"
        : "=r"(done)
        : "r"(shared_address(bar)), "r"(parity)
        : "memory");
    return done != 0;
}
// Waits for the phase of the given parity (acquire, block scope).
HOPFILL_INLINE void mbarrier_wait(u64* bar, u32 parity) {
    while (!mbarrier_try_wait(bar, parity)) {
    }
}

}  // namespace hopfill::sm90

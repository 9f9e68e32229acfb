// The emulator's twin of src/kernels/sm90/mbarrier.cuh.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

HOPFILL_INLINE void mbarrier_init(u64* bar, u32 arrivals, Site at = Site::current()) { emulator::mbarrier_init(bar, arrivals, at); }
HOPFILL_INLINE void fence_mbarrier_init(Site at = Site::current()) { emulator::fence_mbarrier_init(at); }
HOPFILL_INLINE void mbarrier_arrive(u64* bar, Site at = Site::current()) { emulator::mbarrier_arrive(bar, 0, at); }
HOPFILL_INLINE void mbarrier_arrive_expect_bytes(u64* bar, u32 bytes, Site at = Site::current()) { emulator::mbarrier_arrive(bar, bytes, at); }
HOPFILL_INLINE bool mbarrier_try_wait(u64* bar, u32 parity, Site at = Site::current()) { return emulator::mbarrier_try_wait(bar, parity, at); }
HOPFILL_INLINE bool mbarrier_test(u64* bar, u32 parity, Site at = Site::current()) { return emulator::mbarrier_test(bar, parity, at); }
HOPFILL_INLINE void mbarrier_wait(u64* bar, u32 parity, Site at = Site::current()) { emulator::mbarrier_wait(bar, parity, at); }

}  // namespace hopfill::sm90

// The emulator's twin of src/kernels/sm90/fence.cuh.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

HOPFILL_INLINE void fence_async_global() { emulator::fence_async_global(); }
HOPFILL_INLINE void fence_async_shared(Site at = Site::current()) { emulator::fence_async_shared(at); }

}  // namespace hopfill::sm90

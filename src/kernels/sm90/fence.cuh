// Proxy fences (PTX ISA 9.7.13.4).
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

// Generic writes of this thread to shared memory become visible to TMA and wgmma: before a TMA store or a wgmma that reads them.
HOPFILL_INLINE void fence_async_shared() { asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory"); }

// What this thread knows to be written to global memory is what TMA reads there.
HOPFILL_INLINE void fence_async_global() { asm volatile("fence.proxy.async.global;\n" ::: "memory"); }

}  // namespace hopfill::sm90

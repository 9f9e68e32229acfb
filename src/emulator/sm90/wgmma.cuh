// The emulator's twin of src/kernels/sm90/wgmma.cuh.
#pragma once

#include "plan/kernel_config.h"
#include "sm90/launch.cuh"

namespace hopfill::sm90 {

enum class Major : u8 { k, mn };

HOPFILL_INLINE void wgmma_fence(Site at = Site::current()) { emulator::wgmma_fence(at); }
HOPFILL_INLINE void wgmma_commit(Site at = Site::current()) { emulator::wgmma_commit(at); }
template <u32 Pending>
HOPFILL_INLINE void wgmma_wait(Site at = Site::current()) {
    emulator::wgmma_wait(Pending, at);
}

// The host compiler moves nothing across a call of the emulator that may reach the array.
template <u32 Count>
HOPFILL_INLINE void pin_registers(float (&)[Count]) {}

template <i32 N, Elem E, Major B = Major::k, i32 ScaleA = 1, i32 ScaleB = 1>
HOPFILL_INLINE void wgmma_ss(float (&d)[N / 2], u64 a, u64 b, bool accumulate, Site at = Site::current()) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    static_assert(E != Elem::e4m3 || B == Major::k, "8-bit operands are K-major only");
    static_assert(ScaleA * ScaleA == 1 && ScaleB * ScaleB == 1);
    emulator::wgmma({N, E, B == Major::mn, accumulate, ScaleA, ScaleB}, d, nullptr, a, b, at);
}

template <i32 N, Elem E, Major B = Major::k, i32 ScaleA = 1, i32 ScaleB = 1>
HOPFILL_INLINE void wgmma_rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool accumulate, Site at = Site::current()) {
    static_assert(N % 8 == 0 && N >= 8 && N <= 256);
    static_assert(E != Elem::e4m3 || B == Major::k, "8-bit operands are K-major only");
    static_assert(ScaleA * ScaleA == 1 && ScaleB * ScaleB == 1);
    emulator::wgmma({N, E, B == Major::mn, accumulate, ScaleA, ScaleB}, d, a, 0, b, at);
}

}  // namespace hopfill::sm90

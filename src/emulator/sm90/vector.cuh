// The emulator's twin of src/kernels/sm90/vector.cuh.
#pragma once

#include "emulator/formats.h"
#include "plan/kernel_config.h"
#include "sm90/math.cuh"

#define HOPFILL_STREAMING_KERNEL(threads, blocks)

namespace hopfill::sm90 {

HOPFILL_INLINE void load_global16(const void* p, u32 (&v)[4], Site at = Site::current()) {
    emulator::global_read(p, 16, at);
    std::memcpy(v, p, 16);
}
HOPFILL_INLINE void load_global8(const void* p, u32 (&v)[2], Site at = Site::current()) {
    emulator::global_read(p, 8, at);
    std::memcpy(v, p, 8);
}
HOPFILL_INLINE void store_global16(void* p, const u32 (&v)[4], Site at = Site::current()) {
    emulator::global_write(p, 16, at);
    std::memcpy(p, v, 16);
}
HOPFILL_INLINE void store_global8(void* p, const u32 (&v)[2], Site at = Site::current()) {
    emulator::global_write(p, 8, at);
    std::memcpy(p, v, 8);
}
HOPFILL_INLINE void load_shared16(const void* p, u32 (&v)[4], Site at = Site::current()) {
    emulator::shared_read(p, 16, at);
    std::memcpy(v, p, 16);
}
HOPFILL_INLINE void store_shared16(void* p, const u32 (&v)[4], Site at = Site::current()) {
    emulator::shared_write(p, 16, at);
    std::memcpy(p, v, 16);
}
HOPFILL_INLINE void store_shared8(void* p, const u32 (&v)[2], Site at = Site::current()) {
    emulator::shared_write(p, 8, at);
    std::memcpy(p, v, 8);
}

template <Elem E>
HOPFILL_INLINE void unpack2(u32 v, float& lo, float& hi) {
    static_assert(E == Elem::bf16 || E == Elem::f16);
    const auto low = static_cast<u16>(v), high = static_cast<u16>(v >> 16);
    lo = E == Elem::bf16 ? emulator::from_bf16(low) : canonical(emulator::from_f16(low));
    hi = E == Elem::bf16 ? emulator::from_bf16(high) : canonical(emulator::from_f16(high));
}

template <Elem E>
HOPFILL_INLINE void unpack4_e4m3(u32 v, u32& lo, u32& hi) {
    u32 r[4];
    for (u32 i = 0; i < 4; ++i) {
        const float f = emulator::from_e4m3(static_cast<u8>(v >> 8 * i));
        r[i] = E == Elem::bf16 ? emulator::to_bf16(f) : emulator::to_f16(f);
    }
    lo = r[0] | r[1] << 16;
    hi = r[2] | r[3] << 16;
}

HOPFILL_INLINE void atomic_max(float* p, float v, Site at = Site::current()) {
    emulator::global_max(reinterpret_cast<u32*>(p), __builtin_bit_cast(u32, emulator::checked(v, at)), at);
}

HOPFILL_INLINE void renew(u32&) {}

HOPFILL_INLINE float divide(float a, float b) { return canonical(a / b); }
HOPFILL_INLINE float reciprocal(float a) { return canonical(1 / a); }

}  // namespace hopfill::sm90

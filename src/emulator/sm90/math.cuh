// The emulator's twin of src/kernels/sm90/math.cuh: exact or correctly rounded where the hardware approximates.
#pragma once

#include <cmath>
#include <initializer_list>

#include "emulator/formats.h"
#include "plan/kernel_config.h"
#include "sm90/launch.cuh"

namespace hopfill::sm90 {

// NaNs have one pattern on this hardware, whatever went in.
HOPFILL_INLINE float canonical(float v) { return std::isnan(v) ? __builtin_bit_cast(float, emulator::kArithmeticNan) : v; }
HOPFILL_INLINE float flush_denormal(float v) { return std::fabs(v) < 1.17549435e-38f ? std::copysign(0.0f, v) : v; }

HOPFILL_INLINE float exp2_approx(float x, Site at = Site::current()) {
    return canonical(flush_denormal(std::exp2(flush_denormal(emulator::checked(x, at)))));
}
HOPFILL_INLINE void compute_before_wait(float sum, Site at = Site::current()) {
    if (emulator::checked(sum, at) < 0) emulator::trap(at);
}
HOPFILL_INLINE void compute_before_wait(float a, float b, Site at = Site::current()) {
    constexpr u32 kNever = 0x7f8dead1;
    const u32 first = __builtin_bit_cast(u32, emulator::checked(a, at)), second = __builtin_bit_cast(u32, emulator::checked(b, at));
    if (first == kNever && second == kNever) emulator::trap(at);
}
HOPFILL_INLINE float reciprocal_approx(float x, Site at = Site::current()) {
    return canonical(flush_denormal(1.0f / flush_denormal(emulator::checked(x, at))));
}
HOPFILL_INLINE float log2_approx(float x, Site at = Site::current()) { return canonical(std::log2(flush_denormal(emulator::checked(x, at)))); }
// As fmaxf: the number when one operand is a NaN. +0 is above -0.
HOPFILL_INLINE float max_float(float a, float b, Site at = Site::current()) {
    if (emulator::checked(a, at) == 0 && emulator::checked(b, at) == 0) return std::signbit(a) ? b : a;
    return canonical(std::fmax(a, b));
}
HOPFILL_INLINE float fma_float(float a, float b, float c, Site at = Site::current()) {
    return canonical(std::fma(emulator::checked(a, at), emulator::checked(b, at), emulator::checked(c, at)));
}
HOPFILL_INLINE u32 float_bits(float v, Site at = Site::current()) { return __builtin_bit_cast(u32, emulator::checked(v, at)); }
HOPFILL_INLINE float bits_float(u32 v) { return __builtin_bit_cast(float, v); }
HOPFILL_INLINE float infinity() { return __builtin_inff(); }

template <Elem E>
HOPFILL_INLINE u32 pack2(float lo, float hi, Site at = Site::current()) {
    static_assert(E == Elem::bf16 || E == Elem::f16);
    emulator::checked(lo, at);
    emulator::checked(hi, at);
    if constexpr (E == Elem::bf16)
        return emulator::to_bf16(lo) | u32{emulator::to_bf16(hi)} << 16;
    else
        return emulator::to_f16(lo) | u32{emulator::to_f16(hi)} << 16;
}
HOPFILL_INLINE u32 pack4_e4m3(float a, float b, float c, float d, Site at = Site::current()) {
    u32 r = 0;
    for (float v : {d, c, b, a}) r = r << 8 | emulator::to_e4m3(emulator::checked(v, at));
    return r;
}

HOPFILL_INLINE void store_matrix_x4(void* row, u32 m0, u32 m1, u32 m2, u32 m3, Site at = Site::current()) {
    emulator::store_matrix(row, m0, m1, m2, m3, at);
}

template <class T>
HOPFILL_INLINE void check_value(const T& v, Site at) {
    if constexpr (sizeof(T) == 4) emulator::checked(__builtin_bit_cast(float, v), at);
}
template <class T>
HOPFILL_INLINE T load_shared(const T* p, Site at = Site::current()) {
    emulator::shared_read(p, sizeof(T), at);
    return *p;
}
template <class T>
HOPFILL_INLINE void store_shared(T* p, T v, Site at = Site::current()) {
    check_value(v, at);
    emulator::shared_write(p, sizeof(T), at);
    *p = v;
}
HOPFILL_INLINE void store_shared4(float* p, float a, float b, float c, float d, Site at = Site::current()) {
    emulator::shared_write(p, 16, at);
    p[0] = emulator::checked(a, at);
    p[1] = emulator::checked(b, at);
    p[2] = emulator::checked(c, at);
    p[3] = emulator::checked(d, at);
}
HOPFILL_INLINE void load_shared4(const float* p, float (&v)[4], Site at = Site::current()) {
    emulator::shared_read(p, 16, at);
    for (i32 i = 0; i < 4; ++i) v[i] = p[i];
}
template <class T>
HOPFILL_INLINE T load_global(const T* p, Site at = Site::current()) {
    emulator::global_read(p, sizeof(T), at);
    return *p;
}
template <class T>
HOPFILL_INLINE void store_global(T* p, T v, Site at = Site::current()) {
    check_value(v, at);
    emulator::global_write(p, sizeof(T), at);
    *p = v;
}

}  // namespace hopfill::sm90

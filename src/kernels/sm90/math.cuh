// Scalar math on special units, packing to 16 and 8 bits, and stmatrix.
#pragma once

#include "plan/kernel_config.h"
#include "sm90/launch.cuh"

namespace hopfill::sm90 {

// 2^x on the multi-function unit, denormals flushed (PTX ISA 9.7.3.21, ex2.approx.ftz): 2^-inf = 0.
HOPFILL_INLINE float exp2_approx(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
// A branch that is never taken, as sums of exponentials are not negative (nor is a NaN less than 0). ptxas moves no wait across it, so what `sum` was
// made of is computed before the wait that follows. Without it, ptxas puts most exponentials behind the wait for the products beside them.
HOPFILL_INLINE void compute_before_wait(float sum) {
    asm volatile("{\n.reg .pred p;\nsetp.lt.f32 p, %0, 0f00000000;\n@p trap;\n}\n" ::"f"(sum) : "memory");
}
// The same of two numbers of either sign: neither is a NaN with these bits, which no operation makes.
HOPFILL_INLINE void compute_before_wait(float a, float b) {
    asm volatile("{\n.reg .pred p;\nsetp.eq.b32 p, %0, 0x7f8dead1;\nsetp.eq.and.b32 p, %1, 0x7f8dead1, p;\n@p trap;\n}\n" ::"r"(__float_as_uint(a)),
                 "r"(__float_as_uint(b))
                 : "memory");
}
// 1 / x, off by a unit in the last place, denormal arguments and results flushed (PTX ISA 9.7.3.14, rcp.approx.ftz): past 2^126 it is 0.
HOPFILL_INLINE float reciprocal_approx(float x) {
    float y;
    asm("rcp.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
// log2(x) (PTX ISA 9.7.3.20, lg2.approx.ftz).
HOPFILL_INLINE float log2_approx(float x) {
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;\n" : "=f"(y) : "f"(x));
    return y;
}
HOPFILL_INLINE float max_float(float a, float b) { return fmaxf(a, b); }
HOPFILL_INLINE float fma_float(float a, float b, float c) { return __fmaf_rn(a, b, c); }
HOPFILL_INLINE u32 float_bits(float v) { return __float_as_uint(v); }
HOPFILL_INLINE float bits_float(u32 v) { return __uint_as_float(v); }
HOPFILL_INLINE float infinity() { return __uint_as_float(0x7f800000u); }

// Two floats rounded to nearest even into one word, `lo` in the low half (PTX ISA 9.7.9.21, cvt).
template <Elem E>
HOPFILL_INLINE u32 pack2(float lo, float hi) {
    static_assert(E == Elem::bf16 || E == Elem::f16);
    u32 r;
    if constexpr (E == Elem::bf16)
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    else
        asm("cvt.rn.f16x2.f32 %0, %1, %2;\n" : "=r"(r) : "f"(hi), "f"(lo));
    return r;
}

// Four floats to e4m3, saturating, first in the lowest byte.
HOPFILL_INLINE u32 pack4_e4m3(float a, float b, float c, float d) {
    u32 r;
    asm("{\n.reg .b16 lo, hi;\ncvt.rn.satfinite.e4m3x2.f32 lo, %2, %1;\ncvt.rn.satfinite.e4m3x2.f32 hi, %4, %3;\nmov.b32 %0, {lo, hi};\n}\n"
        : "=r"(r)
        : "f"(a), "f"(b), "f"(c), "f"(d));
    return r;
}

// Four 8x8 matrices of 16-bit elements to shared memory: lane l gives the address of row l % 8 of matrix l / 8; register i holds
// matrix i in the accumulator's fragment order (PTX ISA 9.7.14.5.16, stmatrix).
HOPFILL_INLINE void store_matrix_x4(void* row, u32 m0, u32 m1, u32 m2, u32 m3) {
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(row)), "r"(m0), "r"(m1), "r"(m2), "r"(m3)
                 : "memory");
}

// Generic loads, stores of scalars: through functions, so that the emulator sees them.
template <class T>
HOPFILL_INLINE T load_shared(const T* p) {
    return *static_cast<const volatile T*>(p);
}
template <class T>
HOPFILL_INLINE void store_shared(T* p, T v) {
    *static_cast<volatile T*>(p) = v;
}
// Sixteen bytes at once; the address is a multiple of 16.
HOPFILL_INLINE void store_shared4(float* p, float a, float b, float c, float d) {
    asm volatile("st.shared.v4.f32 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(p)), "f"(a), "f"(b), "f"(c), "f"(d) : "memory");
}
HOPFILL_INLINE void load_shared4(const float* p, float (&v)[4]) {
    asm volatile("ld.shared.v4.f32 {%0, %1, %2, %3}, [%4];\n" : "=f"(v[0]), "=f"(v[1]), "=f"(v[2]), "=f"(v[3]) : "r"(shared_address(p)) : "memory");
}
// Relaxed, device scope (PTX ISA 9.7.9.8, ld): from L2, never from a line that this multiprocessor kept while the launch before this one still wrote.
template <class T>
HOPFILL_INLINE T load_global(const T* p) {
    if constexpr (sizeof(T) == 4) {
        u32 bits;
        asm volatile("ld.relaxed.gpu.global.b32 %0, [%1];\n" : "=r"(bits) : "l"(p) : "memory");
        return __builtin_bit_cast(T, bits);
    } else if constexpr (sizeof(T) == 2) {
        u16 bits;
        asm volatile("ld.relaxed.gpu.global.b16 %0, [%1];\n" : "=h"(bits) : "l"(p) : "memory");
        return __builtin_bit_cast(T, bits);
    } else {
        static_assert(sizeof(T) == 1);
        u16 bits;
        asm volatile("ld.relaxed.gpu.global.b8 %0, [%1];\n" : "=h"(bits) : "l"(p) : "memory");
        return static_cast<T>(bits);
    }
}
template <class T>
HOPFILL_INLINE void store_global(T* p, T v) {
    *p = v;
}

}  // namespace hopfill::sm90

// Sixteen bytes of global memory at once, 16-bit numbers to float, and an atomic maximum: what kernels that stream memory need.
#pragma once

#include "plan/kernel_config.h"
#include "sm90/launch.cuh"

// With registers for that many blocks at once.
#define HOPFILL_STREAMING_KERNEL(threads, blocks) __global__ __launch_bounds__(threads, blocks)

namespace hopfill::sm90 {

// Relaxed, device scope (PTX ISA 9.7.9.8, ld): from L2, never from a line that this multiprocessor kept while the launch before this one still
// wrote. The address is a multiple of 16.
HOPFILL_INLINE void load_global16(const void* p, u32 (&v)[4]) {
    asm volatile("ld.relaxed.gpu.global.v4.b32 {%0, %1, %2, %3}, [%4];\n" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "l"(p) : "memory");
}
// Eight bytes; the address is a multiple of 8.
HOPFILL_INLINE void load_global8(const void* p, u32 (&v)[2]) {
    asm volatile("ld.relaxed.gpu.global.v2.b32 {%0, %1}, [%2];\n" : "=r"(v[0]), "=r"(v[1]) : "l"(p) : "memory");
}
HOPFILL_INLINE void store_global16(void* p, const u32 (&v)[4]) {
    asm volatile("st.global.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"l"(p), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
HOPFILL_INLINE void store_global8(void* p, const u32 (&v)[2]) {
    asm volatile("st.global.v2.u32 [%0], {%1, %2};\n" ::"l"(p), "r"(v[0]), "r"(v[1]) : "memory");
}
HOPFILL_INLINE void load_shared16(const void* p, u32 (&v)[4]) {
    asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];\n" : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "r"(shared_address(p)) : "memory");
}
HOPFILL_INLINE void store_shared16(void* p, const u32 (&v)[4]) {
    asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};\n" ::"r"(shared_address(p)), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}
HOPFILL_INLINE void store_shared8(void* p, const u32 (&v)[2]) {
    asm volatile("st.shared.v2.u32 [%0], {%1, %2};\n" ::"r"(shared_address(p)), "r"(v[0]), "r"(v[1]) : "memory");
}

// Exact (PTX ISA 9.7.9.21, cvt).
template <Elem E>
HOPFILL_INLINE void unpack2(u32 v, float& lo, float& hi) {
    static_assert(E == Elem::bf16 || E == Elem::f16);
    if constexpr (E == Elem::bf16) {
        lo = __uint_as_float(v << 16);
        hi = __uint_as_float(v & 0xffff0000u);
    } else {
        asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.f32.f16 %0, l;\ncvt.f32.f16 %1, h;\n}\n" : "=f"(lo), "=f"(hi) : "r"(v));
    }
}

// Four e4m3 numbers, the lowest byte first, to two words of 16-bit ones: exact; NaN becomes the format's own (PTX ISA 9.7.9.21, cvt).
template <Elem E>
HOPFILL_INLINE void unpack4_e4m3(u32 v, u32& lo, u32& hi) {
    static_assert(E == Elem::bf16 || E == Elem::f16);
    asm("{\n.reg .b16 l, h;\nmov.b32 {l, h}, %2;\ncvt.rn.f16x2.e4m3x2 %0, l;\ncvt.rn.f16x2.e4m3x2 %1, h;\n}\n" : "=r"(lo), "=r"(hi) : "r"(v));
    if constexpr (E == Elem::bf16) {
        // There is no way from f16 to bf16 but by float.
        float v0, v1, v2, v3;
        unpack2<Elem::f16>(lo, v0, v1);
        unpack2<Elem::f16>(hi, v2, v3);
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(lo) : "f"(v1), "f"(v0));
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;\n" : "=r"(hi) : "f"(v3), "f"(v2));
    }
}

// Relaxed, device scope. Of floats that are not negative, whose order is that of their bits.
HOPFILL_INLINE void atomic_max(float* p, float v) { atomicMax(reinterpret_cast<u32*>(p), __float_as_uint(v)); }

// The compiler takes v for something new: what was computed from it is computed again rather than kept in registers.
HOPFILL_INLINE void renew(u32& v) { asm volatile("" : "+r"(v)); }

// IEEE division, so that the host computes the same.
HOPFILL_INLINE float divide(float a, float b) { return __fdiv_rn(a, b); }
HOPFILL_INLINE float reciprocal(float a) { return __frcp_rn(a); }

}  // namespace hopfill::sm90

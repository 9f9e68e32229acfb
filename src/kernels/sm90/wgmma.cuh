// wgmma: asynchronous matrix multiply of a warpgroup, D[64 x N] += A[64 x K] B[K x N], FP32 accumulators (PTX ISA 9.7.15.5).
// K is 16 for 16-bit and 32 for 8-bit elements. Accumulator and fragment layouts: tile/fragment.cuh; descriptors: tile/descriptor.cuh.
//
// Order (PTX ISA 9.7.15.5.1): wgmma_fence() before the first wgmma and whenever registers that one uses were written; wgmma_commit() closes a
// group; wgmma_wait<P>() returns when at most P groups are pending. Until then neither D nor a register A may be touched.
#pragma once

#include "plan/kernel_config.h"
#include "sm90/launch.cuh"
#include "sm90/wgmma_shapes.cuh"

namespace hopfill::sm90 {

// The widths that wgmma_shapes.cuh has: of another one nothing would be multiplied.
constexpr bool has_wgmma(i32 columns) {
#define HOPFILL_OR_IS(n) || columns == n
    return false HOPFILL_WGMMA_FOR_EACH_N(HOPFILL_OR_IS);
#undef HOPFILL_OR_IS
}

enum class Major : u8 { k, mn };  // how B lies in shared memory: K contiguous, or N contiguous (16-bit only)

HOPFILL_INLINE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;\n" ::: "memory"); }
HOPFILL_INLINE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;\n" ::: "memory"); }
template <u32 Pending>
HOPFILL_INLINE void wgmma_wait() {
    asm volatile("wgmma.wait_group.sync.aligned %0;\n" ::"n"(Pending) : "memory");
}

// Keeps the compiler from moving reads or writes of registers across an asynchronous wgmma; costs no instruction.
template <u32 Count>
HOPFILL_INLINE void pin_registers(float (&r)[Count]) {
#pragma unroll
    for (u32 i = 0; i < Count; ++i) asm volatile("" : "+f"(r[i])::"memory");
}

// Both operands in shared memory; accumulate = false overwrites D. A scale of -1 negates that operand's elements.
template <i32 N, Elem E, Major B = Major::k, i32 ScaleA = 1, i32 ScaleB = 1>
HOPFILL_INLINE void wgmma_ss(float (&d)[N / 2], u64 a, u64 b, bool accumulate) {
    static_assert(has_wgmma(N) && (E != Elem::e4m3 || B == Major::k), "N is not in gen_wgmma.py's list, or an 8-bit operand is not K-major");
    static_assert(ScaleA * ScaleA == 1 && ScaleB * ScaleB == 1);
    const u32 keep = accumulate;
#define HOPFILL_SS16(n, type)                                                                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " HOPFILL_WGMMA_O##n##_2 ", 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" HOPFILL_WGMMA_R##n "}, " HOPFILL_WGMMA_O##n##_0           \
                 ", " HOPFILL_WGMMA_O##n##_1 ", p, " HOPFILL_WGMMA_O##n##_4 ", " HOPFILL_WGMMA_O##n##_5 ", 0, " HOPFILL_WGMMA_O##n##_3 ";\n}\n" \
                 : HOPFILL_WGMMA_D##n(d)                                                                                                        \
                 : "l"(a), "l"(b), "r"(keep), "n"(B == Major::mn ? 1 : 0), "n"(ScaleA), "n"(ScaleB))
#define HOPFILL_SS8(n)                                                                                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " HOPFILL_WGMMA_O##n##_2 ", 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" HOPFILL_WGMMA_R##n "}, " HOPFILL_WGMMA_O##n##_0                   \
                 ", " HOPFILL_WGMMA_O##n##_1 ", p, " HOPFILL_WGMMA_O##n##_3 ", " HOPFILL_WGMMA_O##n##_4 ";\n}\n"                                \
                 : HOPFILL_WGMMA_D##n(d)                                                                                                        \
                 : "l"(a), "l"(b), "r"(keep), "n"(ScaleA), "n"(ScaleB))
#define HOPFILL_CASE(n)                                    \
    if constexpr (N == n) {                                \
        if constexpr (E == Elem::bf16)                     \
            HOPFILL_SS16(n, "bf16");                       \
        else if constexpr (E == Elem::f16)                 \
            HOPFILL_SS16(n, "f16");                        \
        else                                               \
            HOPFILL_SS8(n);                                \
    }
    HOPFILL_WGMMA_FOR_EACH_N(HOPFILL_CASE)
#undef HOPFILL_CASE
#undef HOPFILL_SS16
#undef HOPFILL_SS8
}

// A in registers: the four words of this thread's fragment.
template <i32 N, Elem E, Major B = Major::k, i32 ScaleA = 1, i32 ScaleB = 1>
HOPFILL_INLINE void wgmma_rs(float (&d)[N / 2], const u32 (&a)[4], u64 b, bool accumulate) {
    static_assert(has_wgmma(N) && (E != Elem::e4m3 || B == Major::k), "N is not in gen_wgmma.py's list, or an 8-bit operand is not K-major");
    static_assert(ScaleA * ScaleA == 1 && ScaleB * ScaleB == 1);
    const u32 keep = accumulate;
#define HOPFILL_RS16(n, type)                                                                                                                   \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " HOPFILL_WGMMA_O##n##_5 ", 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k16.f32." type "." type " {" HOPFILL_WGMMA_R##n "}, {" HOPFILL_WGMMA_O##n##_0          \
                 ", " HOPFILL_WGMMA_O##n##_1 ", " HOPFILL_WGMMA_O##n##_2 ", " HOPFILL_WGMMA_O##n##_3 "}, " HOPFILL_WGMMA_O##n##_4               \
                 ", p, " HOPFILL_WGMMA_O##n##_7 ", " HOPFILL_WGMMA_O##n##_8 ", " HOPFILL_WGMMA_O##n##_6 ";\n}\n"                                \
                 : HOPFILL_WGMMA_D##n(d)                                                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(B == Major::mn ? 1 : 0), "n"(ScaleA), "n"(ScaleB))
#define HOPFILL_RS8(n)                                                                                                                          \
    asm volatile("{\n.reg .pred p;\nsetp.ne.b32 p, " HOPFILL_WGMMA_O##n##_5 ", 0;\n"                                                            \
                 "wgmma.mma_async.sync.aligned.m64n" #n "k32.f32.e4m3.e4m3 {" HOPFILL_WGMMA_R##n "}, {" HOPFILL_WGMMA_O##n##_0                  \
                 ", " HOPFILL_WGMMA_O##n##_1 ", " HOPFILL_WGMMA_O##n##_2 ", " HOPFILL_WGMMA_O##n##_3 "}, " HOPFILL_WGMMA_O##n##_4               \
                 ", p, " HOPFILL_WGMMA_O##n##_6 ", " HOPFILL_WGMMA_O##n##_7 ";\n}\n"                                                            \
                 : HOPFILL_WGMMA_D##n(d)                                                                                                        \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(b), "r"(keep), "n"(ScaleA), "n"(ScaleB))
#define HOPFILL_CASE(n)                                    \
    if constexpr (N == n) {                                \
        if constexpr (E == Elem::bf16)                     \
            HOPFILL_RS16(n, "bf16");                       \
        else if constexpr (E == Elem::f16)                 \
            HOPFILL_RS16(n, "f16");                        \
        else                                               \
            HOPFILL_RS8(n);                                \
    }
    HOPFILL_WGMMA_FOR_EACH_N(HOPFILL_CASE)
#undef HOPFILL_CASE
#undef HOPFILL_RS16
#undef HOPFILL_RS8
}

}  // namespace hopfill::sm90

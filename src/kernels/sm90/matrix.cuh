// 8x8 matrices from shared memory into registers, and bytes picked from two registers: what a transposition of 8-bit elements is made of.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

// Four 8x8 matrices of 16-bit elements from shared memory, transposed: lane l gives the address of row l % 8 of matrix l / 8; register i receives
// rows 2 (l % 4) (low half) and 2 (l % 4) + 1 of column l / 4 of matrix i (PTX ISA 9.7.14.5.15, ldmatrix).
HOPFILL_INLINE void load_matrix_transposed_x4(const void* row, u32 (&m)[4]) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];\n"
                 : "=r"(m[0]), "=r"(m[1]), "=r"(m[2]), "=r"(m[3])
                 : "r"(shared_address(row))
                 : "memory");
}

// Byte i of the result is byte (selector >> 4 i) % 8 of the eight bytes of a (0 to 3) and b (4 to 7) (PTX ISA 9.7.9.7, prmt).
HOPFILL_INLINE u32 permute_bytes(u32 a, u32 b, u32 selector) { return __byte_perm(a, b, selector); }

}  // namespace hopfill::sm90

// Matrix descriptors of wgmma (PTX ISA 9.7.15.5.1.2.2): where an operand lies in shared memory and how it is swizzled.
// Every operand here lies in slabs: 64 16-bit columns (128 bytes) by any number of rows, 128-byte swizzle, 1024-byte aligned.
#pragma once

#include "plan/types.h"
#include "sm90/launch.cuh"

namespace hopfill {

constexpr u64 kSwizzle128 = u64{1} << 62;
constexpr u32 kAtomBytes = 1024;  // eight rows of 128 bytes: what the swizzle permutes

constexpr u64 descriptor_offset(u32 bytes) { return bytes >> 4; }

// K-major (the multiplied dimension is contiguous): groups of eight rows follow each other; the leading offset is not used.
HOPFILL_INLINE u64 k_major_descriptor(const void* slab) {
    return kSwizzle128 | (u64{kAtomBytes >> 4} << 32) | (u64{1} << 16) | ((sm90::shared_address(slab) & 0x3ffffu) >> 4);
}

// MN-major (the output dimension is contiguous): groups of eight k-rows follow each other, slabs are `slab_stride` bytes apart.
HOPFILL_INLINE u64 mn_major_descriptor(const void* slab, u32 slab_stride) {
    return kSwizzle128 | (u64{kAtomBytes >> 4} << 32) | (u64{slab_stride >> 4} << 16) | ((sm90::shared_address(slab) & 0x3ffffu) >> 4);
}

// Byte address of the 16-byte chunk that holds (row, column / 8) of a 16-bit slab: the swizzle exchanges chunks within eight rows.
constexpr u32 swizzled_chunk(u32 row, u32 chunk) { return row * 128 + ((chunk ^ (row & 7)) << 4); }

}  // namespace hopfill

// Where the elements of a wgmma operand lie, read off its matrix descriptor bit by bit (PTX ISA 9.7.15.5.1.2.2).
#pragma once

#include "emulator/tensor_map.h"

namespace hopfill::emulator {

struct Descriptor {
    u32 start, leading, stride;  // bytes
    u32 base_offset;
    Swizzle swizzle;
    bool reserved_bits;  // some bit is set that must not be

    static constexpr Descriptor decode(u64 d) {
        constexpr Swizzle kLayout[] = {Swizzle::none, Swizzle::b128, Swizzle::b64, Swizzle::b32};
        constexpr u64 kReserved = u64{3} << 14 | u64{3} << 30 | u64{7} << 46 | u64{0x3ff} << 52;
        return {static_cast<u32>(d & 0x3fff) << 4,
                static_cast<u32>(d >> 16 & 0x3fff) << 4,
                static_cast<u32>(d >> 32 & 0x3fff) << 4,
                static_cast<u32>(d >> 49 & 7),
                kLayout[d >> 62],
                (d & kReserved) != 0};
    }

    // Address of 16 bytes of a K-major operand: row (of M or N), and which half of the instruction's 32 bytes along K.
    constexpr u32 k_major(u32 row, u32 half) const {
        const u32 span = swizzle_span(swizzle);
        // Without a swizzle, 8 x 16-byte core matrices: the leading offset goes along K. With one, eight rows of its span; K lies within.
        const u32 inside = span == 0 ? row % 8 * 16 + half * leading : row % 8 * span + half * 16;
        return swizzle_address(start + row / 8 * stride + inside, swizzle);
    }
    // Address of 8 16-bit elements of an MN-major operand: which eight along N, and k.
    constexpr u32 mn_major(u32 eight, u32 k) const {
        const u32 span = swizzle_span(swizzle);
        if (span == 0) return start + eight * stride + k % 8 * 16 + k / 8 * leading;
        const u32 atom = span / 16;
        return swizzle_address(start + eight / atom * leading + eight % atom * 16 + k % 8 * span + k / 8 * stride, swizzle);
    }
};

}  // namespace hopfill::emulator

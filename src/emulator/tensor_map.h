// The emulator's own 128-byte tensor map, and the walk over a box that TMA makes.
#pragma once

#include "emulator/emulate.h"

namespace hopfill::emulator {

// Lies in TensorMap::opaque.
struct EncodedMap {
    static constexpr u32 kMagic = 0x50414d54;
    u32 magic;
    Elem elem;
    Swizzle swizzle;
    u16 box[5];
    u64 base;
    u64 stride[4];
    u32 last[5];  // size - 1

    u32 row_bytes() const { return box[0] * static_cast<u32>(elem_bytes(elem)); }
    u32 rows() const { return u32{box[1]} * box[2] * box[3] * box[4]; }
    u32 box_bytes() const { return row_bytes() * rows(); }
};
static_assert(sizeof(EncodedMap) <= sizeof(TensorMap));

// Exchanges the 16-byte chunks of an address as swizzles of 32, 64 and 128 bytes do: bits 4 up ^= bits 7 up.
constexpr u32 swizzle_address(u32 address, Swizzle s) {
    const u32 mask = s == Swizzle::b128 ? 7 : s == Swizzle::b64 ? 3 : s == Swizzle::b32 ? 1 : 0;
    return address ^ ((address >> 7 & mask) << 4);
}
constexpr u32 swizzle_span(Swizzle s) { return s == Swizzle::b128 ? 128 : s == Swizzle::b64 ? 64 : s == Swizzle::b32 ? 32 : 0; }

// A row of a box: box[0] elements, of which [first, first + count) lie inside the tensor, from `address` on.
struct BoxRow {
    u64 address;
    u32 first, count;
};

// Rows in the order in which they lie in shared memory.
template <class Visit>
void for_each_row(const EncodedMap& map, const i32 (&c)[5], Visit visit) {
    const u64 bytes = static_cast<u64>(elem_bytes(map.elem));
    const i64 low = c[0] < 0 ? -i64{c[0]} : 0;
    i64 high = i64{map.last[0]} + 1 - c[0];
    if (high > map.box[0]) high = map.box[0];
    u32 row = 0;
    for (u32 i4 = 0; i4 < map.box[4]; ++i4)
        for (u32 i3 = 0; i3 < map.box[3]; ++i3)
            for (u32 i2 = 0; i2 < map.box[2]; ++i2)
                for (u32 i1 = 0; i1 < map.box[1]; ++i1, ++row) {
                    const i64 at[4] = {i64{c[1]} + i1, i64{c[2]} + i2, i64{c[3]} + i3, i64{c[4]} + i4};
                    bool inside = low < high;
                    u64 address = map.base + static_cast<u64>(c[0] + low) * bytes;
                    for (int d = 0; d < 4; ++d) {
                        inside = inside && at[d] >= 0 && at[d] <= i64{map.last[d + 1]};
                        // 64 bits that wrap: the ragged maps of plan/tensor_map.h come back to the tensor that way.
                        address += static_cast<u64>(at[d]) * map.stride[d];
                    }
                    visit(row, inside ? BoxRow{address, static_cast<u32>(low), static_cast<u32>(high - low)} : BoxRow{0, 0, 0});
                }
}

}  // namespace hopfill::emulator

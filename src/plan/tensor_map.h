// Host description of a TMA tensor map, made by the planner and encoded by the driver (src/cuda) or by the emulator.
#pragma once

#include <array>
#include <cstdint>

#include "plan/kernel_config.h"

namespace hopfill {

enum class Swizzle : u8 { none, b32, b64, b128 };

// Five dimensions, innermost first; dimension 0 has stride one element. See cuTensorMapEncodeTiled for the limits of each field.
struct TensorMapSpec {
    Elem elem = Elem::bf16;
    Swizzle swizzle = Swizzle::b128;
    const void* base = nullptr;                 // 16-byte aligned
    std::array<std::uint64_t, 5> size{};        // elements, 1 to 2^32
    std::array<std::uint64_t, 4> stride{};      // bytes, of dimensions 1 to 4: multiples of 16 below 2^40
    std::array<std::uint32_t, 5> box{};         // elements, 1 to 256
    bool operator==(const TensorMapSpec&) const = default;
};

// Ragged batches: a [tokens, heads, head_dim] tensor seen so that TMA's bounds check ends at a sequence's own end, wherever that is.
// Dimensions {head_dim, heads, 2^30, 2^31-ish, 2^31-ish} with byte strides {head, seq, seq, 2^35 - seq}: the coordinates
//   row  = 2^30 - (end - row of the tensor)      out of bounds exactly at the sequence's end
//   base = end
//   wrap = 2^30                                   wraps the 64-bit address back: 2^30 * (2^35 - seq) = -2^30 * seq  (mod 2^64)
// address base + (row + end - 2^30) * seq, which is the row asked for. (Source of the idea: triton/tools/ragged_tma.py.)
constexpr std::uint64_t kRaggedRows = std::uint64_t{1} << 30;
constexpr std::uint64_t kRaggedOuter = 0x7fff0000ull;

}  // namespace hopfill

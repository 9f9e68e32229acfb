// Fixed-width names and the opaque tensor map, for text that the host, NVRTC and the emulator all read: no std and no CUDA header.
#pragma once

namespace hopfill {

using i8 = signed char;
using u8 = unsigned char;
using u16 = unsigned short;
using i32 = int;
using u32 = unsigned int;
using i64 = long long;
using u64 = unsigned long long;

static_assert(sizeof(u32) == 4 && sizeof(u64) == 8 && sizeof(void*) == 8);

// A CUtensorMap on sm90, the emulator's own description when emulated: 128 opaque bytes, 64-byte aligned (CUDA driver API, cuTensorMapEncodeTiled).
struct alignas(64) TensorMap {
    u64 opaque[16];
};

constexpr i32 ceil_div(i32 a, i32 b) { return (a + b - 1) / b; }
constexpr i32 round_up(i32 a, i32 b) { return ceil_div(a, b) * b; }

}  // namespace hopfill

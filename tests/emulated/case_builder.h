// What the parts of the instruction table share.
#pragma once

#include <cstring>
#include <utility>

#include "emulator/formats.h"
#include "emulator/random.h"
#include "instruction_cases.h"

namespace hopfill::testing {

template <class T>
std::vector<u8> bytes_of(const std::vector<T>& v) {
    std::vector<u8> bytes(v.size() * sizeof(T));
    if (!bytes.empty()) std::memcpy(bytes.data(), v.data(), bytes.size());
    return bytes;
}

template <class T>
std::vector<u8> bytes_of(const T& v) {
    std::vector<u8> bytes(sizeof(T));
    std::memcpy(bytes.data(), &v, sizeof(T));
    return bytes;
}

// Values in an element type, each rounded to it.
inline std::vector<u8> encode_all(const std::vector<float>& v, Elem e) {
    std::vector<u8> out(v.size() * static_cast<std::size_t>(elem_bytes(e)));
    for (std::size_t i = 0; i < v.size(); ++i) {
        if (e == Elem::f32) {
            std::memcpy(&out[4 * i], &v[i], 4);
        } else if (e == Elem::e4m3) {
            out[i] = emulator::to_e4m3(v[i]);
        } else {
            const u16 bits = e == Elem::bf16 ? emulator::to_bf16(v[i]) : emulator::to_f16(v[i]);
            std::memcpy(&out[2 * i], &bits, 2);
        }
    }
    return out;
}

inline std::vector<float> small_integers(std::size_t n, std::uint64_t seed) {
    emulator::Random random(seed);
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(random.below(9)) - 4;
    return v;
}

// A tensor [rows, columns] with a box; its base is the buffer's.
inline TensorMapSpec spec_2d(const void* base, std::uint64_t columns, std::uint64_t rows, i32 box_columns, i32 box_rows, Swizzle swizzle, Elem elem) {
    const std::uint64_t row = columns * static_cast<std::uint64_t>(elem_bytes(elem));
    return {elem,
            swizzle,
            base,
            {columns, rows, 1, 1, 1},
            {row, row, row, row},
            {static_cast<std::uint32_t>(box_columns), static_cast<std::uint32_t>(box_rows), 1, 1, 1}};
}

inline const char* text_of(Elem e) {
    switch (e) {
        case Elem::bf16:
            return "bf16";
        case Elem::f16:
            return "f16";
        case Elem::e4m3:
            return "e4m3";
        case Elem::f32:
            return "f32";
    }
    return "?";
}

constexpr Swizzle swizzle_of(i32 span) { return span == 128 ? Swizzle::b128 : span == 64 ? Swizzle::b64 : span == 32 ? Swizzle::b32 : Swizzle::none; }

}  // namespace hopfill::testing

// Small kernels under the emulator: how tests run them.
#pragma once

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "emulator/emulate.h"
#include "sm90/fence.cuh"
#include "sm90/math.cuh"
#include "sm90/mbarrier.cuh"
#include "sm90/regs.cuh"
#include "sm90/tma.cuh"
#include "sm90/wgmma.cuh"

namespace hopfill::testing {

using emulator::Buffer;
using emulator::Launch;
using emulator::Options;
using emulator::Report;

template <class T>
Buffer buffer(const char* name, const std::vector<T>& v, bool writable = false) {
    return {name, v.data(), v.size() * sizeof(T), writable};
}

// The kind of the first fault, or "clean".
inline std::string kind_of(const Report& r) { return r.faults.empty() ? "clean" : r.faults[0].kind; }
inline std::string text_of(const Report& r) { return r.faults.empty() ? "" : r.faults[0].text; }

// A 2-D 16-bit tensor [rows, columns] as a tensor map with the given box.
inline TensorMap map_2d(const void* base, std::uint64_t columns, std::uint64_t rows, std::uint32_t box_columns, std::uint32_t box_rows,
                        Swizzle swizzle, Elem elem = Elem::bf16) {
    const std::uint64_t row = columns * static_cast<std::uint64_t>(elem_bytes(elem));
    TensorMapSpec s{elem, swizzle, base, {columns, rows, 1, 1, 1}, {row, row, row, row}, {box_columns, box_rows, 1, 1, 1}};
    Result<TensorMap> map = emulator::encode(s);
    EXPECT_TRUE(map.ok()) << (map.ok() ? "" : map.error().text());
    return map.ok() ? *map : TensorMap{};
}

}  // namespace hopfill::testing

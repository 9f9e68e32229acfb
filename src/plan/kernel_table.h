// The tile table: every kernel the planner may choose, each row with its reason. constexpr, so that the emulator can instantiate it.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

// What is chosen for a (head_dim class, mask); element type and layout multiply it.
struct TileRow {
    i32 head_dim;
    Mask mask;
    i32 tile_n;
    i32 stages;
    i32 consumers;
    bool pingpong;
    bool dynamic;
};

constexpr TileRow kTiles[] = {
    // hd64: the exponential unit binds; three warpgroups keep it fed. 160 registers hold S, P and O at N = 128.
    {64, Mask::full, 128, 3, 3, true, false},
    {64, Mask::causal, 128, 3, 3, true, true},
    {96, Mask::full, 128, 2, 2, true, false},
    {96, Mask::causal, 128, 2, 2, true, true},
    // hd128: N = 128 leaves room for two query tiles and the staged output; N = 160 and 176 measured no faster at any length.
    {128, Mask::full, 128, 2, 2, true, false},
    {128, Mask::causal, 128, 2, 2, true, true},
    // hd192, hd256: O alone takes 96 and 128 registers, and two stages of K and V fill shared memory.
    {192, Mask::full, 96, 2, 2, false, false},
    {192, Mask::causal, 96, 2, 2, false, true},
    {256, Mask::full, 64, 2, 2, false, false},
    {256, Mask::causal, 64, 2, 2, false, true},
};
constexpr i32 kTileRows = sizeof(kTiles) / sizeof(kTiles[0]);
constexpr Elem kElems[] = {Elem::bf16, Elem::f16};

struct KernelTable {
    KernelConfig row[kTileRows * 4];
    static constexpr i32 size = kTileRows * 4;
};

constexpr KernelTable make_kernel_table() {
    KernelTable t{};
    i32 n = 0;
    for (const TileRow& r : kTiles)
        for (Elem e : kElems)
            for (i32 packed = 0; packed < 2; ++packed)
                t.row[n++] = {Family::prefill, e, e, r.mask, r.head_dim, r.tile_n, r.stages, r.consumers, packed != 0, r.dynamic, r.pingpong};
    return t;
}

constexpr KernelTable kKernelTable = make_kernel_table();

}  // namespace hopfill

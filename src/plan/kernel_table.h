// The tile table: every kernel the planner may choose, each row with its reason. constexpr, so that the emulator can instantiate it.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

enum class Layouts : u8 { dense, packed, both };

// What may be chosen for a (head_dim class, mask); element type and layout multiply it. plan/cost_model.cpp says when.
struct TileRow {
    Family family;
    i32 head_dim;
    i32 tile_n;
    i32 stages;
    i32 consumers;
    bool pingpong;
    Layouts layouts;
};

constexpr TileRow kTiles[] = {
    // Short prompts: N = 64 because a diagonal block of 64 rows needs no more; two stages a warpgroup are all that hd128 leaves room for.
    {Family::prefill_short, 64, 64, 3, 2, false, Layouts::both},
    {Family::prefill_short, 128, 64, 2, 2, false, Layouts::both},
    // hd64: the exponential unit binds. Long sequences want three warpgroups to keep it fed; 160 registers hold S, P and O at N = 128, and the 32
    // that are left to the producer do not hold the search of a ragged batch. Up to 1k tokens two warpgroups of smaller tiles waste less (307
    // against 279 TFLOP/s at 16 x 1024 causal).
    {Family::prefill, 64, 128, 3, 2, true, Layouts::both},
    {Family::prefill, 64, 128, 3, 3, true, Layouts::dense},
    {Family::prefill, 96, 128, 2, 2, true, Layouts::both},
    // hd128: N = 128 leaves room for two query tiles and the staged output; N = 160 and 176 measured no faster at any length.
    {Family::prefill, 128, 128, 2, 2, true, Layouts::both},
    // hd192, hd256: O alone takes 96 and 128 registers, and two stages of K and V fill shared memory. Turns (pingpong) measured slower.
    {Family::prefill, 192, 96, 2, 2, false, Layouts::both},
    {Family::prefill, 256, 64, 2, 2, false, Layouts::both},
};
constexpr Mask kMasks[] = {Mask::full, Mask::causal};
constexpr Elem kElems[] = {Elem::bf16, Elem::f16};

constexpr bool kLayouts[] = {false, true};

constexpr i32 kernel_count() {
    i32 n = 0;
    for (const TileRow& r : kTiles) n += r.layouts == Layouts::both ? 8 : 4;
    return n;
}

struct KernelTable {
    static constexpr i32 size = kernel_count();
    KernelConfig row[size];
};

// Jobs of unequal length (causal, ragged) and of short prompts are drawn from a counter; equal ones are dealt.
constexpr KernelTable make_kernel_table() {
    KernelTable t{};
    i32 n = 0;
    for (const TileRow& r : kTiles)
        for (Mask m : kMasks)
            for (Elem e : kElems)
                for (const bool packed : kLayouts) {
                    if (r.layouts != Layouts::both && packed != (r.layouts == Layouts::packed)) continue;
                    const bool dynamic = packed || m == Mask::causal || r.family == Family::prefill_short;
                    t.row[n++] = {r.family, e, e, m, r.head_dim, r.tile_n, r.stages, r.consumers, packed, dynamic, r.pingpong};
                }
    return t;
}

constexpr KernelTable kKernelTable = make_kernel_table();

}  // namespace hopfill

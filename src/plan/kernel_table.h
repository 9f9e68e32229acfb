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
    bool ahead = false;     // KernelConfig::ahead
    bool v_turned = false;  // KernelConfig::v_turned
};

constexpr TileRow kTiles[] = {
    // Short prompts, full: N = 64 so that both warpgroups have work; two stages a warpgroup are all that hd128 leaves room for.
    {Family::prefill_short, 64, 64, 3, 2, false, Layouts::both},
    {Family::prefill_short, 128, 64, 2, 2, false, Layouts::both},
    // Short prompts, causal. hd128: N = 64 wastes less of the diagonal of 1 x 128 tokens (4.2 us against 5.3 with N = 128 on an H100) and loads less
    // before the first product; from 1 x 256 on fewer steps count for more. Turns would make a warpgroup wait for one that has nothing to do.
    // Q K^T ahead of the softmax takes 3% off 1 x 512 there (7.9 us against 8.1 on an H200), nothing off one or two steps of N = 64; at hd64 it costs
    // 5 to 9%, at hd256 it is as fast.
    {Family::prefill_folded, 64, 128, 3, 2, false, Layouts::both},
    {Family::prefill_folded, 128, 64, 3, 2, false, Layouts::both},
    {Family::prefill_folded, 128, 128, 2, 2, false, Layouts::both, true},
    {Family::prefill_folded, 256, 64, 2, 2, false, Layouts::both},
    // hd64: the exponential unit binds. Long sequences want three warpgroups to keep it fed; 160 registers hold S, P and O at N = 128, and the 32
    // that are left to the producer do not hold the search of a ragged batch. Up to 1k tokens two warpgroups of smaller tiles waste less (307
    // against 279 TFLOP/s at 16 x 1024 causal).
    {Family::prefill, 64, 128, 3, 2, true, Layouts::both},
    {Family::prefill, 64, 128, 3, 3, true, Layouts::dense},
    {Family::prefill, 96, 128, 2, 2, true, Layouts::both},
    // hd128: N = 128 leaves room for two query tiles and the staged output; N = 160 and 176 measured no faster at any length.
    {Family::prefill, 128, 128, 2, 2, true, Layouts::both},
    // hd192, hd256: O alone takes 96 and 128 registers, and two stages of K and V fill shared memory. (hd192: turns measured slower.)
    {Family::prefill, 192, 96, 2, 2, false, Layouts::both},
    {Family::prefill, 256, 64, 2, 2, true, Layouts::both},
    // E4M3: N = 128 is a slab of V^T. Two warpgroups: four stages of K beside two each of V and V^T leave room for two query tiles and the staged
    // output. Three, of 160 registers, keep the exponential unit busier (816 against 735 TFLOP/s at hd128, 591 against 473 at hd64, 16k causal),
    // waste more at 512 tokens (336 against 390), and leave the producer too few registers for a ragged batch; at hd64 they have room for N = 192.
    // Of three, and at hd256, P V does not fit beside the logits; turns keep the warpgroups apart (prefill_fp8/SCHEDULE.md).
    {Family::prefill_fp8, 64, 128, 4, 2, true, Layouts::both},
    {Family::prefill_fp8, 64, 192, 3, 3, true, Layouts::dense},
    {Family::prefill_fp8, 128, 128, 4, 2, true, Layouts::both},
    {Family::prefill_fp8, 128, 128, 3, 3, true, Layouts::dense},
    {Family::prefill_fp8, 256, 128, 2, 2, true, Layouts::both},
    // Short causal prompts in e4m3: 1 x 256 takes 6.5 us against 7.2, 1 x 512 8.5 against 9.8 (hd128 on an H100). N = 64 is faster at 1 x 128 alone,
    // where the main family is as fast. (hd256: not tried.)
    {Family::prefill_fp8_folded, 64, 128, 4, 2, false, Layouts::both},
    {Family::prefill_fp8_folded, 128, 128, 4, 2, false, Layouts::both},
    // 16-bit Q on E4M3 K and V: prefill's rows, with room taken by the blocks as they arrive: one query tile at hd128. At hd256 no tile fits: N = 48
    // and N = 32 leave the consumers no registers between jobs, N = 64 leaves no room for two raw blocks.
    {Family::prefill_mixed, 64, 128, 3, 2, true, Layouts::both},
    {Family::prefill_mixed, 128, 128, 2, 2, true, Layouts::both},
    // The same problems where K and V are read often enough: prefill's rows, for prefill's reasons, on copies in 16 bits. (hd96 takes hd128's.)
    {Family::prefill_widened, 64, 128, 3, 2, true, Layouts::both},
    {Family::prefill_widened, 64, 128, 3, 3, true, Layouts::dense},
    {Family::prefill_widened, 128, 128, 2, 2, true, Layouts::both},
    {Family::prefill_widened, 192, 96, 2, 2, false, Layouts::both},
    {Family::prefill_widened, 256, 64, 2, 2, true, Layouts::both},
    // E4M3 whose V is read by many query tiles: V transposed once, in memory, not by every block that reads it. (hd128 of two and hd64 gain nothing:
    // prefill_fp8/SCHEDULE.md.)
    {Family::prefill_fp8, 128, 128, 3, 3, true, Layouts::dense, false, true},
    {Family::prefill_fp8, 256, 128, 2, 2, true, Layouts::dense, false, true},
};
constexpr Mask kMasks[] = {Mask::full, Mask::causal};
constexpr Elem kElems[] = {Elem::bf16, Elem::f16};

constexpr bool kLayouts[] = {false, true};

// Folding pays because causal tiles differ; without a mask splitting the keys does.
constexpr bool has_mask(Family f, Mask m) {
    return is_folded(f) ? m == Mask::causal : f == Family::prefill_short ? m == Mask::full : true;
}

// Jobs are drawn from a counter, where that pays: those of unequal length (causal, ragged), but equal ones too (1 to 3% on an H200).
template <class F>
constexpr void for_each_tile(F f) {
    const auto config = [](const TileRow& r, Mask m, Elem out, bool packed) {
        const bool fp8 = is_fp8(r.family);
        // (hd256 in e4m3 without a mask: 3 to 8% slower drawn.)
        const bool dynamic = packed || m == Mask::causal || is_main(r.family) || r.family == Family::prefill_short || (fp8 && r.head_dim < 256);
        // (hd256 without a mask: with turns 0 to 2% slower in 16 bits, 0 to 1% faster in e4m3.)
        const bool pingpong = r.pingpong && (r.head_dim < 256 || m == Mask::causal);
        KernelConfig c{r.family, fp8 ? Elem::e4m3 : out, out, m, r.head_dim, r.tile_n, r.stages, r.consumers, packed, dynamic, pingpong};
        c.ahead = r.ahead;
        c.v_turned = r.v_turned;
        return c;
    };
    for (const TileRow& r : kTiles)
        for (Mask m : kMasks)
            for (Elem e : kElems)
                for (const bool packed : kLayouts)
                    if (has_mask(r.family, m) && (r.layouts == Layouts::both || packed == (r.layouts == Layouts::packed))) f(config(r, m, e, packed));
}

// Of the mixed kernels every build compiles bf16 at hd128.
constexpr bool waits_for_use(const KernelConfig& c) { return is_mixed(c.family) && (c.elem != Elem::bf16 || c.head_dim != 128); }

// The catalogue's kernels, one by one.
template <class F>
constexpr void for_each_catalogued(F f) {
    for_each_tile([&](const KernelConfig& c) {
        if (!waits_for_use(c)) f(c);
    });
    // V given transposed, at the head dimension that most models have.
    for_each_tile([&](KernelConfig c) {
        if (c.family != Family::prefill_fp8 || c.head_dim != 128 || c.out != Elem::bf16 || c.v_turned) return;
        c.v_transposed = true;
        f(c);
    });
    // The kernels of long prompts without a mask, whose jobs are of one length and seldom fill their last wave. (hd64 gains nothing.)
    for_each_tile([&](KernelConfig c) {
        const bool main = c.family == Family::prefill && (c.head_dim == 128 || c.head_dim == 256);
        if (c.mask != Mask::full || c.packed || !(main || c.v_turned)) return;
        c.splits = true;
        f(c);
    });
    // And of few jobs, whose longest would run while most multiprocessors have none: a chunk of a long prompt, a prompt of an engine that gives each
    // GPU some of the heads.
    for_each_tile([&](KernelConfig c) {
        if (c.packed || c.consumers != 2 || c.head_dim % 64 != 0 || c.head_dim == 192) return;
        const bool main = c.family == Family::prefill && (c.mask == Mask::causal || c.head_dim == 64);
        const bool fp8 = c.family == Family::prefill_fp8 && (c.head_dim < 256 || (c.v_turned && c.mask == Mask::causal));
        if (!main && !fp8) return;
        c.splits = true;
        f(c);
    });
}

constexpr i32 kernel_count() {
    i32 n = 0;
    for_each_catalogued([&](const KernelConfig&) { ++n; });
    return n;
}

struct KernelTable {
    static constexpr i32 size = kernel_count();
    KernelConfig row[size];
};

constexpr KernelTable make_kernel_table() {
    KernelTable t{};
    i32 n = 0;
    for_each_catalogued([&](const KernelConfig& c) { t.row[n++] = c; });
    return t;
}

constexpr KernelTable kKernelTable = make_kernel_table();

// Kernels that the planner may choose and no build compiles for the GPU: their first use does. E4M3 with multipliers by block, V given transposed
// where the catalogue does not have it, and both, with one kernel for blocks of 64 tokens and of 128; most mixed ones; and E4M3 with E4M3 output.
template <class F>
constexpr void for_each_first_use(F f) {
    // Three warpgroups leave no registers for a block's multipliers, and pay most where the catalogue has them.
    const auto is_base = [](const KernelConfig& c) {
        return c.family == Family::prefill_fp8 && c.consumers == 2 && !loads_v_transposed(c) && !c.splits;
    };
    const auto with = [](KernelConfig c, bool v_transposed, i32 scale_block) {
        c.v_transposed = v_transposed;
        c.scale_block = scale_block;
        return c;
    };
    const auto catalogued = [](const KernelConfig& wanted) {
        for (const KernelConfig& c : kKernelTable.row)
            if (c == wanted) return true;
        return false;
    };
    for (const KernelConfig& c : kKernelTable.row)
        for (const i32 block : {64, 128})
            if (is_base(c)) f(with(c, false, block));
    // (hd64 of three, V given transposed: else it took 20 to 40% longer than with V as it comes.)
    const auto takes_v_transposed = [&](const KernelConfig& c, i32 block) {
        return is_base(c) || (c.family == Family::prefill_fp8 && c.consumers == 3 && block == 0 && !loads_v_transposed(c));
    };
    for (const KernelConfig& c : kKernelTable.row)
        for (const i32 block : {0, 64})
            if (takes_v_transposed(c, block) && !catalogued(with(c, true, block))) f(with(c, true, block));
    for_each_tile([&](const KernelConfig& c) {
        if (waits_for_use(c)) f(c);
    });
    for (const KernelConfig& c : kKernelTable.row)
        for (const bool v_transposed : {false, true})
            for (const i32 block : {0, 64}) {
                if (!is_base(c) || c.out != Elem::bf16) continue;
                KernelConfig eight = with(c, v_transposed, block);
                eight.out = Elem::e4m3;
                f(eight);
            }
    // Folded, but with multipliers by block, which the main family has.
    for (const KernelConfig& c : kKernelTable.row) {
        if (c.family != Family::prefill_fp8_folded) continue;
        f(with(c, true, 0));
        for (const bool v_transposed : {false, true}) {
            KernelConfig eight = with(c, v_transposed, 0);
            eight.out = Elem::e4m3;
            if (c.out == Elem::bf16) f(eight);
        }
    }
}

constexpr i32 first_use_count() {
    i32 n = 0;
    for_each_first_use([&](const KernelConfig&) { ++n; });
    return n;
}

struct FirstUseTable {
    static constexpr i32 size = first_use_count();
    KernelConfig row[size];
};

constexpr FirstUseTable make_first_use_table() {
    FirstUseTable t{};
    i32 n = 0;
    for_each_first_use([&](const KernelConfig& c) { t.row[n++] = c; });
    return t;
}

constexpr FirstUseTable kFirstUseTable = make_first_use_table();

}  // namespace hopfill

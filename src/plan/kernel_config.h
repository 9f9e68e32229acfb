// KernelConfig: template argument, cache key and printed name of a kernel. Read by g++, NVRTC and the emulator: no std and no CUDA header.
#pragma once

#include "plan/types.h"

namespace hopfill {

// Element types of tensors in memory.
enum class Elem : u8 { bf16, f16, e4m3, f32 };

constexpr i32 elem_bytes(Elem e) { return e == Elem::e4m3 ? 1 : e == Elem::f32 ? 4 : 2; }

enum class Mask : u8 {
    full,    // every key of the sequence
    causal,  // bottom-right aligned: query i sees keys j with j - kv_len <= i - q_len
};

enum class Family : u8 {
    prefill,        // a loading and a scheduling warp and two or three consumer warpgroups, persistent, K and V streamed (kernels/prefill)
    prefill_short,  // one wave of balanced job lists (kernels/prefill_short)
    prefill_folded, // causal: a job pairs a tile near the end of a prompt with one near its start, so that jobs are alike (kernels/prefill_folded)
    prefill_fp8,    // e4m3 k and v: as prefill, with V transposed by the producer's warpgroup, for each job or once, or given so
    prefill_fp8_folded,  // e4m3, with jobs as prefill_folded's (kernels/prefill_fp8)
    prefill_mixed,  // 16-bit q, e4m3 k and v: as prefill, with K and V converted to q's type by the producer's warpgroup (kernels/prefill_mixed)
    prefill_widened,  // the same problems: prefill on 16-bit copies of k and v, which a launch before it has made (kernels/prefill_widened)
};

constexpr bool is_folded(Family f) { return f == Family::prefill_folded || f == Family::prefill_fp8_folded; }
constexpr bool is_fp8(Family f) { return f == Family::prefill_fp8 || f == Family::prefill_fp8_folded; }
// The main family's schedule, to the last barrier: what is decided for one holds for the other.
constexpr bool is_main(Family f) { return f == Family::prefill || f == Family::prefill_widened; }
// 16-bit q on e4m3 k and v.
constexpr bool is_mixed(Family f) { return f == Family::prefill_mixed || f == Family::prefill_widened; }

// A kernel, wholly. Every field changes the machine code; nothing else does.
struct KernelConfig {
    Family family = Family::prefill;
    Elem elem = Elem::bf16;   // q, k and v; prefill_mixed and prefill_widened: q, and what k and v are multiplied as
    Elem out = Elem::bf16;    // o
    Mask mask = Mask::full;
    i32 head_dim = 128;       // columns that are multiplied: the problem's head_dim rounded up to a class, a multiple of 16
    i32 tile_n = 128;         // keys of a KV block
    i32 stages = 2;           // KV blocks in flight
    i32 consumers = 2;        // consumer warpgroups, 64 query rows each
    bool packed = false;      // ragged batch, found through cu_seqlens on the device
    bool dynamic = false;     // jobs come from a counter in global memory rather than a fixed stride
    bool pingpong = false;    // named barriers let one consumer warpgroup issue its matrix products at a time
    i32 scale_block = 0;      // prefill_fp8: tokens that share a multiplier of q, k and v, 64 or 128; 0: all of a sequence
    bool v_transposed = false;  // prefill_fp8: v comes as [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens]
    bool ahead = false;       // prefill_folded: Q K^T of a block runs beside the softmax of the block before it
    bool v_turned = false;    // prefill_fp8, dense: v is transposed once, beside the jobs, with keys in the order in which P's fragments have them
    bool splits = false;      // dense: blocks share some jobs, a part of the keys each (plan/split.h)

    constexpr bool operator==(const KernelConfig&) const = default;
};

// V^T in memory is what the products read: TMA brings it to them. (Where a ragged sequence starts at any byte TMA cannot, and warps move it there.)
constexpr bool v_direct(const KernelConfig& c) { return c.v_turned || (c.v_transposed && !c.packed); }
// And holds keys as they come, so that K's rows come in another order: even ones, then odd ones.
constexpr bool pairs_keys(const KernelConfig& c) { return v_direct(c) && !c.v_turned; }
// V's rows in memory are of tokens, not of columns.
constexpr bool loads_v_transposed(const KernelConfig& c) { return c.v_transposed || c.v_turned; }
// Multipliers by blocks of 64 tokens or of 128, as the launch says.
constexpr bool any_scale_block(const KernelConfig& c) { return c.scale_block == 64 && (c.v_transposed || c.out == Elem::e4m3); }
// Whether a launch before it copies what it reads: k and v in 16 bits.
constexpr bool reads_copies(const KernelConfig& c) { return c.family == Family::prefill_widened; }
// Whether it takes scratch memory: for those copies, for v transposed, or for outputs of a part of the keys.
constexpr bool takes_scratch(const KernelConfig& c) { return reads_copies(c) || c.v_turned || c.splits; }
// Of the problem's k and v.
constexpr Elem kv_elem(const KernelConfig& c) { return is_mixed(c.family) ? Elem::e4m3 : c.elem; }
// Of what TMA loads for them.
constexpr Elem loaded_elem(const KernelConfig& c) { return c.family == Family::prefill_mixed ? Elem::e4m3 : c.elem; }

}  // namespace hopfill

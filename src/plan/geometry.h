// Tile arithmetic that host and device share: shared-memory offsets, KV ranges of a query tile. constexpr, no std and no CUDA header.
#pragma once

#include "plan/kernel_config.h"

namespace hopfill {

// Shared memory holds every operand in slabs of 64 columns (128 bytes of 16-bit elements): the width of a 128-byte swizzle.
constexpr i32 kSlabBytes = 128;
constexpr i32 kRowsPerWarpgroup = 64;
constexpr i32 rows_per_warp() { return 16; }  // (not a variable: see scale_bytes())
constexpr i32 kSharedLimit = 232448;  // 227 KB, what a block of sm_90 may have

constexpr i32 clamp_low(i32 v, i32 low) { return v < low ? low : v; }
constexpr i32 clamp_high(i32 v, i32 high) { return v > high ? high : v; }

// Byte offsets into the block's dynamic shared memory.
//   prefill         every consumer warpgroup has its own 64 query rows; all read the same KV blocks
//   prefill_short   the warpgroups share 64 query rows and split the KV blocks, each with its own ring; one merges what they found
//   ..._folded      as prefill; the two warpgroups' rows are not neighbours
//   prefill_fp8     as prefill; V as TMA brings it waits in `v`, and what the products read, [head_dim, keys], is written to `vt` from there;
//                   transposed before, it comes to `vt` at once, or ragged, at the nearest 16 bytes before its place, to `v`, with 16 keys more
//   prefill_mixed   as prefill; K and V as TMA brings them wait in `raw`, not swizzled, and are written to `k` and `v` as 16-bit numbers from there
struct Geometry {
    i32 tile_m;           // query rows of a job
    i32 slab_columns;     // elements in 128 bytes
    i32 slabs;            // slabs of one row
    i32 q_rows;           // bytes of 64 query rows
    i32 q_tile;           // bytes of a job's query rows
    i32 kv_slab;          // bytes of one slab of a KV block
    i32 kv_block;         // bytes of a K or V block
    i32 v_stages;         // V blocks in flight
    i32 vt_stages;        // transposed V blocks
    i32 vt_block;         // bytes of one
    i32 raw_stages;       // e4m3 blocks, K's and V's together
    i32 raw_slab;         // bytes of one's slab, which has as many columns as a 16-bit slab
    i32 raw_block;        // bytes of one
    i32 rings;            // rings of K and of V
    i32 q_slots;          // query tiles in flight: two let the next job's queries arrive while this one's are read
    i32 o_slab;           // bytes of 64 staged output rows, one slab wide
    i32 o_slabs;          // slabs of the whole output
    i32 o_staged;         // slabs that a warpgroup stages at a time
    i32 merge_bytes;      // prefill_short: one warpgroup's partial result, 64 rows of float32 and two scalars a row and thread; prefill_fp8: its P
    i32 q, k, v, vt, raw, o, merge;  // offsets; v_turned: at `merge` the two pieces
    i32 jobs;             // ring of job descriptions
    i32 scales;           // prefill_fp8 with blocks of scales: multipliers of the block that follows each transposed one
    i32 barriers;
    i32 total;            // bytes to ask for at launch
    i32 threads;
};

constexpr i32 kJobSlots = 4;
constexpr i32 kConsumerWarps = 12;  // of three warpgroups, the most
constexpr i32 kJobBytes = 56 + 4 * kConsumerWarps;
// Two multipliers of k, two of v. (Not a variable: one more of those in a cubin, used or not, changes its key.)
constexpr i32 scale_bytes() { return 16; }

// Keys that TMA brings beside each block of a ragged V^T, which may start at any byte: unswizzled rows of them follow the block's. (A function, as is
// scale_bytes().)
constexpr i32 edge_keys() { return 16; }

// prefill_fp8: whether the sums of a row's P come from its products with V, as columns of the output do: V^T ends in rows of ones. Not where P takes
// the ratio of a block's multipliers of V, which are no part of the sums; and at hd256 there is no register for them.
constexpr bool sums_by_products(const KernelConfig& c) { return is_fp8(c.family) && c.scale_block == 0 && c.head_dim <= 128; }
// Rows of ones: the fewest that a product's columns and the swizzle allow.
constexpr i32 sum_columns(const KernelConfig& c) { return sums_by_products(c) ? 8 : 0; }
// Bytes of V^T's rows, of 128 keys: those of V, and with those of ones.
constexpr i32 vt_rows(const KernelConfig& c) { return c.head_dim * kSlabBytes; }
constexpr i32 vt_slab(const KernelConfig& c) { return vt_rows(c) + sum_columns(c) * kSlabBytes; }
// The keys past a multiple of 128, if warps put them in place: half a slab's. Two blocks share that slab, one its first half, one its second, or at
// N = 192 there would be no room for ones.
constexpr i32 vt_shared_keys(const KernelConfig& c) {
    return sums_by_products(c) && !v_direct(c) && c.tile_n > kSlabBytes ? c.tile_n % kSlabBytes : 0;
}
// Bytes of all of the ring.
constexpr i32 vt_bytes(const KernelConfig& c, const Geometry& g) { return g.vt_stages * g.vt_block + (vt_shared_keys(c) > 0 ? vt_slab(c) : 0); }

// Bytes of a V block as TMA brings it.
constexpr i32 v_block_bytes(const KernelConfig& c, const Geometry& g) {
    return loads_v_transposed(c) ? ceil_div(c.tile_n, kSlabBytes) * vt_rows(c) + (v_direct(c) ? 0 : c.head_dim * edge_keys()) : g.kv_block;
}
// From one V block of a ring to the next.
constexpr i32 v_block_stride(const KernelConfig& c, const Geometry& g) { return round_up(v_block_bytes(c, g), 1024); }

// prefill_fp8: where P lies in shared memory, bytes of a warpgroup's 64 rows of it; else 0.
constexpr i32 p_bytes(const KernelConfig& c) {
    const bool faster = c.consumers == 2 && c.head_dim == 128 && c.mask == Mask::full && c.scale_block == 0;
    return c.family == Family::prefill_fp8 && faster ? ceil_div(c.tile_n, kSlabBytes) * kRowsPerWarpgroup * kSlabBytes : 0;
}

// v_turned: tokens and channels of V that are transposed at once, between two slots of as many bytes; how often a head has as many channels.
constexpr i32 piece_tokens() { return 128; }
constexpr i32 piece_channels() { return 128; }
constexpr i32 piece_bytes() { return piece_tokens() * piece_channels(); }
constexpr i32 channel_pieces(const KernelConfig& c) { return ceil_div(c.head_dim, piece_channels()); }

// Whether a warp of the producer's warpgroup finds the next job while another loads: in the main family, where no warp has V to transpose or blocks
// to convert.
constexpr bool schedules(const KernelConfig& c) { return is_main(c.family); }

constexpr Geometry geometry(const KernelConfig& c) {
    const bool split = c.family == Family::prefill_short;
    const i32 row_groups = split ? 1 : c.consumers;
    Geometry g{};
    g.tile_m = kRowsPerWarpgroup * row_groups;
    g.slab_columns = kSlabBytes / elem_bytes(c.elem);
    g.slabs = ceil_div(c.head_dim, g.slab_columns);
    g.q_rows = g.slabs * kRowsPerWarpgroup * kSlabBytes;
    g.q_tile = g.q_rows * row_groups;
    g.kv_slab = c.tile_n * kSlabBytes;
    g.kv_block = g.slabs * g.kv_slab;
    g.rings = split ? c.consumers : 1;
    g.o_slab = kRowsPerWarpgroup * kSlabBytes;
    g.o_slabs = ceil_div(c.head_dim * elem_bytes(c.out), kSlabBytes);
    g.merge_bytes = split ? 128 * 4 * (c.head_dim / 2 + 4) : p_bytes(c);
    // prefill_fp8: V is read while the block before it is in the products; at hd256 one block as given leaves room for two transposed ones.
    const bool transposes = is_fp8(c.family);
    g.v_stages = !transposes ? c.stages : v_direct(c) ? 0 : g.slabs > 1 ? 1 : 2;
    g.vt_stages = !transposes ? 0 : pairs_keys(c) && g.slabs == 1 ? 4 : 2;
    g.vt_block = ceil_div(c.tile_n - vt_shared_keys(c), kSlabBytes) * vt_slab(c);
    // prefill_mixed: one block is converted while the next ones arrive; from hd128 on there is no room for more than two.
    g.raw_stages = c.family != Family::prefill_mixed ? 0 : g.slabs > 1 ? 2 : 4;
    g.raw_slab = g.raw_stages > 0 ? g.kv_slab / 2 : 0;
    g.raw_block = g.slabs * g.raw_slab;
    const i32 k_bytes = g.rings * c.stages * g.kv_block;
    const i32 v_bytes = g.rings * g.v_stages * v_block_stride(c, g) + vt_bytes(c, g) + g.raw_stages * g.raw_block;
    const i32 merges = split ? c.consumers - 1 : 0;
    const i32 merge_room = c.v_turned ? 2 * piece_bytes() : (split ? merges : c.consumers) * g.merge_bytes;
    // full and empty of: q per warpgroup and slot, k and v per ring and stage, vt and raw per stage, job slots, merges.
    const i32 scales = c.scale_block != 0 ? g.vt_stages * scale_bytes() : 0;
    const i32 kv_barriers = g.rings * (c.stages + g.v_stages) + g.vt_stages + g.raw_stages, words = schedules(c) ? 1 : c.v_turned ? 2 : 0;
    const i32 most_barriers = 2 * (2 * row_groups + kv_barriers + kJobSlots + merges) + words;
    const i32 free = kSharedLimit - k_bytes - v_bytes - merge_room - kJobSlots * kJobBytes - scales - most_barriers * 8 - g.q_tile;
    g.q_slots = free >= g.q_tile + row_groups * g.o_slabs * g.o_slab ? 2 : 1;
    g.o_staged = clamp_high((free - (g.q_slots - 1) * g.q_tile) / (row_groups * g.o_slab), g.o_slabs);
    g.q = 0;
    g.k = g.q + g.q_slots * g.q_tile;
    g.v = g.k + k_bytes;
    g.vt = g.v + g.rings * g.v_stages * v_block_stride(c, g);
    g.raw = g.vt + vt_bytes(c, g);
    g.o = g.v + v_bytes;
    g.merge = g.o + row_groups * g.o_staged * g.o_slab;
    g.jobs = g.merge + merge_room;
    g.scales = g.jobs + kJobSlots * kJobBytes;
    g.barriers = g.scales + scales;
    g.total = g.barriers + (2 * (g.q_slots * row_groups + kv_barriers + kJobSlots + merges) + words) * 8;
    g.threads = 128 * (c.consumers + 1);
    return g;
}

// Folded families: the rows of warpgroup w in a job that starts at row0. Warpgroup 1 has the 64 rows from row0, warpgroup 0 those as far from the
// sequence's end; where the two meet, warpgroup 1 has none: it gets rows past the end.
constexpr i32 folded_row(i32 row0, i32 q_len, u32 w) {
    const i32 end = ceil_div(q_len, kRowsPerWarpgroup) * kRowsPerWarpgroup, far = end - kRowsPerWarpgroup - row0;
    return w == 0 ? far : row0 < far ? row0 : end;
}

// prefill_fp8: whether a job's description holds its multipliers: consumers would wait for them, a load's latency and divisions.
constexpr bool scales_in_jobs(const KernelConfig& c) { return is_fp8(c.family) && c.scale_block == 0; }

// Whether each consumer warp stores its own rows: where outputs are wide, or three warpgroups wait for each other. (prefill_fp8: two warpgroups at
// hd128 spilled. In 16 bits four stores for one cost 1 to 2% of a short prompt at hd64 and hd128, and gain 1 to 4% at hd256; hd192 has two slots for
// three slabs, so that a slot's last store would lie now one, now two back.)
constexpr bool stores_by_warps(const KernelConfig& c) {
    if (is_fp8(c.family)) return c.head_dim > 128 || c.consumers == 3;
    return c.ahead || (is_main(c.family) && c.head_dim > 128 && geometry(c).o_slabs % geometry(c).o_staged == 0);
}
// Rows that are stored at once.
constexpr i32 stored_rows(const KernelConfig& c) { return stores_by_warps(c) ? rows_per_warp() : kRowsPerWarpgroup; }

// Whether a job's first K and the last V of the one before are asked for before its queries. The only slot for these is free when the job
// before has multiplied its last K: behind that, its last V would come too late by a whole load.
constexpr bool queries_last(const KernelConfig& c) { return (is_fp8(c.family) || is_main(c.family)) && geometry(c).q_slots == 1; }

// Whether a job's last V is asked for before the next job is drawn: that, the decoding and the multipliers take time, and V is yet to be transposed.
// (hd128 of three warpgroups, short folded jobs, and jobs without a mask, dealt in turn, lose 1 to 3% by it.)
constexpr bool last_v_first(const KernelConfig& c) {
    const bool pays = c.family == Family::prefill_fp8 && c.mask == Mask::causal && (c.head_dim == 64 || c.consumers == 2);
    return pays || queries_last(c);
}

// KV blocks that a query tile reads, in units of tile_n keys from the sequence's start: [0, end), of which [0, unmasked) need no mask.
struct KvRange {
    i32 end;
    i32 unmasked;
};

constexpr KvRange kv_range(const KernelConfig& c, i32 row0, i32 rows, i32 q_len, i32 kv_len) {
    if (c.mask == Mask::full) return {ceil_div(kv_len, c.tile_n), kv_len / c.tile_n};
    const i32 first_sees = clamp_high(clamp_low(row0 + 1 + kv_len - q_len, 0), kv_len);            // keys of the tile's first row
    const i32 last_row = clamp_high(row0 + rows, q_len);
    const i32 last_sees = clamp_high(clamp_low(last_row + kv_len - q_len, 0), kv_len);             // and of its last
    // The block of the first row's last key is not among the unmasked, even where it ends with that key: every row has seen a key before the first of
    // those.
    return {ceil_div(last_sees, c.tile_n), first_sees > 0 ? (first_sees - 1) / c.tile_n : 0};
}

// Whether consumers may ask for a job once more: they take unmasked blocks without their maxima, and where exponentials have overflowed that way, the
// job is done again with all blocks masked, which are taken by their maxima. At hd192 nothing is gained; ragged hd256
// had no registers for it while one warp loaded and scheduled (not tried since), nor have consumers of hd256 beside multipliers.
constexpr bool repeats_jobs(const KernelConfig& c) {
    return is_main(c.family) && c.head_dim != 192 && !(c.head_dim == 256 && (c.packed || c.family == Family::prefill_widened));
}

// KV blocks that a job reads. Of a folded job the later rows see all that the earlier ones do.
constexpr KvRange job_range(const KernelConfig& c, i32 row0, i32 q_len, i32 kv_len) {
    if (is_folded(c.family)) return kv_range(c, folded_row(row0, q_len, 0), kRowsPerWarpgroup, q_len, kv_len);
    return kv_range(c, row0, geometry(c).tile_m, q_len, kv_len);
}

// Rows between the starts of a sequence's jobs.
constexpr i32 job_stride(const KernelConfig& c) { return is_folded(c.family) ? kRowsPerWarpgroup : geometry(c).tile_m; }

}  // namespace hopfill

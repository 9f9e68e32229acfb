// One-instruction kernels, written as the real ones are (no std, no CUDA header), so that NVRTC can compile them for a GPU too.
#pragma once

#include "plan/kernel_config.h"
#include "plan/params.h"
#include "sm90/fence.cuh"
#include "sm90/math.cuh"
#include "sm90/matrix.cuh"
#include "sm90/mbarrier.cuh"
#include "sm90/regs.cuh"
#include "sm90/tma.cuh"
#include "sm90/vector.cuh"
#include "sm90/wgmma.cuh"
#include "tile/inverse.cuh"

namespace hopfill::instructions {

// Bytes of a swizzle's span: 0 (none), 32, 64, 128.
constexpr u64 layout_bits(i32 span) { return u64(span == 128 ? 1 : span == 64 ? 2 : span == 32 ? 3 : 0) << 62; }

struct WgmmaCase {
    i32 n;
    Elem elem;
    bool b_mn_major;
    bool a_in_registers;
    i32 span_a, span_b;
    i32 scale_a = 1, scale_b = 1;
    // Products along K in one swizzle span (K-major); MN-major operands here are one instruction deep.
    constexpr i32 steps() const { return b_mn_major || span_b < 64 || span_a < 64 ? 1 : (span_a < span_b ? span_a : span_b) / 32; }
    constexpr i32 k() const { return 32 / elem_bytes(elem) * steps(); }
    // Columns of a TMA box: a swizzle span, or the 16 bytes of a core matrix.
    constexpr i32 columns_a() const { return (span_a == 0 ? 16 : span_a) / elem_bytes(elem); }
    constexpr i32 columns_b() const { return (span_b == 0 ? 16 : span_b) / elem_bytes(elem); }
    constexpr i32 width_a() const { return k() < columns_a() ? columns_a() : k(); }  // columns of A in memory
    constexpr i32 width_b() const {                                                  // and of B, N of them where it is MN-major
        const i32 w = b_mn_major ? n : k();
        return ceil_div(w, columns_b()) * columns_b();
    }
    constexpr i32 rows_b() const { return b_mn_major ? k() : n; }
};

struct WgmmaParams {
    TensorMap a, b;
    const u32* a_words;  // [128][steps][4]
    float* d;            // [128][n / 2], the accumulators as they lie; read when accumulating
    i32 accumulate;
};

template <WgmmaCase C>
HOPFILL_KERNEL(128)
void wgmma_kernel(HOPFILL_GRID_CONSTANT const WgmmaParams p) {
    constexpr i32 kBoxA = 64 * C.columns_a() * elem_bytes(C.elem), kBoxesA = C.width_a() / C.columns_a();
    constexpr i32 kBoxB = round_up(C.rows_b() * C.columns_b() * elem_bytes(C.elem), 1024), kBoxesB = C.width_b() / C.columns_b();
    constexpr i32 kBytesB = C.rows_b() * C.columns_b() * elem_bytes(C.elem);
    u8* const a = sm90::shared_memory();
    u8* const b = a + kBoxA * kBoxesA;
    u64* const bar = reinterpret_cast<u64*>(b + kBoxB * kBoxesB);
    const u32 thread = sm90::thread_index();
    if (thread == 0) {
        sm90::mbarrier_init(bar, 1);
        sm90::fence_mbarrier_init();
        sm90::mbarrier_arrive_expect_bytes(bar, kBoxA * kBoxesA + kBytesB * kBoxesB);
        for (i32 i = 0; i < kBoxesA; ++i) sm90::tma_load(a + i * kBoxA, &p.a, bar, {i * C.columns_a(), 0, 0, 0, 0});
        for (i32 i = 0; i < kBoxesB; ++i) sm90::tma_load(b + i * kBoxB, &p.b, bar, {i * C.columns_b(), 0, 0, 0, 0});
    }
    sm90::sync_block();
    sm90::mbarrier_wait(bar, 0);
    float d[C.n / 2];
    for (i32 i = 0; i < C.n / 2; ++i) d[i] = p.accumulate != 0 ? sm90::load_global(p.d + thread * (C.n / 2) + i) : 0.0f;
    u32 words[C.steps()][4];
    for (i32 k = 0; k < C.steps(); ++k)
        for (i32 i = 0; i < 4; ++i) words[k][i] = C.a_in_registers ? sm90::load_global(p.a_words + (thread * C.steps() + k) * 4 + i) : 0;
    const auto field = [](u64 bytes, u32 at) { return (bytes >> 4) << at; };
    // K-major: eight rows of a span follow each other; without a swizzle a core matrix is 128 bytes and the other half of K a box away.
    const u64 da = layout_bits(C.span_a) | field(sm90::shared_address(a), 0) | field(C.span_a == 0 ? kBoxA : 16, 16) |
                   field(C.span_a == 0 ? 128 : 8 * C.span_a, 32);
    u64 db = layout_bits(C.span_b) | field(sm90::shared_address(b), 0);
    if (!C.b_mn_major)
        db |= field(C.span_b == 0 ? kBoxB : 16, 16) | field(C.span_b == 0 ? 128 : 8 * C.span_b, 32);
    else if (C.span_b == 0)
        db |= field(128, 16) | field(kBoxB, 32);
    else
        db |= field(kBoxB, 16) | field(8 * C.span_b, 32);
    sm90::wgmma_fence();
#pragma unroll
    for (i32 k = 0; k < C.steps(); ++k) {
        constexpr sm90::Major kMajor = C.b_mn_major ? sm90::Major::mn : sm90::Major::k;
        const bool accumulate = k != 0 || p.accumulate != 0;
        if constexpr (C.a_in_registers)
            sm90::wgmma_rs<C.n, C.elem, kMajor, C.scale_a, C.scale_b>(d, words[k], db + 2 * k, accumulate);
        else
            sm90::wgmma_ss<C.n, C.elem, kMajor, C.scale_a, C.scale_b>(d, da + 2 * k, db + 2 * k, accumulate);
    }
    sm90::wgmma_commit();
    sm90::wgmma_wait<0>();
    sm90::pin_registers(d);
    for (i32 i = 0; i < C.n / 2; ++i) sm90::store_global(p.d + thread * (C.n / 2) + i, d[i]);
}

constexpr i32 wgmma_shared_bytes(const WgmmaCase& c) {
    return 64 * c.columns_a() * elem_bytes(c.elem) * (c.width_a() / c.columns_a()) +
           round_up(c.rows_b() * c.columns_b() * elem_bytes(c.elem), 1024) * (c.width_b() / c.columns_b()) + 64;
}

// TMA: a box in, shared memory as it then lies out as bytes; and back through a store at other coordinates.
struct TmaParams {
    TensorMap from, to;
    u8* bytes;  // what lies in shared memory after the load
    i32 box_bytes;
    i32 at[5], put[5];
};

template <i32 Threads = 128>
HOPFILL_KERNEL(Threads)
void tma_kernel(HOPFILL_GRID_CONSTANT const TmaParams p) {
    u8* const box = sm90::shared_memory();
    u64* const bar = reinterpret_cast<u64*>(box + round_up(p.box_bytes, 1024));
    const u32 thread = sm90::thread_index();
    if (thread == 0) {
        sm90::mbarrier_init(bar, 1);
        sm90::fence_mbarrier_init();
        sm90::mbarrier_arrive_expect_bytes(bar, p.box_bytes);
        sm90::tma_load(box, &p.from, bar, {p.at[0], p.at[1], p.at[2], p.at[3], p.at[4]});
    }
    sm90::sync_block();
    sm90::mbarrier_wait(bar, 0);
    for (i32 i = thread; i < p.box_bytes; i += Threads) sm90::store_global(p.bytes + i, sm90::load_shared(box + i));
    if (thread == 0) {
        sm90::tma_store(&p.to, box, {p.put[0], p.put[1], p.put[2], p.put[3], p.put[4]});
        sm90::tma_store_commit();
        sm90::tma_store_wait<0>();
    }
}

// The store alone, of bytes that threads wrote; `bytes` is what they write.
template <i32 Threads = 128>
HOPFILL_KERNEL(Threads)
void tma_store_kernel(HOPFILL_GRID_CONSTANT const TmaParams p) {
    u8* const box = sm90::shared_memory();
    const u32 thread = sm90::thread_index();
    for (i32 i = thread; i < p.box_bytes; i += Threads) sm90::store_shared(box + i, sm90::load_global(p.bytes + i));
    sm90::fence_async_shared();
    sm90::sync_block();
    if (thread == 0) {
        sm90::tma_store(&p.to, box, {p.put[0], p.put[1], p.put[2], p.put[3], p.put[4]});
        sm90::tma_store_commit();
        sm90::tma_store_wait<0>();
    }
}

// The load alone.
template <i32 Threads = 128>
HOPFILL_KERNEL(Threads)
void tma_load_kernel(HOPFILL_GRID_CONSTANT const TmaParams p) {
    u8* const box = sm90::shared_memory();
    u64* const bar = reinterpret_cast<u64*>(box + round_up(p.box_bytes, 1024));
    const u32 thread = sm90::thread_index();
    if (thread == 0) {
        sm90::mbarrier_init(bar, 1);
        sm90::fence_mbarrier_init();
        sm90::mbarrier_arrive_expect_bytes(bar, p.box_bytes);
        sm90::tma_load(box, &p.from, bar, {p.at[0], p.at[1], p.at[2], p.at[3], p.at[4]});
    }
    sm90::sync_block();
    sm90::mbarrier_wait(bar, 0);
    for (i32 i = thread; i < p.box_bytes; i += Threads) sm90::store_global(p.bytes + i, sm90::load_shared(box + i));
}

// stmatrix: lane l's four words, then the 4 x 128 bytes as they lie.
struct MatrixParams {
    const u32* words;  // [32][4]
    u16* stored;       // [4][8][8]
};

template <i32 Threads = 32>
HOPFILL_KERNEL(Threads)
void matrix_kernel(HOPFILL_GRID_CONSTANT const MatrixParams p) {
    u16* const m = reinterpret_cast<u16*>(sm90::shared_memory());
    const u32 lane = sm90::thread_index();
    u32 w[4];
    for (i32 i = 0; i < 4; ++i) w[i] = sm90::load_global(p.words + lane * 4 + i);
    sm90::store_matrix_x4(m + lane * 8, w[0], w[1], w[2], w[3]);
    sm90::sync_warp();
    for (i32 i = 0; i < 8; ++i) sm90::store_global(p.stored + lane * 8 + i, sm90::load_shared(m + lane * 8 + i));
}

// Scalar instructions: thread i's word i, i + 32, ... through one of them. Operations of several operands take the words that follow.
enum class Scalar : u8 { exp2, log2, maximum, fma, pack_bf16, pack_f16, pack_e4m3, exchange, divide, reciprocal, unpack_bf16, unpack_f16,
                         widen_bf16, widen_f16, reciprocal_approx, inverse_of };

struct ScalarParams {
    const u32* in;  // count words, and three more
    u32* out;       // count words; exchange: six a lane
    i32 count;
};

template <Scalar S>
HOPFILL_KERNEL(32)
void scalar_kernel(HOPFILL_GRID_CONSTANT const ScalarParams p) {
    const i32 lane = sm90::lane_index();
    if constexpr (S == Scalar::exchange) {
        const u32 v = sm90::load_global(p.in + lane);
        const u32 results[6] = {
            sm90::shuffle_xor(v, 5u),  sm90::shuffle_up(v, 4u),
            sm90::shuffle_from(v, 9u), sm90::warp_uniform(v + 2),
            sm90::ballot(v % 3 == 0),  static_cast<u32>(sm90::vote_any(lane == 31)) + 2 * static_cast<u32>(sm90::vote_any(lane > 40))};
        for (i32 i = 0; i < 6; ++i) sm90::store_global(p.out + lane * 6 + i, results[i]);
    } else {
        for (i32 i = lane; i < p.count; i += 32) {
            float v[4];
            for (i32 j = 0; j < 4; ++j) v[j] = sm90::bits_float(sm90::load_global(p.in + i + j));
            u32 r;
            if constexpr (S == Scalar::exp2)
                r = sm90::float_bits(sm90::exp2_approx(v[0]));
            else if constexpr (S == Scalar::log2)
                r = sm90::float_bits(sm90::log2_approx(v[0]));
            else if constexpr (S == Scalar::maximum)
                r = sm90::float_bits(sm90::max_float(v[0], v[1]));
            else if constexpr (S == Scalar::fma)
                r = sm90::float_bits(sm90::fma_float(v[0], v[1], v[2]));
            else if constexpr (S == Scalar::pack_bf16)
                r = sm90::pack2<Elem::bf16>(v[0], v[1]);
            else if constexpr (S == Scalar::pack_f16)
                r = sm90::pack2<Elem::f16>(v[0], v[1]);
            else if constexpr (S == Scalar::divide)
                r = sm90::float_bits(sm90::divide(v[0], v[1]));
            else if constexpr (S == Scalar::reciprocal)
                r = sm90::float_bits(sm90::reciprocal(v[0]));
            else if constexpr (S == Scalar::reciprocal_approx)
                r = sm90::float_bits(sm90::reciprocal_approx(v[0]));
            else if constexpr (S == Scalar::inverse_of)
                r = sm90::float_bits(hopfill::inverse_of(v[0]));
            else if constexpr (S == Scalar::unpack_bf16 || S == Scalar::unpack_f16) {
                float lo, hi;
                sm90::unpack2<S == Scalar::unpack_bf16 ? Elem::bf16 : Elem::f16>(sm90::load_global(p.in + i), lo, hi);
                r = sm90::float_bits(i / 32 % 2 == 0 ? lo : hi);
            } else if constexpr (S == Scalar::widen_bf16 || S == Scalar::widen_f16) {
                u32 lo, hi;
                sm90::unpack4_e4m3<S == Scalar::widen_bf16 ? Elem::bf16 : Elem::f16>(sm90::load_global(p.in + i), lo, hi);
                r = i / 32 % 2 == 0 ? lo : hi;
            } else
                r = sm90::pack4_e4m3(v[0], v[1], v[2], v[3]);
            sm90::store_global(p.out + i, r);
        }
    }
}

// ldmatrix.trans of the 4 x 128 bytes as they lie: lane l's four words, and what prmt picks from the first two.
struct TransposedParams {
    const u16* stored;  // [4][8][8]
    u32* words;         // [32][4]
    u32* picked;        // [32]
    u32 selector;
};

template <i32 Threads = 32>
HOPFILL_KERNEL(Threads)
void transposed_kernel(HOPFILL_GRID_CONSTANT const TransposedParams p) {
    u16* const m = reinterpret_cast<u16*>(sm90::shared_memory());
    const u32 lane = sm90::thread_index();
    for (i32 i = 0; i < 8; ++i) sm90::store_shared(m + lane * 8 + i, sm90::load_global(p.stored + lane * 8 + i));
    sm90::sync_warp();
    u32 w[4];
    sm90::load_matrix_transposed_x4(m + lane * 8, w);
    for (i32 i = 0; i < 4; ++i) sm90::store_global(p.words + lane * 4 + i, w[i]);
    sm90::store_global(p.picked + lane, sm90::permute_bytes(w[0], w[1], p.selector));
}

// What threads and warps share. Each thread has a word of `in`; `out` is told by the kernel.
struct SharedParams {
    const u32* in;
    u32* out;
};

// Additions of 1 give every thread another place: out[1 + i] counts who got i, out[0] is the sum, out[129] the largest word, as a float.
template <i32 Threads = 128>
HOPFILL_KERNEL(Threads)
void atomic_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    const u32 thread = sm90::thread_index();
    const u32 place = sm90::atomic_add(p.out, 1u);
    sm90::atomic_add(p.out + 1 + place, 1u);
    sm90::atomic_max(reinterpret_cast<float*>(p.out + 1 + Threads), sm90::bits_float(sm90::load_global(p.in + thread)));
}

// A warp waits until 32 others have each counted and stored a word, and takes another lane's.
template <i32 Threads = 64>
HOPFILL_KERNEL(Threads)
void wait_global_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    const u32 thread = sm90::thread_index();
    if (thread < 32) {
        sm90::store_global(p.out + 1 + thread, sm90::load_global(p.in + thread));
        sm90::fence_device();
        sm90::atomic_add(p.out, 1u);
    } else {
        sm90::wait_global(p.out, 32);
        sm90::fence_async_global();
        sm90::store_global(p.out + 1 + thread, sm90::load_global(p.out + 1 + (thread ^ 37)));
    }
}

// Sixteen bytes at once, in odd lanes eight, from global to shared memory, to another lane, and back.
template <i32 Threads = 32>
HOPFILL_KERNEL(Threads)
void vector_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    float* const shared = reinterpret_cast<float*>(sm90::shared_memory());
    const u32 lane = sm90::thread_index();
    u32 w[4];
    sm90::load_global16(p.in + lane * 4, w);
    if (lane % 2 == 0) {
        sm90::store_shared4(shared + lane * 4, sm90::bits_float(w[0]), sm90::bits_float(w[1]), sm90::bits_float(w[2]), sm90::bits_float(w[3]));
    } else {
        for (i32 i = 0; i < 4; i += 2) {
            const u32 half[2] = {w[i], w[i + 1]};
            sm90::store_shared8(shared + lane * 4 + i, half);
        }
    }
    sm90::sync_warp();
    float v[4];
    sm90::load_shared4(shared + (lane ^ 9) * 4, v);
    for (i32 i = 0; i < 4; ++i) w[i] = sm90::float_bits(v[i]);
    if (lane % 2 == 0) {
        sm90::store_global16(p.out + lane * 4, w);
    } else {
        for (i32 i = 0; i < 4; i += 2) {
            const u32 half[2] = {w[i], w[i + 1]};
            sm90::store_global8(p.out + lane * 4 + i, half);
        }
    }
}

// Words of 16 bytes through shared memory, another lane's.
template <i32 Threads = 32>
HOPFILL_KERNEL(Threads)
void shared16_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    u8* const shared = sm90::shared_memory();
    const u32 lane = sm90::thread_index();
    u32 w[4];
    sm90::load_global16(p.in + lane * 4, w);
    sm90::store_shared16(shared + lane * 16, w);
    sm90::sync_warp();
    sm90::load_shared16(shared + (lane ^ 5) * 16, w);
    sm90::store_global16(p.out + lane * 4, w);
}

// How many lanes are elected, whether twice the same, and whether the lane's own answer agrees.
template <i32 Threads = 32>
HOPFILL_KERNEL(Threads)
void elect_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    const bool mine = sm90::elect_one();
    const u32 first = sm90::ballot(mine), second = sm90::ballot(sm90::elect_one());
    const bool one = first != 0 && (first & (first - 1)) == 0, own = mine == (first >> sm90::lane_index() == 1);
    sm90::store_global(p.out + sm90::lane_index(), static_cast<u32>(one) + 2 * static_cast<u32>(first == second) + 4 * static_cast<u32>(own));
}

// One warpgroup hands six rounds of words to two others through a ring of two slots, which those add up; they then swap theirs at named barriers.
// Registers move from the first to the others, as in the real kernels.
template <i32 Threads = 384>
HOPFILL_KERNEL(Threads)
void handover_kernel(HOPFILL_GRID_CONSTANT const SharedParams p) {
    u32* const slots = reinterpret_cast<u32*>(sm90::shared_memory());
    u32* const swap = slots + 256;
    u64* const full = reinterpret_cast<u64*>(swap + 256);
    u64* const empty = full + 2;
    const u32 thread = sm90::thread_index(), warp = sm90::warp_uniform(thread / 32);
    constexpr u32 kRounds = 6;
    if (thread == 0) {
        for (i32 i = 0; i < 2; ++i) {
            sm90::mbarrier_init(full + i, 4);
            sm90::mbarrier_init(empty + i, 8);
        }
        sm90::fence_mbarrier_init();
    }
    sm90::sync_block();
    if (warp < 4) {
        sm90::give_registers<40>();
        for (u32 round = 0; round < kRounds; ++round) {
            const u32 slot = round % 2, phase = round / 2 % 2;
            sm90::mbarrier_wait(empty + slot, phase ^ 1);
            sm90::store_shared(slots + slot * 128 + thread, sm90::load_global(p.in + thread) + round);
            sm90::sync_warp();
            if (sm90::lane_index() == 0) sm90::mbarrier_arrive(full + slot);
        }
        return;
    }
    sm90::take_registers<232>();
    const u32 own = thread - 128, other = own ^ 128;
    u32 sum = 0;
    for (u32 round = 0; round < kRounds; ++round) {
        const u32 slot = round % 2, phase = round / 2 % 2;
        if (!sm90::mbarrier_test(full + slot, phase)) {
            while (!sm90::mbarrier_try_wait(full + slot, phase)) {
            }
        }
        sum = sum * 31 + sm90::load_shared(slots + slot * 128 + (thread * 5 + round) % 128);
        sm90::sync_warp();
        if (sm90::lane_index() == 0) sm90::mbarrier_arrive(empty + slot);
    }
    sm90::store_shared(swap + own, sum);
    // Warpgroup 1 says that its words are there and goes on; warpgroup 2 waits for them. Then the other way round.
    if (own < 128)
        sm90::named_barrier_arrive(1, 256);
    else
        sm90::named_barrier_sync(1, 256);
    u32 theirs = own < 128 ? 0 : sm90::load_shared(swap + other);
    if (own < 128)
        sm90::named_barrier_sync(2, 256);
    else
        sm90::named_barrier_arrive(2, 256);
    if (own < 128) theirs = sm90::load_shared(swap + other);
    sm90::store_global(p.out + own, sum ^ theirs);
}

}  // namespace hopfill::instructions

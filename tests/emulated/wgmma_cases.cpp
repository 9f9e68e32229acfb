// Cases of wgmma: every shape, type, operand place, major-ness and swizzle on small integers, which no order of summation rounds; and sums that do.
#include <fmt/format.h>

#include <cmath>

#include "case_builder.h"
#include "instructions.cuh"
#include "kernels/sm90/wgmma_shapes.cuh"

namespace hopfill::testing {
namespace {

using instructions::WgmmaCase;

// Both operands' values, [64][width_a] and [rows_b][width_b], and the accumulators before, [64][n].
struct Operands {
    std::vector<float> a, b, d;
};

template <WgmmaCase C>
InstructionCase wgmma_case(const std::string& what, const Operands& values, bool accumulate) {
    constexpr std::size_t kN = C.n, kWidthA = C.width_a(), kBytes = elem_bytes(C.elem);
    InstructionCase c;
    c.name = fmt::format("{} {} n{} {} B {}-major swizzles {} {}{}", what, text_of(C.elem), C.n, C.a_in_registers ? "RS" : "SS",
                         C.b_mn_major ? "MN" : "K", C.span_a, C.span_b, accumulate ? " accumulate" : "");
    const bool scaled = C.scale_a != 1 || C.scale_b != 1;
    if (scaled) c.name += fmt::format(" scales {} {}", C.scale_a, C.scale_b);
    c.kernel =
        fmt::format("hopfill::instructions::wgmma_kernel<hopfill::instructions::WgmmaCase{{{}, hopfill::Elem::{}, {}, {}, {}, {}{}}}>", C.n,
                    text_of(C.elem), C.b_mn_major, C.a_in_registers, C.span_a, C.span_b, scaled ? fmt::format(", {}, {}", C.scale_a, C.scale_b) : "");
    c.shared_bytes = instructions::wgmma_shared_bytes(C);
    const std::vector<u8> a = encode_all(values.a, C.elem);
    // Accumulator i of thread t: PTX ISA, figure of the wgmma accumulator fragment D.
    std::vector<float> d(128 * kN / 2);
    for (std::size_t t = 0; t < 128; ++t)
        for (std::size_t i = 0; i < kN / 2; ++i)
            d[t * kN / 2 + i] = values.d[(t / 32 * 16 + t % 32 / 4 + (i % 4 / 2) * 8) * kN + i / 4 * 8 + t % 4 * 2 + i % 2];
    // Fragment A: words 0 to 3 are (row, k low), (row + 8, k low), (row, k high), (row + 8, k high).
    constexpr std::size_t kPerWord = 4 / kBytes, kStep = 32 / kBytes, kSteps = C.steps();
    std::vector<u32> words(128 * kSteps * 4);
    for (std::size_t t = 0; t < 128; ++t)
        for (std::size_t s = 0; s < kSteps; ++s)
            for (std::size_t w = 0; w < 4; ++w) {
                const std::size_t row = t / 32 * 16 + t % 32 / 4 + (w == 1 || w == 3 ? 8 : 0);
                const std::size_t k = s * kStep + t % 4 * kPerWord + (w >= 2 ? kStep / 2 : 0);
                std::memcpy(&words[(t * kSteps + s) * 4 + w], &a[(row * kWidthA + k) * kBytes], 4);
            }
    c.buffers = {{"a", a}, {"b", encode_all(values.b, C.elem)}, {"words", bytes_of(words)}, {"d", bytes_of(d), true}};
    c.params = [accumulate](const Place& at) -> Result<std::vector<u8>> {
        const auto a_map = at.encode(spec_2d(at.buffers[0], C.width_a(), 64, C.columns_a(), 64, swizzle_of(C.span_a), C.elem));
        if (!a_map) return a_map.error();
        const auto b_map = at.encode(spec_2d(at.buffers[1], C.width_b(), C.rows_b(), C.columns_b(), C.rows_b(), swizzle_of(C.span_b), C.elem));
        if (!b_map) return b_map.error();
        return bytes_of(
            instructions::WgmmaParams{*a_map, *b_map, static_cast<const u32*>(at.buffers[2]), static_cast<float*>(at.buffers[3]), accumulate});
    };
    c.emulated = [](const void* p) { instructions::wgmma_kernel<C>(*static_cast<const instructions::WgmmaParams*>(p)); };
    return c;
}

using Cases = std::vector<InstructionCase>;

// No sum of small integers rounds, in any order.
template <WgmmaCase C>
void add_integers(Cases& cases) {
    const Operands values{small_integers(64 * C.width_a(), 1), small_integers(static_cast<std::size_t>(C.rows_b()) * C.width_b(), 2),
                          small_integers(64 * C.n, 3)};
    for (const bool accumulate : {false, true}) cases.push_back(wgmma_case<C>(C.scale_a + C.scale_b == 2 ? "wgmma" : "scale", values, accumulate));
}

template <i32 N>
void add_width(Cases& cases) {
    add_integers<WgmmaCase{N, Elem::bf16, false, false, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::bf16, false, true, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::bf16, true, false, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::bf16, true, true, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::f16, false, false, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::f16, false, true, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::f16, true, false, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::f16, true, true, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::e4m3, false, false, 128, 128}>(cases);
    add_integers<WgmmaCase{N, Elem::e4m3, false, true, 128, 128}>(cases);
}

template <Elem E, i32 SpanA, i32... SpanB>
void add_swizzles_of_b(Cases& cases, std::integer_sequence<i32, SpanB...>) {
    (add_integers<WgmmaCase{64, E, false, false, SpanA, SpanB}>(cases), ...);
}
template <Elem E, i32... SpanA>
void add_swizzles(Cases& cases, std::integer_sequence<i32, SpanA...> spans) {
    (add_swizzles_of_b<E, SpanA>(cases, spans), ...);
}
template <Elem E, i32... SpanB>
void add_transposed_swizzles(Cases& cases, std::integer_sequence<i32, SpanB...>) {
    (add_integers<WgmmaCase{96, E, true, true, 128, SpanB}>(cases), ...);
}

// A random finite value with an exponent in [low, high].
float spread(emulator::Random& random, int low, int high) {
    const float mantissa = 1 + static_cast<float>(random.below(1u << 23)) * 0x1p-23f;
    return std::ldexp(random.one_in(2) ? mantissa : -mantissa, low + static_cast<int>(random.below(static_cast<u32>(high - low + 1))));
}

// Sums of terms far apart: which bits are kept, and whether what falls off is cut or rounded.
template <WgmmaCase C>
void add_sums(Cases& cases) {
    constexpr std::size_t kWidthA = C.width_a(), kWidthB = C.width_b(), kRowsB = C.rows_b(), kN = C.n;
    const Operands zero{std::vector<float>(64 * kWidthA), std::vector<float>(kRowsB * kWidthB), std::vector<float>(64 * kN)};
    emulator::Random random(11);

    // Row m of A is 1, 0, 1, 0 ... and 2^-(m / 8) at an odd place; B gives both a mantissa and a sign by column: two terms, m / 8 + 0 to 8 apart.
    Operands ladder = zero;
    for (std::size_t m = 0; m < 64; ++m) {
        ladder.a[m * kWidthA] = 1;
        ladder.a[m * kWidthA + 1] = std::ldexp(1.0f, -static_cast<int>(m / 8));
        ladder.a[m * kWidthA + 2 + m % 8] = 0.5f;
    }
    for (std::size_t n = 0; n < kN; ++n) {
        ladder.b[n * kWidthB] = n % 2 == 0 ? 1.0f : -1.0f;
        ladder.b[n * kWidthB + 1] = (n % 4 < 2 ? 1.0f : -1.0f) * (1 + static_cast<float>(n % 8) / 8) * 0x1p-5f;
        for (std::size_t k = 2; k < 10; ++k) ladder.b[n * kWidthB + k] = (n / 8 % 2 == 0 ? 1.0f : -1.0f) * std::ldexp(1.0f, -static_cast<int>(k) + 4);
    }
    cases.push_back(wgmma_case<C>("sums ladder", ladder, false));

    // Nothing is added: does the accumulator lose bits by going through?
    Operands through = zero;
    for (float& x : through.d) x = spread(random, -20, 20);
    cases.push_back(wgmma_case<C>("sums through", through, true));

    // Zeros of either sign.
    Operands zeros = zero;
    for (std::size_t m = 0; m < 64; ++m) {
        for (std::size_t k = 0; k < kWidthA; ++k) zeros.a[m * kWidthA + k] = m % 4 < 2 ? 0.0f : -0.0f;
        for (std::size_t n = 0; n < kN; ++n) zeros.d[m * kN + n] = m % 2 == 0 ? 0.0f : -0.0f;
    }
    for (std::size_t n = 0; n < kN; ++n)
        for (std::size_t k = 0; k < kWidthB; ++k) zeros.b[n * kWidthB + k] = n % 2 == 0 ? 1.0f : -1.0f;
    cases.push_back(wgmma_case<C>("sums zeros", zeros, true));

    // Terms and accumulators of exponents that spread the more the further down the row.
    for (int round = 0; round < 3; ++round) {
        Operands wide = zero;
        const int most = C.elem == Elem::e4m3 ? 6 : 12;
        for (std::size_t m = 0; m < 64; ++m) {
            const int low = -static_cast<int>(m) * most / 63;
            for (std::size_t k = 0; k < kWidthA; ++k) wide.a[m * kWidthA + k] = spread(random, low, 0);
            for (std::size_t n = 0; n < kN; ++n) wide.d[m * kN + n] = round == 2 ? spread(random, 4, 14) : spread(random, 2 * low, 4);
        }
        for (std::size_t n = 0; n < kN; ++n) {
            const int low = -static_cast<int>(n) * most / static_cast<int>(kN - 1);
            for (std::size_t k = 0; k < kWidthB; ++k) wide.b[n * kWidthB + k] = spread(random, low, 0);
        }
        cases.push_back(wgmma_case<C>(fmt::format("sums wide-{}", round), wide, round != 0));
    }

    // A large term that cancels against another or the accumulator, small ones left.
    Operands cancel = zero;
    for (std::size_t m = 0; m < 64; ++m) {
        for (std::size_t k = 0; k < kWidthA; ++k) cancel.a[m * kWidthA + k] = spread(random, -6, -3);
        const std::size_t first = m % 8, second = 8 + m / 8 % 8;
        cancel.a[m * kWidthA + first] = 8;
        cancel.a[m * kWidthA + second] = m % 3 == 0 ? 0.0f : -8.0f;
        for (std::size_t n = 0; n < kN; ++n) cancel.d[m * kN + n] = m % 3 == 0 ? -8.0f : spread(random, -12, -8);
    }
    for (std::size_t n = 0; n < kN; ++n)
        for (std::size_t k = 0; k < kWidthB; ++k) cancel.b[n * kWidthB + k] = k < 16 && n < kN / 2 ? 1.0f : spread(random, -3, 0);
    cases.push_back(wgmma_case<C>("sums cancel", cancel, true));

    // Subnormal and largest elements, infinities and NaNs.
    Operands extreme = zero;
    const float least = C.elem == Elem::e4m3 ? 0x1p-9f : C.elem == Elem::f16 ? 0x1p-24f : 0x1p-133f;
    const float most = C.elem == Elem::e4m3 ? 448.0f : C.elem == Elem::f16 ? 65504.0f : 3.3895314e38f;
    const float specials[8] = {least, 3 * least, most, -most, 1.5f, 0.0f, C.elem == Elem::e4m3 ? 2.0f : INFINITY, NAN};
    for (std::size_t m = 0; m < 64; ++m)
        for (std::size_t k = 0; k < kWidthA; ++k)
            extreme.a[m * kWidthA + k] = k == m % 16 ? specials[m / 8] : k == (m + 5) % 16 ? specials[m % 6] : 0.0f;
    for (std::size_t n = 0; n < kN; ++n)
        for (std::size_t k = 0; k < kWidthB; ++k) extreme.b[n * kWidthB + k] = n < 8 ? specials[n] : n % 2 == 0 ? 1.0f : least;
    cases.push_back(wgmma_case<C>("sums extreme", extreme, false));
}

}  // namespace

void add_wgmma_cases(Cases& cases) {
#define HOPFILL_ADD(n) add_width<n>(cases);
    HOPFILL_WGMMA_FOR_EACH_N(HOPFILL_ADD)
#undef HOPFILL_ADD
    add_integers<WgmmaCase{64, Elem::bf16, false, false, 128, 128, -1, 1}>(cases);
    add_integers<WgmmaCase{64, Elem::f16, true, true, 128, 128, 1, -1}>(cases);
    add_integers<WgmmaCase{64, Elem::e4m3, false, true, 128, 128, -1, -1}>(cases);
    add_integers<WgmmaCase{64, Elem::e4m3, false, false, 128, 128, -1, 1}>(cases);
    using Spans = std::integer_sequence<i32, 0, 32, 64, 128>;
    add_swizzles<Elem::bf16>(cases, Spans());
    add_swizzles<Elem::e4m3>(cases, Spans());
    add_transposed_swizzles<Elem::bf16>(cases, std::integer_sequence<i32, 0, 32, 64>());
    add_transposed_swizzles<Elem::f16>(cases, std::integer_sequence<i32, 0, 32, 64>());
}

// One instruction (a span of 32 bytes), and four that follow each other (128).
void add_sum_cases(Cases& cases) {
    add_sums<WgmmaCase{16, Elem::bf16, false, false, 32, 32}>(cases);
    add_sums<WgmmaCase{16, Elem::f16, false, false, 32, 32}>(cases);
    add_sums<WgmmaCase{16, Elem::e4m3, false, false, 32, 32}>(cases);
    add_sums<WgmmaCase{16, Elem::bf16, false, true, 128, 128}>(cases);
    add_sums<WgmmaCase{16, Elem::e4m3, false, true, 128, 128}>(cases);
}

}  // namespace hopfill::testing

// Cases of TMA, stmatrix, and scalar instructions.
#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "case_builder.h"
#include "instructions.cuh"
#include "plan/geometry.h"
#include "plan/kernel_table.h"

namespace hopfill::testing {
namespace {

using Cases = std::vector<InstructionCase>;
using Corner = std::array<i32, 5>;

enum class Way { both, load, store };

template <Way W>
void run_tma(const void* p) {
    const auto& params = *static_cast<const instructions::TmaParams*>(p);
    if constexpr (W == Way::both)
        instructions::tma_kernel<128>(params);
    else if constexpr (W == Way::load)
        instructions::tma_load_kernel<128>(params);
    else
        instructions::tma_store_kernel<128>(params);
}

// A box in, out again, or both; `shape` describes both tensors, of `bytes` bytes each.
template <Way W = Way::both>
void add_tma(Cases& cases, const std::string& what, TensorMapSpec shape, std::size_t bytes, const Corner& at, const Corner& put) {
    InstructionCase c;
    c.name = fmt::format("tma {} {} swizzle {} box {} at {}", what, text_of(shape.elem), static_cast<int>(shape.swizzle), fmt::join(shape.box, "x"),
                         fmt::join(at, ","));
    c.kernel = fmt::format("hopfill::instructions::tma{}_kernel<128>", W == Way::both ? "" : W == Way::load ? "_load" : "_store");
    std::size_t box = static_cast<std::size_t>(elem_bytes(shape.elem));
    for (std::uint32_t n : shape.box) box *= n;
    c.shared_bytes = round_up(static_cast<i32>(box), 1024) + 64;
    std::vector<u8> from(bytes), written(box, 0x7d);
    // No bytes that make NaNs of floats.
    for (std::size_t i = 0; i < bytes; ++i) from[i] = static_cast<u8>((i * 7 + i / 251) % 113 + 1);
    if (W == Way::store)
        for (std::size_t i = 0; i < box; ++i) written[i] = static_cast<u8>((i * 5 + i / 241) % 109 + 1);
    c.buffers = {{"from", from}, {"to", std::vector<u8>(bytes, 0x7e), W != Way::load}, {"bytes", written, W != Way::store}};
    c.params = [shape, at, put, box](const Place& place) -> Result<std::vector<u8>> {
        TensorMapSpec from_shape = shape, to_shape = shape;
        from_shape.base = place.buffers[0];
        to_shape.base = place.buffers[1];
        const auto from_map = place.encode(from_shape), to_map = place.encode(to_shape);
        if (!from_map) return from_map.error();
        if (!to_map) return to_map.error();
        instructions::TmaParams p{*from_map, *to_map, static_cast<u8*>(place.buffers[2]), static_cast<i32>(box), {}, {}};
        for (std::size_t i = 0; i < 5; ++i) {
            p.at[i] = at[i];
            p.put[i] = put[i];
        }
        return bytes_of(p);
    };
    c.emulated = run_tma<W>;
    cases.push_back(std::move(c));
}

// What the kernels load and store: a slab of 64 columns (of 16 bits) by the rows of a tile, of tensors whose tails hang over. Every box of the
// table's kernels is one of them, but for outputs that warps store (16 rows, as add_ragged's are), and one more of as many rows as a box can have.
void add_slabs(Cases& cases) {
    std::vector<std::pair<Elem, i32>> boxes{{Elem::bf16, 64}, {Elem::bf16, 96},  {Elem::f16, 128},
                                            {Elem::bf16, 256}, {Elem::e4m3, 64}, {Elem::e4m3, 128}};
    for (const KernelConfig& k : kKernelTable.row)
        for (const auto& box : {std::pair{k.elem, k.tile_n}, {k.elem, kRowsPerWarpgroup}, {k.out, stored_rows(k)}})
            if (std::ranges::find(boxes, box) == boxes.end()) boxes.push_back(box);
    for (const auto& [elem, rows] : boxes) {
        const std::uint64_t element = static_cast<std::uint64_t>(elem_bytes(elem)), columns = 144 / element, heads = 3, seq = 150, batch = 2;
        const std::uint64_t head = columns * element, row = heads * head;
        const TensorMapSpec shape{elem,
                                  Swizzle::b128,
                                  nullptr,
                                  {columns, heads, seq, batch, 1},
                                  {head, row, seq * row, 16},
                                  {static_cast<std::uint32_t>(128 / element), 1, static_cast<std::uint32_t>(rows), 1, 1}};
        const i32 slab = static_cast<i32>(128 / element);
        for (const Corner& at : {Corner{0, 1, 64, 1, 0}, Corner{slab, 2, 128, 0, 0}, Corner{0, 0, 150, 1, 0}})
            add_tma(cases, "slab", shape, batch * seq * row, at, {at[0], at[1], at[2] == 64 ? 0 : at[2], 1, 0});
    }
}

// plan/tensor_map.h's ragged view of 37 rows: {start, length} of the sequence, and the row in it that the box begins with.
void add_ragged(Cases& cases) {
    for (const Elem elem : {Elem::bf16, Elem::f16, Elem::e4m3}) {
        const std::uint64_t element = static_cast<std::uint64_t>(elem_bytes(elem)), row = 256;
        const TensorMapSpec shape{elem,
                                  Swizzle::b128,
                                  nullptr,
                                  {128 / element, 2, kRaggedRows, kRaggedOuter, kRaggedOuter},
                                  {128, row, row, (std::uint64_t{1} << 35) - row},
                                  {static_cast<std::uint32_t>(128 / element), 1, 16, 1, 1}};
        const struct { i32 start, length, row0; } places[] = {{10, 19, 8}, {0, 37, 0}, {0, 1, 0}, {36, 1, 0}, {5, 32, 16}, {7, 16, 16}, {20, 0, 0}};
        for (const auto& p : places) {
            const Corner at{0, 1, (1 << 30) - p.length + p.row0, p.start + p.length, 1 << 30};
            add_tma(cases, fmt::format("ragged {}+{}", p.start, p.length), shape, 37 * row, at, {0, 0, at[2], at[3], at[4]});
        }
    }
}

// Boxes that hang over each edge of a tensor of five dimensions, and coordinates that are no multiples of 16 bytes.
void add_edges(Cases& cases) {
    const TensorMapSpec shape{Elem::f16, Swizzle::none, nullptr, {24, 3, 5, 2, 2}, {48, 144, 720, 1440}, {16, 2, 4, 2, 1}};
    for (const Corner& at : {Corner{0, 0, 0, 0, 0}, Corner{16, 2, 3, 1, 1}, Corner{24, 0, 0, 0, 0}, Corner{8, 3, 0, 0, 0}, Corner{0, 0, 0, 0, 2},
                             Corner{-8, 0, 0, 0, 0}, Corner{-16, 0, 0, 0, 0}, Corner{-1, 0, 0, 0, 0}, Corner{4, 0, 0, 0, 0}, Corner{5, 0, 0, 0, 0},
                             Corner{0, -1, 0, 0, 0}, Corner{0, 0, -1, 0, 0}, Corner{0, 0, 0, -1, 0}, Corner{0, 0, 0, 0, -1},
                             Corner{-8, -1, -2, -1, -1}, Corner{8, 1, -1, 1, 2}, Corner{0, -2, 0, 0, 0}}) {
        add_tma<Way::load>(cases, "load", shape, 2880, at, at);
        add_tma<Way::store>(cases, "store", shape, 2880, at, at);
    }
}

void add_stmatrix(Cases& cases) {
    InstructionCase c;
    c.name = "stmatrix x4";
    c.kernel = "hopfill::instructions::matrix_kernel<32>";
    c.threads = 32;
    c.shared_bytes = 512;
    std::vector<u32> words(128);
    for (u32 i = 0; i < words.size(); ++i) words[i] = i * 0x00010003u + 0x01000001u;
    c.buffers = {{"words", bytes_of(words)}, {"stored", std::vector<u8>(512), true}};
    c.params = [](const Place& at) -> Result<std::vector<u8>> {
        return bytes_of(instructions::MatrixParams{static_cast<const u32*>(at.buffers[0]), static_cast<u16*>(at.buffers[1])});
    };
    c.emulated = [](const void* p) { instructions::matrix_kernel<32>(*static_cast<const instructions::MatrixParams*>(p)); };
    cases.push_back(std::move(c));
}

void add_ldmatrix(Cases& cases, u32 selector) {
    InstructionCase c;
    c.name = fmt::format("ldmatrix x4 trans, prmt {:04x}", selector);
    c.kernel = "hopfill::instructions::transposed_kernel<32>";
    c.threads = 32;
    c.shared_bytes = 512;
    std::vector<u16> stored(256);
    for (u32 i = 0; i < stored.size(); ++i) stored[i] = static_cast<u16>(i * 259 + 7);
    c.buffers = {{"stored", bytes_of(stored)}, {"words", std::vector<u8>(512), true}, {"picked", std::vector<u8>(128), true}};
    c.params = [selector](const Place& at) -> Result<std::vector<u8>> {
        return bytes_of(instructions::TransposedParams{static_cast<const u16*>(at.buffers[0]), static_cast<u32*>(at.buffers[1]),
                                                       static_cast<u32*>(at.buffers[2]), selector});
    };
    c.emulated = [](const void* p) { instructions::transposed_kernel<32>(*static_cast<const instructions::TransposedParams*>(p)); };
    cases.push_back(std::move(c));
}

using instructions::Scalar;

template <Scalar S>
void add_scalar(Cases& cases, const char* name, const char* constant, const std::vector<float>& in, Judge judge) {
    InstructionCase c;
    c.name = name;
    c.kernel = fmt::format("hopfill::instructions::scalar_kernel<hopfill::instructions::Scalar::{}>", constant);
    c.threads = 32;
    const std::size_t count = in.size();
    std::vector<float> padded = in;
    padded.insert(padded.end(), in.begin(), in.begin() + 3);
    c.buffers = {{"in", bytes_of(padded)}, {"out", std::vector<u8>(4 * (S == Scalar::exchange ? 6 * 32 : count)), true}};
    c.judge = judge;
    c.params = [count](const Place& at) -> Result<std::vector<u8>> {
        return bytes_of(
            instructions::ScalarParams{static_cast<const u32*>(at.buffers[0]), static_cast<u32*>(at.buffers[1]), static_cast<i32>(count)});
    };
    c.emulated = [](const void* p) { instructions::scalar_kernel<S>(*static_cast<const instructions::ScalarParams*>(p)); };
    cases.push_back(std::move(c));
}

float uniform(emulator::Random& random, float low, float high) { return low + (high - low) * static_cast<float>(random.below(1u << 24)) * 0x1p-24f; }

// Every value of a narrow format that is even and the ties between neighbours, and what lies just beside a tie; largest values, overflow, NaNs.
std::vector<float> values_to_round(Elem e) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> v{0.0f,
                         -0.0f,
                         inf,
                         -inf,
                         nan,
                         1.0f,
                         -1.0f,
                         3.4028235e38f,
                         -3.4028235e38f,
                         1e-45f,
                         -1e-45f,
                         65504.0f,
                         65519.996f,
                         65520.0f,
                         65536.0f,
                         -65520.0f,
                         448.0f,
                         463.99f,
                         464.0f,
                         465.0f,
                         480.0f,
                         -500.0f,
                         1e9f,
                         0x1p-9f,
                         0x1p-10f,
                         0x1.000002p-10f,
                         0x3p-10f,
                         0x5p-10f,
                         0x1p-24f,
                         0x1p-25f,
                         0x1.000002p-25f,
                         0x3p-25f,
                         0x1p-14f,
                         0x1.ffcp-15f,
                         3.3895314e38f,
                         3.3961775e38f,
                         3.39617744e38f};
    const int fraction = e == Elem::bf16 ? 7 : e == Elem::f16 ? 10 : 3;
    emulator::Random random(static_cast<std::uint64_t>(e) + 20);
    while (v.size() < 1021) {
        const int exponent = e == Elem::bf16  ? static_cast<int>(random.below(250)) - 125
                             : e == Elem::f16 ? static_cast<int>(random.below(42)) - 26
                                              : static_cast<int>(random.below(20)) - 11;
        const u32 kept = random.below(1u << fraction) << (23 - fraction), half = 1u << (22 - fraction);
        const u32 tails[5] = {0, half, half - 1, half + 1, random.below(2 * half)};
        const float x = std::ldexp(1 + static_cast<float>(kept | tails[random.below(5)]) * 0x1p-23f, exponent);
        v.push_back(random.one_in(2) ? x : -x);
    }
    return v;
}

}  // namespace

void add_tma_cases(Cases& cases) {
    for (const Elem elem : {Elem::bf16, Elem::e4m3, Elem::f32})
        for (const i32 span : {0, 32, 64, 128}) {
            const i32 columns = (span == 0 ? 64 : span) / elem_bytes(elem);
            const TensorMapSpec shape = spec_2d(nullptr, static_cast<std::uint64_t>(columns), 24, columns, 24, swizzle_of(span), elem);
            add_tma(cases, "swizzle", shape, static_cast<std::size_t>(columns * 24 * elem_bytes(elem)), {}, {});
        }
    add_slabs(cases);
    add_ragged(cases);
    add_edges(cases);
    add_stmatrix(cases);
    for (const u32 selector : {0x6420u, 0x7531u, 0x0246u}) add_ldmatrix(cases, selector);
}

void add_scalar_cases(Cases& cases) {
    const float inf = std::numeric_limits<float>::infinity(), nan = std::numeric_limits<float>::quiet_NaN();
    emulator::Random random(31);
    std::vector<float> integers,
        exponents{inf, -inf, nan, 0.0f, -0.0f, 1e-40f, -126.5f, -127.0f, -149.0f, -150.5f, 127.99999f, 128.0f, 1e30f, -1e30f};
    for (int i = -160; i <= 140; ++i) integers.push_back(static_cast<float>(i));
    while (exponents.size() < 300) exponents.push_back(exponents.size() % 2 == 0 ? uniform(random, -126, 127) : uniform(random, -2, 0));
    std::vector<float> arguments{inf, -inf, nan, 0.0f, -0.0f, -1.0f, 1e-40f, 1.17549435e-38f, 1.0f, 0.99999994f, 1.0000001f, 3.4028235e38f};
    for (int i = -126; i < 128; i += 5) arguments.push_back(std::ldexp(1.0f, i));
    while (arguments.size() < 300)
        arguments.push_back(arguments.size() % 2 == 0 ? uniform(random, 0.25f, 4.0f)
                                                      : std::ldexp(uniform(random, 1, 2), static_cast<int>(random.below(200)) - 100));
    // PTX ISA: ex2.approx is within 2^-22 relative, lg2.approx within 2^-22 of results near 0 and 2^-22 relative else. The emulator rounds correctly.
    add_scalar<Scalar::exp2>(cases, "ex2 integers", "exp2", integers, {});
    add_scalar<Scalar::exp2>(cases, "ex2 fractions", "exp2", exponents, {false, 0, 0x1p-21});
    add_scalar<Scalar::log2>(cases, "lg2 values", "log2", arguments, {false, 0x1p-21, 0x1p-21});
    // Within a unit in the last place.
    add_scalar<Scalar::reciprocal_approx>(cases, "rcp values", "reciprocal_approx", arguments, {false, 0, 0x1p-22});
    add_scalar<Scalar::inverse_of>(cases, "inverse of values", "inverse_of", arguments, {});
    std::vector<float> pairs{nan, 1.0f, nan, nan, inf, -inf, 0.0f, -0.0f, 0.0f, 1e-40f, -1e-40f, 3e38f, 3e38f, -3e38f, inf, 0.0f, -inf, inf, 1.0f};
    while (pairs.size() < 256) pairs.push_back(uniform(random, -2, 2));
    add_scalar<Scalar::maximum>(cases, "max values", "maximum", pairs, {});
    add_scalar<Scalar::fma>(cases, "fma values", "fma", pairs, {});
    add_scalar<Scalar::divide>(cases, "divide values", "divide", pairs, {});
    add_scalar<Scalar::reciprocal>(cases, "divide one by values", "reciprocal", pairs, {});
    std::vector<float> halves = values_to_round(Elem::f16);
    for (float& x : halves) x = emulator::from_bits(emulator::to_f16(x) | static_cast<u32>(random.next()) << 16);
    add_scalar<Scalar::unpack_bf16>(cases, "unpack bf16x2", "unpack_bf16", halves, {});
    add_scalar<Scalar::unpack_f16>(cases, "unpack f16x2", "unpack_f16", halves, {});
    add_scalar<Scalar::pack_bf16>(cases, "cvt bf16x2", "pack_bf16", values_to_round(Elem::bf16), {});
    add_scalar<Scalar::pack_f16>(cases, "cvt f16x2", "pack_f16", values_to_round(Elem::f16), {});
    add_scalar<Scalar::pack_e4m3>(cases, "cvt e4m3x2", "pack_e4m3", values_to_round(Elem::e4m3), {});
    // Every byte in every place, each word twice: once for its low half, once for its high one.
    std::vector<float> bytes;
    for (u32 i = 0; i < 512; ++i) bytes.push_back(emulator::from_bits((i / 64 * 32 + i % 32) * 0x01010101u + 0x6b3500u));
    add_scalar<Scalar::widen_bf16>(cases, "widen e4m3 to bf16", "widen_bf16", bytes, {});
    add_scalar<Scalar::widen_f16>(cases, "widen e4m3 to f16", "widen_f16", bytes, {});
    std::vector<float> lanes(32);
    for (u32 i = 0; i < 32; ++i) lanes[i] = emulator::from_bits(i * 3 + 7);
    add_scalar<Scalar::exchange>(cases, "exchange shuffles and votes", "exchange", lanes, {});
}

}  // namespace hopfill::testing

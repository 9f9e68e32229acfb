// Instruction by instruction: the emulator against what the PTX ISA's figures say, worked out here element by element.
#include <algorithm>
#include <cstring>

#include "emulator/formats.h"
#include "emulator/random.h"
#include "instructions.cuh"
#include "kernels.h"
#include "sm90/vector.cuh"

namespace hopfill::testing {
namespace {

using instructions::WgmmaCase;

std::vector<u8> encode_all(const std::vector<float>& v, Elem e) {
    std::vector<u8> out(v.size() * static_cast<std::size_t>(elem_bytes(e)));
    for (std::size_t i = 0; i < v.size(); ++i) {
        if (e == Elem::e4m3) {
            out[i] = emulator::to_e4m3(v[i]);
        } else {
            const u16 bits = e == Elem::bf16 ? emulator::to_bf16(v[i]) : emulator::to_f16(v[i]);
            std::memcpy(&out[2 * i], &bits, 2);
        }
    }
    return out;
}

std::vector<float> small_integers(std::size_t n, std::uint64_t seed) {
    emulator::Random random(seed);
    std::vector<float> v(n);
    for (float& x : v) x = static_cast<float>(random.below(9)) - 4;
    return v;
}

template <WgmmaCase C>
void check_wgmma() {
    SCOPED_TRACE(::testing::Message() << "n " << C.n << " elem " << static_cast<int>(C.elem) << " B " << (C.b_mn_major ? "MN" : "K") << "-major A "
                                      << (C.a_in_registers ? "registers" : "shared") << " swizzles " << C.span_a << " " << C.span_b);
    constexpr std::size_t kK = C.k(), kN = C.n, kWidthA = C.width_a(), kWidthB = C.width_b();
    const std::vector<float> a = small_integers(64 * kWidthA, 1), b = small_integers(C.rows_b() * kWidthB, 2), start = small_integers(64 * kN, 3);
    const std::vector<u8> a_bytes = encode_all(a, C.elem), b_bytes = encode_all(b, C.elem);
    for (const bool accumulate : {false, true}) {
        // Accumulator i of thread t: PTX ISA, figure of the wgmma accumulator fragment D.
        const auto place = [](std::size_t t, std::size_t i) {
            return (t / 32 * 16 + t % 32 / 4 + (i % 4 / 2) * 8) * kN + i / 4 * 8 + t % 4 * 2 + i % 2;
        };
        std::vector<float> d(128 * kN / 2);
        for (std::size_t t = 0; t < 128; ++t)
            for (std::size_t i = 0; i < kN / 2; ++i) d[t * kN / 2 + i] = start[place(t, i)];
        // Fragment A: words 0 to 3 are (row, k low), (row + 8, k low), (row, k high), (row + 8, k high).
        constexpr std::size_t kPerWord = 4 / elem_bytes(C.elem), kStep = 32 / elem_bytes(C.elem);
        std::vector<u32> words(128 * C.steps() * 4);
        for (std::size_t t = 0; t < 128; ++t)
            for (std::size_t s = 0; s < C.steps(); ++s)
                for (std::size_t w = 0; w < 4; ++w) {
                    const std::size_t row = t / 32 * 16 + t % 32 / 4 + (w == 1 || w == 3 ? 8 : 0);
                    const std::size_t k = s * kStep + t % 4 * kPerWord + (w >= 2 ? kStep / 2 : 0);
                    std::memcpy(&words[(t * C.steps() + s) * 4 + w], &a_bytes[(row * kWidthA + k) * elem_bytes(C.elem)], 4);
                }
        const auto swizzle = [](i32 span) {
            return span == 128 ? Swizzle::b128 : span == 64 ? Swizzle::b64 : span == 32 ? Swizzle::b32 : Swizzle::none;
        };
        instructions::WgmmaParams p{map_2d(a_bytes.data(), kWidthA, 64, C.columns_a(), 64, swizzle(C.span_a), C.elem),
                                    map_2d(b_bytes.data(), kWidthB, C.rows_b(), C.columns_b(), C.rows_b(), swizzle(C.span_b), C.elem), words.data(),
                                    d.data(), accumulate};
        const Launch launch{1,
                            128,
                            instructions::wgmma_shared_bytes(C),
                            0,
                            {buffer("a", a_bytes), buffer("b", b_bytes), buffer("words", words), buffer("d", d, true)}};
        const Report r = emulator::emulate(launch, [&] { instructions::wgmma_kernel<C>(p); }, {.seed = 5});
        ASSERT_EQ(kind_of(r), "clean") << text_of(r);
        for (std::size_t t = 0; t < 128; ++t)
            for (std::size_t i = 0; i < kN / 2; ++i) {
                const std::size_t at = place(t, i), m = at / kN, n = at % kN;
                float want = accumulate ? start[at] : 0;
                for (std::size_t k = 0; k < kK; ++k)
                    want += static_cast<float>(C.scale_a * C.scale_b) * a[m * kWidthA + k] * (C.b_mn_major ? b[k * kWidthB + n] : b[n * kWidthB + k]);
                ASSERT_EQ(d[t * kN / 2 + i], want) << "row " << m << " column " << n;
            }
    }
}

template <Elem E, i32... N>
void check_sizes(std::integer_sequence<i32, N...>) {
    (check_wgmma<WgmmaCase{N, E, false, false, 128, 128}>(), ...);
    (check_wgmma<WgmmaCase{N, E, false, true, 128, 128}>(), ...);
}
using Sizes = std::integer_sequence<i32, 8, 16, 32, 64, 80, 96, 112, 128, 160, 176, 192, 224, 256>;

TEST(Wgmma, EveryWidthBf16) { check_sizes<Elem::bf16>(Sizes()); }
TEST(Wgmma, EveryWidthF16) { check_sizes<Elem::f16>(Sizes()); }
TEST(Wgmma, EveryWidthE4m3) { check_sizes<Elem::e4m3>(Sizes()); }

template <i32... N>
void check_mn_major(std::integer_sequence<i32, N...>) {
    (check_wgmma<WgmmaCase{N, Elem::bf16, true, true, 128, 128}>(), ...);
    (check_wgmma<WgmmaCase{N, Elem::f16, true, false, 128, 128}>(), ...);
}
TEST(Wgmma, TransposedB) { check_mn_major(std::integer_sequence<i32, 64, 96, 128, 192, 256>()); }

TEST(Wgmma, NegatedOperands) {
    check_wgmma<WgmmaCase{64, Elem::bf16, false, false, 128, 128, -1, 1}>();
    check_wgmma<WgmmaCase{64, Elem::f16, true, true, 128, 128, 1, -1}>();
    check_wgmma<WgmmaCase{64, Elem::e4m3, false, true, 128, 128, -1, -1}>();
}

TEST(Wgmma, EverySwizzle) {
    check_wgmma<WgmmaCase{64, Elem::bf16, false, false, 64, 64}>();
    check_wgmma<WgmmaCase{64, Elem::bf16, false, false, 32, 32}>();
    check_wgmma<WgmmaCase{64, Elem::bf16, false, false, 0, 0}>();
    check_wgmma<WgmmaCase{64, Elem::e4m3, false, false, 64, 64}>();
    check_wgmma<WgmmaCase{64, Elem::e4m3, false, false, 32, 32}>();
    check_wgmma<WgmmaCase{64, Elem::e4m3, false, false, 0, 0}>();
    check_wgmma<WgmmaCase{64, Elem::bf16, false, false, 128, 0}>();
    check_wgmma<WgmmaCase{64, Elem::bf16, true, false, 128, 64}>();
    check_wgmma<WgmmaCase{96, Elem::f16, true, false, 128, 32}>();
    check_wgmma<WgmmaCase{64, Elem::bf16, true, false, 128, 0}>();
}

// 1 + 2^-14 needs more than the 13 fraction bits to which products are aligned.
TEST(Wgmma, ReducedPrecisionOfE4m3) {
    constexpr WgmmaCase C{8, Elem::e4m3, false, false, 128, 128};
    std::vector<float> a(64 * 128, 0.0f), b(8 * 128, 0.0f);
    a[0] = b[0] = 1;
    a[1] = b[1] = 0.0078125f;
    const std::vector<u8> a_bytes = encode_all(a, Elem::e4m3), b_bytes = encode_all(b, Elem::e4m3);
    for (const bool reduced : {true, false}) {
        std::vector<float> d(128 * 4);
        std::vector<u32> words(4);
        instructions::WgmmaParams p{map_2d(a_bytes.data(), 128, 64, 128, 64, Swizzle::b128, Elem::e4m3),
                                    map_2d(b_bytes.data(), 128, 8, 128, 8, Swizzle::b128, Elem::e4m3), words.data(), d.data(), 0};
        const Launch launch{1, 128, instructions::wgmma_shared_bytes(C), 0, {buffer("a", a_bytes), buffer("b", b_bytes), buffer("d", d, true)}};
        const Report r = emulator::emulate(launch, [&] { instructions::wgmma_kernel<C>(p); }, {.exact_sums = reduced});
        ASSERT_EQ(kind_of(r), "clean") << text_of(r);
        EXPECT_EQ(d[0], reduced ? 1.0f : 1.0f + 0x1p-14f);
    }
}

// Chunk j of row r lies at chunk j ^ r mod 8 (128 bytes), j ^ r / 2 mod 4 (64), j ^ r / 4 mod 2 (32).
TEST(Tma, SwizzlesAsTheFiguresShow) {
    const struct {
        Swizzle swizzle;
        u32 span;
    } modes[] = {{Swizzle::none, 64}, {Swizzle::b32, 32}, {Swizzle::b64, 64}, {Swizzle::b128, 128}};
    for (const auto& mode : modes) {
        const u32 columns = mode.span / 2, rows = 24;
        std::vector<u16> x(columns * rows), y(x.size(), 7);
        for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<u16>(i + 1);
        std::vector<u8> bytes(x.size() * 2);
        instructions::TmaParams p{map_2d(x.data(), columns, rows, columns, rows, mode.swizzle),
                                  map_2d(y.data(), columns, rows, columns, rows, mode.swizzle),
                                  bytes.data(),
                                  static_cast<i32>(bytes.size()),
                                  {},
                                  {}};
        const Report r = emulator::emulate({1, 128, 8192, 0, {buffer("x", x), buffer("y", y, true), buffer("bytes", bytes, true)}},
                                           [&] { instructions::tma_kernel<>(p); });
        ASSERT_EQ(kind_of(r), "clean") << text_of(r);
        EXPECT_EQ(x, y);
        for (u32 row = 0; row < rows; ++row)
            for (u32 c = 0; c < columns; ++c) {
                u32 chunk = c / 8;
                if (mode.swizzle == Swizzle::b128) chunk ^= row % 8;
                if (mode.swizzle == Swizzle::b64) chunk ^= row / 2 % 4;
                if (mode.swizzle == Swizzle::b32) chunk ^= row / 4 % 2;
                u16 got;
                std::memcpy(&got, &bytes[row * mode.span + chunk * 16 + c % 8 * 2], 2);
                ASSERT_EQ(got, x[row * columns + c]) << "row " << row << " column " << c;
            }
    }
}

// Boxes that hang over each edge of a five-dimensional tensor read zeros there and write nothing there.
TEST(Tma, BoxesOutOfBounds) {
    const std::array<std::uint64_t, 5> size{24, 3, 5, 2, 2};
    const std::array<std::uint32_t, 5> box{16, 2, 4, 2, 1};
    std::vector<u16> x(24 * 3 * 5 * 2 * 2);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<u16>(i + 1);
    TensorMapSpec spec{Elem::f16, Swizzle::none, x.data(), size, {48, 144, 720, 1440}, box};
    const i32 corners[][5] = {{0, 0, 0, 0, 0}, {-8, -1, -2, -1, -1}, {16, 2, 3, 1, 1}, {24, 0, 0, 0, 0},
                              {8, 3, 0, 0, 0}, {-16, 0, 0, 0, 0},    {8, 1, -1, 1, 2}, {8, 1, 1, 0, 0}};
    for (const auto& at : corners) {
        std::vector<u16> y(x.size(), 0xffff);
        TensorMapSpec out = spec;
        out.base = y.data();
        const u32 elements = 16 * 2 * 4 * 2;
        std::vector<u8> bytes(elements * 2);
        instructions::TmaParams p{*emulator::encode(spec), *emulator::encode(out), bytes.data(), static_cast<i32>(bytes.size()), {}, {}};
        std::memcpy(p.at, at, sizeof p.at);
        // Stores may not begin before the tensor.
        for (std::size_t d = 0; d < 5; ++d) p.put[d] = std::max(at[d], 0);
        const Report r = emulator::emulate({1, 128, 4096, 0, {buffer("x", x), buffer("y", y, true), buffer("bytes", bytes, true)}},
                                           [&] { instructions::tma_kernel<>(p); });
        ASSERT_EQ(kind_of(r), "clean") << text_of(r);
        std::vector<u16> want_y(x.size(), 0xffff);
        // The place in the tensor of element i of a box at a corner, or -1.
        const auto place = [&](u32 i, const auto& corner) -> i64 {
            const i64 c[5] = {corner[0] + i % 16, corner[1] + i / 16 % 2, corner[2] + i / 32 % 4, corner[3] + i / 128 % 2, corner[4]};
            for (std::size_t d = 0; d < 5; ++d)
                if (c[d] < 0 || c[d] >= static_cast<i64>(size[d])) return -1;
            return c[0] + 24 * (c[1] + 3 * (c[2] + 5 * (c[3] + 2 * c[4])));
        };
        for (u32 i = 0; i < elements; ++i) {
            const i64 from = place(i, p.at), to = place(i, p.put);
            const u16 want = from < 0 ? u16{0} : x[static_cast<std::size_t>(from)];
            u16 got;
            std::memcpy(&got, &bytes[2 * i], 2);
            ASSERT_EQ(got, want) << "element " << i;
            if (to >= 0) want_y[static_cast<std::size_t>(to)] = want;
        }
        EXPECT_EQ(y, want_y);
    }
}

// plan/tensor_map.h's ragged view: the bounds check ends at a sequence's own end, wherever that is.
TEST(Tma, RaggedViewsEndWithTheirSequence) {
    constexpr std::uint64_t kRow = 2 * 64 * 2;  // two heads of 64 columns
    std::vector<u16> x(37 * 128), y(x.size(), 0xffff);
    for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<u16>(i + 1);
    TensorMapSpec spec{Elem::bf16,
                       Swizzle::b128,
                       x.data(),
                       {64, 2, kRaggedRows, kRaggedOuter, kRaggedOuter},
                       {128, kRow, kRow, (std::uint64_t{1} << 35) - kRow},
                       {64, 1, 16, 1, 1}};
    TensorMapSpec out = spec;
    out.base = y.data();
    // Sequence [10, 29): its rows from the 8th on, 11 of them; head 1.
    const i32 start = 10, length = 19, row0 = 8;
    std::vector<u8> bytes(16 * 128);
    instructions::TmaParams p{
        *emulator::encode(spec), *emulator::encode(out), bytes.data(), 16 * 128, {0, 1, (1 << 30) - length + row0, start + length, 1 << 30}, {}};
    std::memcpy(p.put, p.at, sizeof p.put);
    const Report r = emulator::emulate({1, 128, 4096, 0, {buffer("x", x), buffer("y", y, true), buffer("bytes", bytes, true)}},
                                       [&] { instructions::tma_kernel<>(p); });
    ASSERT_EQ(kind_of(r), "clean") << text_of(r);
    for (u32 row = 0; row < 37; ++row)
        for (u32 c = 0; c < 128; ++c) {
            const bool stored = row >= 18 && row < 29 && c >= 64;
            ASSERT_EQ(y[row * 128 + c], stored ? x[row * 128 + c] : 0xffff) << "row " << row << " column " << c;
        }
    u16 past;
    std::memcpy(&past, &bytes[11 * 128], 2);
    EXPECT_EQ(past, 0);
}

TEST(Tma, LimitsOfATensorMap) {
    alignas(64) static u16 memory[4096];
    const TensorMapSpec good{Elem::bf16, Swizzle::b128, memory, {64, 8, 1, 1, 1}, {128, 1024, 1024, 1024}, {64, 8, 1, 1, 1}};
    EXPECT_TRUE(emulator::encode(good).ok());
    const auto refused = [&](const char* field, auto change) {
        TensorMapSpec s = good;
        change(s);
        const Result<TensorMap> r = emulator::encode(s);
        ASSERT_FALSE(r.ok()) << field;
        EXPECT_EQ(r.error().argument, field);
    };
    refused("base", [](TensorMapSpec& s) { s.base = reinterpret_cast<const u8*>(memory) + 8; });
    refused("base", [](TensorMapSpec& s) { s.base = nullptr; });
    refused("size[1]", [](TensorMapSpec& s) { s.size[1] = 0; });
    refused("size[2]", [](TensorMapSpec& s) { s.size[2] = (std::uint64_t{1} << 32) + 1; });
    refused("stride[0]", [](TensorMapSpec& s) { s.stride[0] = 72; });
    refused("stride[3]", [](TensorMapSpec& s) { s.stride[3] = std::uint64_t{1} << 40; });
    refused("box[1]", [](TensorMapSpec& s) { s.box[1] = 257; });
    refused("box[0]", [](TensorMapSpec& s) { s.box[0] = 72; });
    refused("box[0]", [](TensorMapSpec& s) { s.box[0] = 4; });
}

TEST(Matrix, StoresFragmentsAsTheFigureShows) {
    std::vector<u32> words(128);
    for (u32 lane = 0; lane < 32; ++lane)
        for (u32 m = 0; m < 4; ++m) {
            const u32 row = lane / 4, column = lane % 4 * 2;
            words[lane * 4 + m] = (m * 64 + row * 8 + column) | (m * 64 + row * 8 + column + 1) << 16;
        }
    std::vector<u16> stored(256);
    instructions::MatrixParams p{words.data(), stored.data()};
    const Report r =
        emulator::emulate({1, 32, 512, 0, {buffer("words", words), buffer("stored", stored, true)}}, [&] { instructions::matrix_kernel<>(p); });
    ASSERT_EQ(kind_of(r), "clean") << text_of(r);
    for (u32 i = 0; i < 256; ++i) EXPECT_EQ(stored[i], i);
}

TEST(Warp, LdmatrixTransposesAndPrmtPicksBytes) {
    std::vector<u16> stored(256);
    for (u32 i = 0; i < 256; ++i) stored[i] = static_cast<u16>(i * 259 + 7);
    for (const u32 selector : {0x6420u, 0x7531u, 0x0123u, 0x4567u}) {
        std::vector<u32> words(128), picked(32);
        instructions::TransposedParams p{stored.data(), words.data(), picked.data(), selector};
        const Launch launch{1, 32, 512, 0, {buffer("stored", stored), buffer("words", words, true), buffer("picked", picked, true)}};
        const Report r = emulator::emulate(launch, [&] { instructions::transposed_kernel<>(p); });
        ASSERT_EQ(kind_of(r), "clean") << text_of(r);
        for (u32 lane = 0; lane < 32; ++lane) {
            for (u32 i = 0; i < 4; ++i) {
                const u32 row = 2 * (lane % 4), column = lane / 4;
                EXPECT_EQ(words[lane * 4 + i], stored[i * 64 + row * 8 + column] | u32{stored[i * 64 + (row + 1) * 8 + column]} << 16);
            }
            u8 bytes[8], want[4];
            std::memcpy(bytes, &words[lane * 4], 8);
            for (u32 i = 0; i < 4; ++i) want[i] = bytes[selector >> 4 * i & 7];
            EXPECT_EQ(std::memcmp(&picked[lane], want, 4), 0);
        }
    }
}

TEST(Warp, ShufflesAndVotes) {
    std::vector<u32> out(32 * 6);
    const auto kernel = [&] {
        const u32 lane = sm90::lane_index();
        const u32 v[6] = {
            sm90::shuffle_xor(lane * 3, 5u),  sm90::shuffle_up(lane * 3, 4u),
            sm90::shuffle_from(lane * 3, 9u), sm90::warp_uniform(lane + 2),
            sm90::ballot(lane % 3 == 0),      static_cast<u32>(sm90::vote_any(lane == 31)) + 2 * static_cast<u32>(sm90::vote_any(lane > 40))};
        for (u32 i = 0; i < 6; ++i) sm90::store_global(&out[lane * 6 + i], v[i]);
    };
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
        ASSERT_EQ(kind_of(emulator::emulate({1, 32, 0, 0, {buffer("out", out, true)}}, kernel, {.seed = seed})), "clean");
        for (u32 lane = 0; lane < 32; ++lane) {
            EXPECT_EQ(out[lane * 6], (lane ^ 5) * 3);
            EXPECT_EQ(out[lane * 6 + 1], lane < 4 ? lane * 3 : (lane - 4) * 3);
            EXPECT_EQ(out[lane * 6 + 2], 27u);
            EXPECT_EQ(out[lane * 6 + 3], 2u);
            EXPECT_EQ(out[lane * 6 + 4], 0x49249249u);
            EXPECT_EQ(out[lane * 6 + 5], 1u);
        }
    }
}

TEST(Vector, SixteenBytesAtOnce) {
    std::vector<u32> in(32 * 4 + 4), out(32 * 4);
    for (std::size_t i = 0; i < in.size(); ++i) in[i] = static_cast<u32>(i * 2654435761u);
    const auto copy = [&](u32 skip) {
        return [&in, &out, skip] {
            u32 v[4];
            sm90::load_global16(&in[sm90::lane_index() * 4 + skip], v);
            sm90::store_global16(&out[sm90::lane_index() * 4], v);
        };
    };
    const emulator::Launch launch{1, 32, 0, 0, {buffer("in", in, false), buffer("out", out, true)}};
    ASSERT_EQ(kind_of(emulator::emulate(launch, copy(0), {})), "clean");
    EXPECT_TRUE(std::equal(out.begin(), out.end(), in.begin()));
    const bool aligned = reinterpret_cast<u64>(in.data()) % 16 == 0;
    ASSERT_TRUE(aligned);
    EXPECT_EQ(kind_of(emulator::emulate(launch, copy(1), {})), "alignment");
}

TEST(Vector, HalvesAreExact) {
    std::vector<float> out(4);
    const auto kernel = [&] {
        float v[4];
        sm90::unpack2<Elem::bf16>(0xc0403f80u, v[0], v[1]);
        sm90::unpack2<Elem::f16>(0x0001bc00u, v[2], v[3]);
        if (sm90::lane_index() != 0) return;
        for (i32 i = 0; i < 4; ++i) sm90::store_global(&out[static_cast<std::size_t>(i)], v[i]);
    };
    ASSERT_EQ(kind_of(emulator::emulate({1, 32, 0, 0, {buffer("out", out, true)}}, kernel, {})), "clean");
    EXPECT_EQ(out, (std::vector<float>{1, -3, -1, 0x1p-24f}));
}

// The canonical NaN is each format's own; 0x01 is 2^-9, 0x7e 448.
TEST(Vector, WideningIsExact) {
    std::vector<u32> out(4);
    const auto kernel = [&] {
        u32 w[4];
        sm90::unpack4_e4m3<Elem::bf16>(0xff807e01u, w[0], w[1]);
        sm90::unpack4_e4m3<Elem::f16>(0x7f88b801u, w[2], w[3]);
        if (sm90::lane_index() != 0) return;
        for (u32 i = 0; i < 4; ++i) sm90::store_global(&out[i], w[i]);
    };
    ASSERT_EQ(kind_of(emulator::emulate({1, 32, 0, 0, {buffer("out", out, true)}}, kernel, {})), "clean");
    EXPECT_EQ(out, (std::vector<u32>{0x43e03b00u, 0x7fff8000u, 0xbc001800u, 0x7fffa400u}));
}

TEST(Vector, AtomicMaximumOfManyBlocks) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
        std::vector<float> most{0.25f};
        const auto kernel = [&] { sm90::atomic_max(most.data(), static_cast<float>((sm90::block_index() * 37 + sm90::lane_index() * 5) % 101) / 8); };
        ASSERT_EQ(kind_of(emulator::emulate({4, 32, 0, 0, {buffer("most", most, true)}}, kernel, {.seed = seed})), "clean");
        float want = 0.25f;
        for (u32 block = 0; block < 4; ++block) {
            for (u32 lane = 0; lane < 32; ++lane) want = std::max(want, static_cast<float>((block * 37 + lane * 5) % 101) / 8);
        }
        EXPECT_EQ(most[0], want);
    }
}

TEST(Warp, OneLaneIsElectedAndAlwaysTheSame) {
    std::vector<u32> out(2);
    const auto kernel = [&] {
        for (u32 i = 0; i < 2; ++i)
            if (sm90::elect_one()) sm90::atomic_add(&out[i], 1 + (sm90::lane_index() << 8));
    };
    std::vector<u32> lanes;
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        out = {0, 0};
        ASSERT_EQ(kind_of(emulator::emulate({1, 32, 0, 0, {buffer("out", out, true)}}, kernel, {.seed = seed})), "clean");
        EXPECT_EQ(out[0], out[1]);
        EXPECT_EQ(out[0] & 0xff, 1u);
        lanes.push_back(out[0] >> 8);
    }
    EXPECT_NE(lanes, std::vector<u32>(8, lanes[0])) << "programs could come to rely on one lane";
}

// Each conversion gives the nearest value, the even one of two.
template <class From, class To>
void check_rounding(u32 count, float largest, From from, To to) {
    emulator::Random random(3);
    for (int i = 0; i < 200000; ++i) {
        float v = emulator::from_bits(static_cast<u32>(random.next()));
        if (std::isnan(v)) continue;
        if (i % 2 == 0) v = static_cast<float>(static_cast<double>(random.below(1u << 24)) * largest * 0x1p-24 * (i % 4 == 0 ? 1 : 0x1p-12));
        if (std::fabs(v) > largest) continue;
        const u32 bits = to(v), magnitude = bits % (count / 2);
        const double error = std::fabs(static_cast<double>(from(bits)) - v);
        for (const u32 other : {magnitude == 0 ? 1 : magnitude - 1, magnitude + 1}) {
            const double w = std::copysign(static_cast<double>(from(other)), v);
            if (!std::isfinite(w)) continue;
            const double there = std::fabs(w - v);
            ASSERT_LE(error, there) << v;
            ASSERT_TRUE(error < there || magnitude % 2 == 0) << v;
        }
    }
}

TEST(Formats, RoundToNearestEven) {
    check_rounding(
        1 << 16, 3.3e38f, [](u32 b) { return emulator::from_bf16(static_cast<u16>(b)); }, [](float v) { return emulator::to_bf16(v); });
    check_rounding(
        1 << 16, 65504.0f, [](u32 b) { return emulator::from_f16(static_cast<u16>(b)); }, [](float v) { return emulator::to_f16(v); });
    check_rounding(
        1 << 8, 448.0f, [](u32 b) { return emulator::from_e4m3(static_cast<u8>(b)); }, [](float v) { return emulator::to_e4m3(v); });
    EXPECT_EQ(emulator::to_e4m3(1e9f), 0x7e);
    EXPECT_EQ(emulator::to_e4m3(-INFINITY), 0xfe);
    EXPECT_EQ(emulator::to_f16(65520.0f), 0x7c00);
    EXPECT_EQ(emulator::to_bf16(NAN), 0x7fff);
}

}  // namespace
}  // namespace hopfill::testing

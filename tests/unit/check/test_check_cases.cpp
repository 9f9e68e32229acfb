// The problems that the checker draws.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "api/check_internal.h"
#include "hopfill/check.h"

namespace hopfill::check {
namespace {

using testing::HasSubstr;

TEST(CheckCases, TextRoundTrip) {
    std::vector<Case> cases = evidence_grid();
    for (std::int64_t i = 0; i < 300; ++i) cases.push_back(random_case(3, i, limits_for(Backend::cpu)));
    for (const Case& c : cases) {
        const Result<Case> back = parse_case(to_string(c));
        ASSERT_TRUE(back.ok()) << to_string(c) << ": " << back.error().text();
        ASSERT_EQ(*back, c) << to_string(c);
    }
}

TEST(CheckCases, BadTextIsNamed) {
    for (const auto& [text, word] : {std::pair{"bf16 d64 h4/2 q=5 kv=5 wings=2", "wings=2"},
                                     {"bf16 dd", "dd"},
                                     {"q=5,x", "q=5,x"},
                                     {"h4/", "h4/"},
                                     {"scale=nan", "scale=nan"},
                                     {"q=3,4 kv=3,4", "all equal unless packed"},
                                     {"h3/2", "multiple of kv_heads"},
                                     {"q=-1 kv=2", "q=-1"},
                                     {"e4m3 vs=row", "vs=row"},
                                     {"e4m3 vs=block", "block="},
                                     {"e4m3 block=96", "block=96"}}) {
        const Result<Case> c = parse_case(text);
        ASSERT_FALSE(c.ok()) << text;
        EXPECT_THAT(c.error().text(), HasSubstr(word));
    }
}

TEST(CheckCases, DependOnSeedAndIndexAlone) {
    const Limits limits = limits_for(Backend::sm90);
    EXPECT_EQ(random_case(5, 17, limits), random_case(5, 17, limits));
    EXPECT_NE(random_case(5, 17, limits), random_case(5, 18, limits));
    EXPECT_NE(random_case(6, 17, limits), random_case(5, 17, limits));
}

// Hashes in the evidence are of outputs for these inputs: their bits must be the same with every compiler and libm.
TEST(CheckCases, DataHaveTheSameBitsEverywhere) {
    const auto hash = [](const Buffer& b) {
        std::uint64_t h = 0xcbf29ce484222325ull;  // FNV-1a
        for (std::byte x : b.bytes) h = (h ^ static_cast<std::uint64_t>(x)) * 0x100000001b3ull;
        return h;
    };
    const Built b = build(*parse_case("bf16 d64 h4/2 packed q=5,9 kv=7,9 input=peaky layout=3 seed=8"), 2);
    EXPECT_EQ(hash(b.q), 10665089226179206339ull);
    EXPECT_EQ(hash(b.k), 18351069476094517704ull);
}

TEST(CheckCases, Fp8LeavesTheOtherCasesAsTheyAre) {
    Limits with = limits_for(Backend::cpu), without = with;
    without.features.fp8 = false;
    int same = 0;
    for (std::int64_t i = 0; i < 300; ++i) {
        const Case a = random_case(4, i, with), b = random_case(4, i, without);
        same += a == b;
        EXPECT_TRUE(a == b || a.kv_dtype == DType::e4m3);
    }
    EXPECT_GT(same, 150);
    EXPECT_LT(same, 250);
}

// Whatever is not read is a NaN: data past the sequences, scales of blocks that hold no token.
TEST(CheckCases, Fp8PaddingIsNaN) {
    const Built b = build(*parse_case("e4m3 out=bf16 d64 h2/2 packed q=5,0 kv=70,300 tail=4 qs=block ks=block block=64 layout=5 seed=8"), 1);
    EXPECT_EQ(b.k.bytes[0], std::byte{0x7f});
    const auto* scale = static_cast<const float*>(b.host.k_scale.data);
    const auto at = [&](std::int64_t s, std::int64_t block) { return scale[s * b.problem.k_scale.batch + block * b.problem.k_scale.block]; };
    for (std::int64_t block = 0; block < 5; ++block) EXPECT_EQ(std::isnan(at(0, block)), block >= 2) << block;
    for (std::int64_t block = 0; block < 5; ++block) EXPECT_FALSE(std::isnan(at(1, block))) << block;
}

TEST(CheckCases, CoverWhatIsAskedFor) {
    const Limits limits = limits_for(Backend::cpu);
    std::set<std::int64_t> head_dims, groups;
    int empty = 0, no_keys = 0, longer_q = 0, longer_kv = 0, nan = 0, strided = 0, mqa = 0, tail = 0, above_2048 = 0;
    std::set<DType> dtypes;
    std::set<Input> inputs;
    std::set<int> scales;
    int mixed = 0, transposed = 0, eight_bit_outputs = 0;
    for (std::int64_t i = 0; i < 2000; ++i) {
        const Case c = random_case(1, i, limits);
        head_dims.insert(c.head_dim);
        groups.insert(c.heads / c.kv_heads);
        dtypes.insert(c.dtype);
        inputs.insert(c.input);
        scales.insert(static_cast<int>(c.v_scale));
        mixed += c.kv_dtype != c.dtype;
        transposed += c.v_transposed;
        eight_bit_outputs += c.out_dtype == DType::e4m3;
        ASSERT_TRUE(c.kv_dtype != DType::e4m3 || c.head_dim % 16 == 0);
        nan += c.nan != 0;
        strided += c.layout != 0;
        tail += c.tail != 0;
        mqa += c.kv_heads == 1 && c.heads > 1;
        ASSERT_EQ(c.q_lens.size(), c.kv_lens.size());
        std::int64_t work = 0;
        for (std::size_t s = 0; s < c.q_lens.size(); ++s) {
            empty += c.q_lens[s] == 0;
            no_keys += c.q_lens[s] > 0 && c.kv_lens[s] == 0;
            longer_q += c.q_lens[s] > c.kv_lens[s];
            longer_kv += c.q_lens[s] < c.kv_lens[s];
            above_2048 += c.kv_lens[s] > 2048;
            work += c.q_lens[s] * c.kv_lens[s] * c.heads * c.head_dim;
        }
        ASSERT_LE(work, limits.max_work);
        ASSERT_TRUE(c.nan == 0 || std::ranges::max(c.kv_lens) <= 2048);
    }
    EXPECT_EQ(head_dims.size(), 32u);
    EXPECT_EQ(groups, (std::set<std::int64_t>{1, 2, 4, 8, 12, 16}));
    EXPECT_EQ(dtypes, (std::set{DType::f32, DType::f16, DType::bf16, DType::e4m3}));
    EXPECT_EQ(scales, (std::set{0, 1, 2, 3, 4, 5}));
    EXPECT_EQ(inputs.size(), 4u);
    for (int n : {empty, no_keys, longer_q, longer_kv, nan, strided, mqa, tail, above_2048, mixed, transposed, eight_bit_outputs}) EXPECT_GT(n, 20);
}

TEST(CheckCases, PlainWithoutFeatures) {
    Limits limits;
    for (std::int64_t i = 0; i < 100; ++i) {
        const Case c = random_case(1, i, limits);
        EXPECT_EQ(c.dtype, DType::bf16);
        EXPECT_TRUE(!c.packed && !c.causal && !c.lse && !c.scale && c.layout == 0 && c.nan == 0 && c.heads == c.kv_heads && c.q_lens == c.kv_lens);
    }
    EXPECT_TRUE(parse_features("all").ok());
    EXPECT_EQ(*parse_features(""), Features{});
    EXPECT_TRUE(parse_features("packed,nan")->nan);
    EXPECT_FALSE(parse_features("packed,nan")->f16);
    EXPECT_FALSE(parse_features("packed,").ok() && parse_features("pack").ok());
}

TEST(CheckCases, SmallForTheEmulator) {
    const Limits limits = limits_for(Backend::emulated);
    for (std::int64_t i = 0; i < 300; ++i) {
        const Case c = random_case(1, i, limits);
        EXPECT_NE(c.dtype, DType::f32);
        EXPECT_LE(std::ranges::max(c.q_lens), 300);
        EXPECT_LE(std::ranges::max(c.kv_lens), 300);
        EXPECT_LE(c.heads, 4);
    }
}

TEST(CheckCases, EvidenceGridHoldsWhatTheRecordPromises) {
    const std::vector<Case> grid = evidence_grid();
    std::set<std::int64_t> lengths, groups, head_dims;
    int ragged = 0, nan = 0, longer_q = 0, longer_kv = 0;
    for (const Case& c : grid) {
        ragged += c.packed;
        nan += c.packed && c.nan != 0;
        if (c.packed) continue;
        groups.insert(c.heads / c.kv_heads);
        head_dims.insert(c.head_dim);
        longer_q += c.q_lens[0] > c.kv_lens[0];
        longer_kv += c.q_lens[0] < c.kv_lens[0];
        if (c.q_lens == c.kv_lens) lengths.insert(c.q_lens[0]);
    }
    EXPECT_EQ(lengths, (std::set<std::int64_t>{1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1000, 4096, 16384}));
    EXPECT_EQ(groups, (std::set<std::int64_t>{1, 2, 4, 8, 12, 16}));
    EXPECT_THAT(head_dims, testing::IsSupersetOf({64, 72, 80, 96, 128, 192, 256}));
    EXPECT_EQ(ragged, 200);
    EXPECT_GT(nan, 20);
    EXPECT_GT(longer_q, 50);
    EXPECT_GT(longer_kv, 50);
}

TEST(CheckCases, JudgedRows) {
    EXPECT_EQ(judged_rows(1000, 2048, 1).size(), 1000u);
    const std::vector<std::int64_t> rows = judged_rows(5000, 5000, 1);
    EXPECT_EQ(rows.size(), 64u);
    EXPECT_THAT(rows, testing::IsSupersetOf({0, 63, 64, 127, 128, 4999}));
    EXPECT_TRUE(std::ranges::is_sorted(rows));
    EXPECT_NE(rows, judged_rows(5000, 5000, 2));
    EXPECT_EQ(judged_rows(10, 5000, 2).size(), 10u);
}

}  // namespace
}  // namespace hopfill::check

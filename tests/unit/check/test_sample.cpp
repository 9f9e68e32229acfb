// Errors of sampled rows: what the bench prints.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "hopfill/check.h"
#include "oracle/formats.h"

namespace hopfill::check {
namespace {

using ::testing::HasSubstr;

// A small packed problem, computed by the oracle in float32 outputs: errors are those of one rounding.
struct Computed {
    std::vector<std::uint16_t> q, k, v;
    std::vector<float> o;
    std::vector<std::int32_t> cu_q{0, 3, 3, 10}, cu_k{0, 5, 9, 20};
    AttentionTensors tensors;
    AttentionProblem problem;

    Computed() {
        // f16 below 2
        auto fill = [n = std::uint32_t{1}](std::vector<std::uint16_t>& x, std::size_t size) mutable {
            for (std::size_t i = 0; i < size; ++i) x.push_back(static_cast<std::uint16_t>((n = n * 1664525 + 1013904223) >> 18 & 0x3fff));
        };
        fill(q, 10 * 4 * 64);
        fill(k, 20 * 2 * 64);
        fill(v, 20 * 2 * 64);
        o.resize(q.size());
        tensors.q = contiguous(q.data(), DType::f16, {10, 4, 64});
        tensors.k = contiguous(k.data(), DType::f16, {20, 2, 64});
        tensors.v = contiguous(v.data(), DType::f16, {20, 2, 64});
        tensors.o = contiguous(o.data(), DType::f32, {10, 4, 64});
        tensors.cu_seqlens_q = contiguous(cu_q.data(), DType::i32, {4});
        tensors.cu_seqlens_k = contiguous(cu_k.data(), DType::i32, {4});
        AttentionOptions options;
        options.causal = true;
        options.backend = Backend::oracle;
        EXPECT_TRUE(attention(tensors, options));
        problem = *describe(tensors, options);
    }
};

TEST(SampledErrors, OfARightAnswerAreThoseOfRounding) {
    const Computed c;
    const Result<RowErrors> errors = sampled_errors(c.problem, c.tensors, 1000);
    ASSERT_TRUE(errors) << errors.error().text();
    EXPECT_EQ(errors->rows, 40) << "there are no more";
    EXPECT_GT(errors->rms, 0);
    EXPECT_LT(errors->rms, errors->max);
    EXPECT_LT(errors->max, 0x1p-23);
}

TEST(SampledErrors, SeeEveryRowThatIsChosen) {
    Computed c;
    for (std::size_t row = 0; row < 40; ++row) {
        const float right = c.o[row * 64 + 63];
        c.o[row * 64 + 63] += 0.5f;
        EXPECT_NEAR(sampled_errors(c.problem, c.tensors, 40)->max, 0.5, 1e-6) << row;
        EXPECT_NEAR(sampled_errors(c.problem, c.tensors, 40)->rms, 0.5 / std::sqrt(40 * 64), 1e-6) << row;
        c.o[row * 64 + 63] = right;
    }
}

TEST(SampledErrors, TakeTheLastRowAndOthersByTheSeed) {
    Computed c;
    c.o[39 * 64] += 1;
    EXPECT_NEAR(sampled_errors(c.problem, c.tensors, 1)->max, 1, 1e-6);
    c.o[39 * 64] -= 1;
    for (std::size_t i = 0; i < 39 * 64; ++i) c.o[i] += static_cast<float>(i);  // another error in every row
    const double one = sampled_errors(c.problem, c.tensors, 5, 1)->rms;
    EXPECT_EQ(sampled_errors(c.problem, c.tensors, 5, 1)->rms, one);
    EXPECT_NE(sampled_errors(c.problem, c.tensors, 5, 2)->rms, one);
    EXPECT_EQ(sampled_errors(c.problem, c.tensors, 5)->rows, 5);
}

TEST(SampledErrors, NeverHideANan) {
    Computed c;
    c.o.back() = NAN;
    const Result<RowErrors> errors = sampled_errors(c.problem, c.tensors, 4);
    ASSERT_FALSE(errors);
    EXPECT_EQ(errors.error().argument, "o");
    EXPECT_THAT(errors.error().message, HasSubstr("nan at sequence 2 head 3 row 6 column 63"));
}

TEST(SampledErrors, OfNothingAreNone) {
    const Computed c;
    EXPECT_EQ(sampled_errors(c.problem, c.tensors, 0)->rows, 0);
    EXPECT_FALSE(sampled_errors(c.problem, c.tensors, -1));
    AttentionProblem empty = c.problem;
    empty.packed = false;
    empty.max_seqlen_q = 0;
    EXPECT_EQ(sampled_errors(empty, c.tensors, 16)->rows, 0);
}

}  // namespace
}  // namespace hopfill::check

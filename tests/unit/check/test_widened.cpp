// 16-bit queries on FP8 keys and values that are copied in 16 bits first: every kind of multiplier, strided, ragged and dense, judged as any other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "emulated_target.h"

namespace hopfill::check {
namespace {

class Widened : public ::testing::TestWithParam<const char*> {};

TEST_P(Widened, IsRightUnderEverySchedule) {
    Emulated target;
    expect_right(GetParam(), target, 3);
    EXPECT_THAT(target.kernel, ::testing::StartsWith("prefill_widened"));
    EXPECT_GT(target.scratch_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, Widened,
                         ::testing::Values("bf16 d256 h4/2 kv_dtype=e4m3 q=2x150 kv=2x200 ks=sequence vs=channel lse seed=1",
                                           "f16 d160 h4/2 kv_dtype=e4m3 causal packed q=5,0,170 kv=90,3,200 ks=head vs=channel lse layout=3 seed=2",
                                           "bf16 d192 h3/3 kv_dtype=e4m3 packed q=64,65 kv=130,0 ks=tensor vs=head input=peaky lse seed=3",
                                           "bf16 d16 h8/1 kv_dtype=e4m3 q=300 kv=300 ks=head vs=channel layout=5 lse seed=4",
                                           "f16 d128 h8/1 kv_dtype=e4m3 causal q=500 kv=500 ks=sequence vs=channel input=rising seed=5",
                                           "bf16 d208 h4/2 kv_dtype=e4m3 causal packed q=70,33 kv=70,190 vs=sequence lse layout=2 nan=1 seed=6"));

}  // namespace
}  // namespace hopfill::check

// FP8 attention on values that are transposed once, in memory: strided, with NaNs beside and among them, of head dimensions that TMA pads, with
// multipliers of every kind that these kernels take, judged as any other.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "emulated_target.h"

namespace hopfill::check {
namespace {

class Turned : public ::testing::TestWithParam<const char*> {};

TEST_P(Turned, IsRightUnderEverySchedule) {
    Emulated target;
    expect_right(GetParam(), target, 1);
    // The few jobs are split, too.
    EXPECT_THAT(target.kernel, ::testing::EndsWith("_turned_split"));
    EXPECT_GT(target.scratch_bytes, 0);
}

INSTANTIATE_TEST_SUITE_P(Cases, Turned,
                         ::testing::Values("e4m3 d256 h2/1 out=f16 causal q=2x65 kv=2x5001 layout=5 nan=1 lse seed=3",
                                           "e4m3 d240 h1/1 out=bf16 q=3x40 kv=3x5003 layout=77 qs=head ks=sequence vs=channel lse seed=4",
                                           "e4m3 d208 h2/1 out=f16 q=70 kv=5777 layout=31 ks=tensor vs=head input=peaky lse seed=6",
                                           "e4m3 d144 h2/1 out=bf16 causal q=2x130 kv=2x5130 layout=12345 nan=1 vs=channel lse seed=8",
                                           "e4m3 d256 h2/1 out=bf16 q=64 kv=4100 layout=987 vs=sequence input=large lse seed=9"));

}  // namespace
}  // namespace hopfill::check

// Outputs of which all that is not tiny cancels or is 0: what an H200 gave for random problems is right, and so is the emulator's same.
#include <gtest/gtest.h>

#include "emulated_target.h"

namespace hopfill::check {
namespace {

class Tiny : public ::testing::TestWithParam<const char*> {};

TEST_P(Tiny, PartsThatAWeightsFormatDoesNotHoldMayBeMissing) {
    Emulated target;
    expect_right(GetParam(), target, 1);
}

INSTANTIATE_TEST_SUITE_P(Found, Tiny,
                         ::testing::Values("e4m3 d96 h12/1 out=bf16 causal packed loose q=212,2x0,293 kv=212,2x0,293 tail=12 qs=sequence ks=sequence "
                                           "vs=channel vt scale=1 input=large layout=252507 seed=3014671224",
                                           "bf16 d64 h12/3 kv_dtype=e4m3 q=3x255 kv=3x255 scale=0.02 input=large layout=11788311 seed=361713449"));

}  // namespace
}  // namespace hopfill::check

// The quantiser's kernels, each under several schedules: no fault, and the definition's numbers to the bit.
#include <gtest/gtest.h>

#include "quantize_workload.h"

namespace hopfill::testing {
namespace {

template <class Work>
void expect_clean(Work& work) {
    for (std::uint64_t seed = 0; seed < 8; ++seed) {
        const Outcome outcome = work.run({.seed = seed, .max_steps = 5'000'000}, emulator::run_quantizer);
        ASSERT_EQ(outcome.kind, "clean") << outcome.text;
        ASSERT_GT(outcome.steps, 10u);
    }
}

class Quantizers : public ::testing::TestWithParam<QuantizeCase> {};

TEST_P(Quantizers, AreCleanAndRightUnderEverySchedule) {
    QuantizeWorkload work(GetParam(), 1);
    expect_clean(work);
}

INSTANTIATE_TEST_SUITE_P(Table, Quantizers, ::testing::ValuesIn(quantize_cases()), [](const auto& info) { return info.param.name; });

class Widening : public ::testing::TestWithParam<WidenCase> {};

TEST_P(Widening, IsCleanAndExactUnderEverySchedule) {
    WidenWorkload work(GetParam());
    expect_clean(work);
}

INSTANTIATE_TEST_SUITE_P(Table, Widening, ::testing::ValuesIn(widen_cases()), [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace hopfill::testing

// The real kernels, every row of the planner's table, each under several schedules: no fault, and the oracle's answer.
#include <gtest/gtest.h>

#include "workload.h"

namespace hopfill::testing {
namespace {

// Kernels that differ from another in how multipliers are read take fewer.
std::uint64_t schedules_of(const Case& c) { return c.scale_block == 0 ? 8 : 2; }

class Kernels : public ::testing::TestWithParam<Case> {};

TEST_P(Kernels, AreCleanAndRightUnderEverySchedule) {
    Workload work(GetParam(), 1);
    for (std::uint64_t seed = 0; seed < schedules_of(GetParam()); ++seed) {
        // One schedule to the tensor core's bits, the others quickly.
        const Outcome outcome = work.run({.seed = seed, .exact_sums = seed == 0, .max_steps = 5'000'000}, emulator::run);
        ASSERT_EQ(outcome.kind, "clean") << work.kernel_name() << "\n" << outcome.text;
        ASSERT_GT(outcome.steps, 100u);
    }
}

INSTANTIATE_TEST_SUITE_P(Table, Kernels, ::testing::ValuesIn(family_cases()), [](const auto& info) { return info.param.name; });

TEST(Kernels, SeedsRepeatARunExactly) {
    Workload work(family_cases()[0], 1);
    const std::uint64_t steps = work.run({.seed = 3}, emulator::run).steps;
    EXPECT_EQ(work.run({.seed = 3}, emulator::run).steps, steps);
    EXPECT_NE(work.run({.seed = 4}, emulator::run).steps, steps);
}

}  // namespace
}  // namespace hopfill::testing

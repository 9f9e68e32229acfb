// The kernels as the planner chooses them, under the emulator.
#pragma once

#include <gtest/gtest.h>

#include <string>

#include "hopfill/check.h"
#include "hopfill/emulate.h"

namespace hopfill::check {

class Emulated : public Target {
public:
    Emulated() : Target(Backend::emulated) {}
    Result<void> run(const AttentionProblem&, const AttentionTensors& tensors, const AttentionOptions& options, std::uint64_t schedule) override {
        const auto problem = describe(tensors, options);
        if (!problem) return problem.error();
        const auto made = plan(*problem, DeviceInfo{}, Backend::emulated);
        if (!made) return made.error();
        kernel = made->kernel;
        scratch_bytes = made->scratch_bytes;
        const auto steps = emulate(*made, tensors, schedule);
        return steps ? Result<void>{} : Result<void>{steps.error()};
    }
    std::string kernel;
    std::int64_t scratch_bytes = 0;
};

// Runs a case on the target, which says afterwards what it ran; it is to pass.
inline void expect_right(const char* text, Emulated& target, int schedules) {
    const auto c = parse_case(text);
    ASSERT_TRUE(c) << c.error().text();
    RunOptions options;
    options.schedules = schedules;
    const Outcome outcome = run_case(*c, target, options);
    EXPECT_EQ(outcome.status, Outcome::Status::passed) << outcome.text;
}

}  // namespace hopfill::check

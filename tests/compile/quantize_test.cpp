// The quantiser's kernels, which no catalogue holds: NVRTC compiles them at first use.
#include <gtest/gtest.h>

#include "cuda/compile.h"
#include "plan/quantize.h"

namespace hopfill::cuda {
namespace {

class QuantizeKernels : public ::testing::TestWithParam<QuantizeConfig> {};

TEST_P(QuantizeKernels, CompileWithoutSpills) {
    const auto program = program_for(GetParam());
    ASSERT_TRUE(program) << program.error().text();
    const auto image = compile_program(planner::kernel_name(GetParam()), *program);
    ASSERT_TRUE(image) << image.error().text();
    for (const std::string& fault : image->faults) ADD_FAILURE() << fault;
    EXPECT_EQ(image->spill_bytes, 0);
    // Two blocks of 512 threads at least, so that one loads while another stores.
    EXPECT_LE(image->registers, GetParam().wide ? 128 : 64);
    RecordProperty("registers", image->registers);
}

INSTANTIATE_TEST_SUITE_P(All, QuantizeKernels, ::testing::ValuesIn(planner::quantize_kernels()),
                         [](const auto& info) { return planner::kernel_name(info.param); });

}  // namespace
}  // namespace hopfill::cuda

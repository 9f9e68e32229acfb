// What a machine without driver or NVRTC is told.
#include <gmock/gmock.h>

#include <cstdlib>

#include "cuda/backend.h"
#include "cuda/driver.h"
#include "cuda/nvrtc.h"

namespace hopfill::cuda {
namespace {

using testing::HasSubstr;

TEST(NoGpu, IsAnError) {
    if (driver()) GTEST_SKIP() << "there is a GPU";
    const auto device = current_device();
    ASSERT_FALSE(device);
    EXPECT_EQ(device.error().code, Code::unavailable);
    EXPECT_FALSE(device.error().message.empty());
    planner::LaunchSpec spec;
    EXPECT_TRUE(launch(spec, nullptr)) << "nothing to compute needs no GPU";
    spec.grid = 1;
    const auto launched = launch(spec, nullptr);
    ASSERT_FALSE(launched);
    EXPECT_EQ(launched.error().code, Code::unavailable);
    EXPECT_EQ(load(planner::kernel_table().front()).error().code, Code::unavailable);
    EXPECT_EQ(versions().driver, device.error().text());
}

TEST(NoGpu, TheCatalogueIsReadable) {
    const auto kernels = catalogue();
    EXPECT_LE(kernels.size(), planner::kernel_table().size());
    for (const KernelInfo& k : kernels) {
        EXPECT_EQ(k.key.size(), 64u) << k.name;
        EXPECT_GT(k.registers, 0) << k.name;
        EXPECT_GT(k.shared_bytes, 0) << k.name;
    }
}

// In a process of its own: NVRTC is opened once.
void open_nvrtc_at(const char* path) {
    setenv("HOPFILL_NVRTC", path, 1);
    const auto found = nvrtc();
    std::fputs(found ? found.value()->version.c_str() : found.error().text().c_str(), stderr);
    std::exit(found ? 0 : 1);
}

TEST(Nvrtc, ABadPathIsNamed) {
    testing::GTEST_FLAG(death_test_style) = "threadsafe";
    EXPECT_EXIT(open_nvrtc_at("/nonexistent/libnvrtc.so.13"), testing::ExitedWithCode(1), "HOPFILL_NVRTC: .*/nonexistent/libnvrtc.so.13");
    EXPECT_EXIT(open_nvrtc_at("libc.so.6"), testing::ExitedWithCode(1), "lacks nvrtc");
}

}  // namespace
}  // namespace hopfill::cuda

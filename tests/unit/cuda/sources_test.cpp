#include "cuda/sources.h"

#include <gmock/gmock.h>

#include <fstream>
#include <iterator>

#include "cuda/compile.h"
#include "plan/launch.h"

namespace hopfill::cuda {
namespace {

TEST(Sources, AreTheFilesOfTheTree) {
    ASSERT_GT(sources().size(), 15u);
    for (const Source& s : sources()) {
        const std::string name = s.name;
        const std::string path = std::string(HOPFILL_SOURCE_DIR) + "/src/" + (name.starts_with("plan/") ? "" : "kernels/") + name;
        std::ifstream in(path, std::ios::binary);
        ASSERT_TRUE(in) << path;
        EXPECT_EQ((std::string{std::istreambuf_iterator<char>(in), {}}), s.text) << name;
    }
}

TEST(Sources, ClosureHoldsWhatIsIncludedAndNoMore) {
    const auto closure = include_closure("sm90/mbarrier.cuh");
    ASSERT_TRUE(closure);
    std::vector<std::string> names;
    for (const Source& s : *closure) names.emplace_back(s.name);
    EXPECT_THAT(names, testing::ElementsAre("plan/types.h", "sm90/launch.cuh", "sm90/mbarrier.cuh"));
    const auto missing = include_closure("sm90/absent.cuh");
    ASSERT_FALSE(missing);
    EXPECT_THAT(missing.error().message, testing::HasSubstr("sm90/absent.cuh"));
}

TEST(Sources, KernelsUseNoHostHeader) {
    for (const KernelConfig& config : planner::kernel_table()) {
        const auto program = program_for(config);
        ASSERT_TRUE(program) << program.error().text();
        for (const Source& s : program->headers) EXPECT_EQ(std::string_view(s.text).find("#include <"), std::string_view::npos) << s.name;
    }
}

}  // namespace
}  // namespace hopfill::cuda

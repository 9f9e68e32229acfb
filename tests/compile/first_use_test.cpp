// A kernel that is not in the catalogue: compiled at first use, then found on disk.
#include <fmt/format.h>
#include <gmock/gmock.h>
#include <sys/resource.h>

#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "cuda/catalogue.h"
#include "cuda/compile.h"
#include "cuda/disk_cache.h"
#include "cuda/loader.h"
#include "plan/launch.h"

namespace hopfill::cuda {
namespace {

namespace fs = std::filesystem;

double seconds_of_processor() {
    rusage used{};
    getrusage(RUSAGE_SELF, &used);
    return static_cast<double>(used.ru_utime.tv_sec + used.ru_stime.tv_sec) +
           1e-6 * static_cast<double>(used.ru_utime.tv_usec + used.ru_stime.tv_usec);
}
double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

class FirstUse : public testing::Test {
protected:
    FirstUse() {
        std::string pattern = (fs::temp_directory_path() / "hopfill_first_use.XXXXXX").string();
        folder = mkdtemp(pattern.data());
        setenv("HOPFILL_CACHE_DIR", folder.c_str(), 1);
        // A head_dim class of 128 with narrow blocks: nobody ships that.
        config.family = Family::prefill;
        config.head_dim = 128;
        config.tile_n = 32;
        config.stages = 3;
    }
    ~FirstUse() override { fs::remove_all(folder); }
    fs::path folder;
    KernelConfig config;
};

TEST_F(FirstUse, CompilesInUnderTwoSecondsThenComesFromDisk) {
    const double processor = seconds_of_processor(), wall = seconds();
    const auto cold = image_for(config);
    const double cold_wall = seconds() - wall, cold_processor = seconds_of_processor() - processor;
    ASSERT_TRUE(cold) << cold.error().text();
    const double again = seconds();
    const auto warm = image_for(config);
    const double warm_wall = seconds() - again;
    ASSERT_TRUE(warm) << warm.error().text();
    fmt::print("first use of {}: {:.2f} s ({:.2f} s of processor), from disk {:.1f} ms\n", cold->name, cold_wall, cold_processor, 1000 * warm_wall);
    EXPECT_EQ(*warm, *cold);
    // Processor time: the machine may be busy with other tests.
    EXPECT_LT(cold_processor, 2.0);
    EXPECT_LT(warm_wall, cold_wall / 4);
}

TEST_F(FirstUse, ADamagedEntryIsCompiledAgain) {
    const auto cold = image_for(config);
    ASSERT_TRUE(cold) << cold.error().text();
    ASSERT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}), 1);
    const fs::path file = fs::directory_iterator(folder)->path();
    const auto size = fs::file_size(file);
    fs::resize_file(file, size / 2);
    const auto again = image_for(config);
    ASSERT_TRUE(again) << again.error().text();
    EXPECT_EQ(again->key, cold->key) << "NVRTC gives the same machine code each time";
    EXPECT_EQ(DiskCache(folder).load(file.stem()), *again) << "the entry is mended";
}

TEST_F(FirstUse, AnUnwritableCacheOnlyCostsTime) {
    std::ofstream(folder / "file") << "x";
    setenv("HOPFILL_CACHE_DIR", (folder / "file" / "cache").c_str(), 1);
    const auto image = image_for(config);
    EXPECT_TRUE(image) << image.error().text();
}

TEST_F(FirstUse, TheCatalogueNeedsNoCompiler) {
    const double wall = seconds();
    const auto image = image_for(planner::kernel_table().front());
    ASSERT_TRUE(image) << image.error().text();
    fmt::print("from the catalogue: {:.2f} ms\n", 1000 * (seconds() - wall));
    EXPECT_TRUE(fs::is_empty(folder));
}

}  // namespace
}  // namespace hopfill::cuda

#include "cuda/disk_cache.h"

#include <gmock/gmock.h>
#include <sys/wait.h>
#include <unistd.h>

#include <fstream>

namespace hopfill::cuda {
namespace {

namespace fs = std::filesystem;

class DiskCacheTest : public testing::Test {
protected:
    DiskCacheTest() {
        std::string pattern = (fs::temp_directory_path() / "hopfill_cache.XXXXXX").string();
        folder = mkdtemp(pattern.data());
    }
    ~DiskCacheTest() override { fs::remove_all(folder); }
    static KernelImage image(int n) {
        return {"k", "_Zk", "key", "12.9", n, 0, 0, 1, {}, std::string(static_cast<std::size_t>(20000 + n), static_cast<char>(n))};
    }
    fs::path folder;
};

TEST_F(DiskCacheTest, KeepsWhatIsStored) {
    const DiskCache cache(folder / "deep" / "folder");
    EXPECT_FALSE(cache.load("a"));
    EXPECT_TRUE(cache.store("a", image(1)));
    EXPECT_TRUE(cache.store("b", image(2)));
    EXPECT_EQ(*cache.load("a"), image(1));
    EXPECT_TRUE(cache.store("a", image(3)));
    EXPECT_EQ(*cache.load("a"), image(3));
    // No temporary file stays behind.
    EXPECT_EQ(std::distance(fs::directory_iterator(folder / "deep" / "folder"), fs::directory_iterator{}), 2);
}

TEST_F(DiskCacheTest, DamagedEntriesAreNone) {
    const DiskCache cache(folder);
    ASSERT_TRUE(cache.store("a", image(1)));
    fs::resize_file(cache.file("a"), 100);
    EXPECT_FALSE(cache.load("a"));
    std::ofstream(cache.file("a")) << "";
    EXPECT_FALSE(cache.load("a"));
    fs::remove(cache.file("a"));
    fs::create_directory(cache.file("a"));
    EXPECT_FALSE(cache.load("a"));
    fs::remove(cache.file("a"));
    EXPECT_TRUE(cache.store("a", image(2)));
    EXPECT_EQ(*cache.load("a"), image(2));
}

TEST_F(DiskCacheTest, AnUnwritableFolderIsNoError) {
    // Below a file: no privilege makes that a folder.
    std::ofstream(folder / "file") << "x";
    const DiskCache cache(folder / "file" / "cache");
    EXPECT_FALSE(cache.store("a", image(1)));
    EXPECT_FALSE(cache.load("a"));
    const DiskCache none{fs::path()};
    EXPECT_FALSE(none.store("a", image(1)));
    EXPECT_FALSE(none.load("a"));
}

TEST_F(DiskCacheTest, ManyProcessesShareIt) {
    constexpr int kProcesses = 6, kRounds = 150;
    const DiskCache cache(folder);
    ASSERT_TRUE(cache.store("a", image(0)));
    for (int process = 0; process < kProcesses; ++process) {
        if (fork() != 0) continue;
        int bad = 0;
        for (int i = 0; i < kRounds; ++i) {
            if (process % 2 == 0 && !cache.store("a", image(process))) ++bad;
            const auto seen = cache.load("a");
            if (!seen || *seen != image(seen->registers)) ++bad;
        }
        _exit(bad == 0 ? 0 : 1);
    }
    int failed = 0, status = 0;
    for (int i = 0; i < kProcesses; ++i)
        if (wait(&status) < 0 || status != 0) ++failed;
    EXPECT_EQ(failed, 0);
    EXPECT_EQ(std::distance(fs::directory_iterator(folder), fs::directory_iterator{}), 1);
}

TEST(CacheFolder, FollowsTheEnvironment) {
    const auto with = [](const char* own, const char* xdg, const char* home) {
        const std::pair<const char*, const char*> variables[] = {{"HOPFILL_CACHE_DIR", own}, {"XDG_CACHE_HOME", xdg}, {"HOME", home}};
        for (const auto& [name, value] : variables) value != nullptr ? setenv(name, value, 1) : unsetenv(name);
        return default_cache_folder();
    };
    const char* home = std::getenv("HOME");
    const std::string kept = home != nullptr ? home : "";
    EXPECT_EQ(with("/a", "/b", "/c"), "/a");
    EXPECT_EQ(with(nullptr, "/b", "/c"), "/b/hopfill");
    EXPECT_EQ(with("", "relative", "/c"), "/c/.cache/hopfill");
    EXPECT_EQ(with(nullptr, nullptr, nullptr), "");
    if (home != nullptr) setenv("HOME", kept.c_str(), 1);
}

}  // namespace
}  // namespace hopfill::cuda

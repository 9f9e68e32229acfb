// Output files appear whole or not at all.
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "files.h"

namespace hopfill::cli {
namespace {

namespace fs = std::filesystem;

class Files : public ::testing::Test {
protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "hopfill-test-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        folder_ = name;
    }
    void TearDown() override { fs::remove_all(folder_); }
    [[nodiscard]] std::string path(const char* name) const { return (folder_ / name).string(); }
    [[nodiscard]] std::size_t count() const { return static_cast<std::size_t>(std::distance(fs::directory_iterator(folder_), {})); }

    fs::path folder_;
};

TEST_F(Files, AppearOnCommit) {
    const std::string text = "abc";
    {
        Result<OutputFile> file = OutputFile::create(path("out"));
        ASSERT_TRUE(file);
        ASSERT_TRUE(file->write(std::as_bytes(std::span(text))));
        EXPECT_FALSE(fs::exists(path("out")));
        ASSERT_TRUE(file->commit());
    }
    EXPECT_EQ(count(), 1u);
    EXPECT_EQ(fs::file_size(path("out")), 3u);
    EXPECT_EQ(fs::status(path("out")).permissions() & fs::perms::owner_write, fs::perms::owner_write);
}

TEST_F(Files, LeaveNothingWithoutCommitAndKeepWhatWasThere) {
    std::ofstream(path("out")) << "old";
    {
        Result<OutputFile> file = OutputFile::create(path("out"));
        ASSERT_TRUE(file);
        ASSERT_TRUE(file->write(std::as_bytes(std::span("new", 3))));
    }
    EXPECT_EQ(count(), 1u);
    std::string text;
    std::ifstream(path("out")) >> text;
    EXPECT_EQ(text, "old");
}

TEST_F(Files, RefuseWhatCannotBeWritten) {
    EXPECT_FALSE(OutputFile::create(path("absent/out")));
    EXPECT_FALSE(OutputFile::create(folder_.string()));
}

TEST_F(Files, ReadExactlyOrFail) {
    std::ofstream(path("in")) << "abcdef";
    Result<InputFile> file = InputFile::open(path("in"));
    ASSERT_TRUE(file);
    EXPECT_EQ(file->size(), 6u);
    std::vector<std::byte> bytes(4);
    EXPECT_TRUE(file->read(2, bytes));
    EXPECT_EQ(static_cast<char>(bytes[3]), 'f');
    const Result<void> beyond = file->read(3, bytes);
    ASSERT_FALSE(beyond);
    EXPECT_EQ(beyond.error().code, Code::io);
    EXPECT_FALSE(InputFile::open(path("absent")));
    EXPECT_FALSE(InputFile::open(folder_.string()));
}

}  // namespace
}  // namespace hopfill::cli

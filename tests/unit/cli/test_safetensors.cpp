// The safetensors reader: what it reads, and each thing that it refuses, by name.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "safetensors.h"

namespace hopfill::cli {
namespace {

using ::testing::HasSubstr;

// A file's first bytes: length, header. The data's size is said, not made.
std::string file_of(const std::string& header) {
    std::string out(8, '\0');
    for (std::size_t i = 0; i < 8; ++i) out[i] = static_cast<char>(header.size() >> (8 * i) & 0xff);
    return out + header;
}

Result<std::vector<StoredTensor>> parse(const std::string& header, std::uint64_t data_bytes) {
    const std::string file = file_of(header);
    return parse_safetensors(std::as_bytes(std::span(file)), file.size() + data_bytes);
}

TEST(Safetensors, ReadsTensorsInFileOrder) {
    const std::string header = R"({"__metadata__":{"format":"np"},)"
                               R"("q":{"dtype":"BF16","shape":[2,3],"data_offsets":[8,20]},"cu":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}}  )";
    const auto read = parse(header, 20);
    ASSERT_TRUE(read) << read.error().text();
    ASSERT_EQ(read->size(), 2u);
    EXPECT_EQ((*read)[0].name, "cu");
    EXPECT_EQ((*read)[0].offset, 8 + header.size());
    EXPECT_EQ((*read)[1].name, "q");
    EXPECT_EQ((*read)[1].dtype, "BF16");
    EXPECT_EQ((*read)[1].shape, (std::vector<std::int64_t>{2, 3}));
    EXPECT_EQ((*read)[1].bytes, 12u);
}

TEST(Safetensors, ReadsEmptyTensorsAndScalars) {
    const auto read = parse(R"({"a":{"dtype":"F32","shape":[],"data_offsets":[0,4]},)"
                            R"("b":{"dtype":"F16","shape":[0,7],"data_offsets":[4,4]},"c":{"dtype":"F8_E4M3","shape":[3],"data_offsets":[4,7]}})",
                            7);
    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ(read->size(), 3u);
    EXPECT_TRUE(parse("{}", 0));
}

struct Refused {
    const char* name;
    std::string header;
    std::uint64_t data_bytes;
    const char* argument;
    const char* message;
};

TEST(Safetensors, RefusesAndNamesTheTensor) {
    const auto one = [](const std::string& body) { return R"({"q":{)" + body + "}}"; };
    const std::string good = R"("dtype":"F16","shape":[2],"data_offsets":[0,4])";
    ASSERT_TRUE(parse(one(good), 4));
    const std::vector<Refused> cases{
        {"not JSON", "{nonsense", 0, "", "not JSON"},
        {"empty header", "", 0, "", "begin with '{'"},
        {"list", "[]", 0, "", "begin with '{'"},
        {"two objects", "{}{}", 0, "", "not JSON"},
        {"space first", " {}", 0, "", "begin with '{'"},
        {"tensor is a number", R"({"q":1})", 0, "q", "not a JSON object"},
        {"twice", R"({"q":{)" + good + R"(},"q":{)" + good + "}}", 4, "q", "twice"},
        {"field twice", one(R"("dtype":"F16",)" + good), 4, "dtype", "twice"},
        {"no dtype", one(R"("shape":[2],"data_offsets":[0,4])"), 4, "q", "no \"dtype\""},
        {"dtype is a number", one(R"("dtype":16,"shape":[2],"data_offsets":[0,4])"), 4, "q", "no \"dtype\""},
        {"unknown dtype", one(R"("dtype":"F12","shape":[2],"data_offsets":[0,4])"), 4, "q", "unknown dtype \"F12\""},
        {"no shape", one(R"("dtype":"F16","data_offsets":[0,4])"), 4, "q", "\"shape\""},
        {"negative shape", one(R"("dtype":"F16","shape":[-2],"data_offsets":[0,4])"), 4, "q", "whole number"},
        {"fraction", one(R"("dtype":"F16","shape":[2.0],"data_offsets":[0,4])"), 4, "q", "whole number"},
        {"overflow", one(R"("dtype":"F16","shape":[4294967296,4294967296],"data_offsets":[0,4])"), 4, "q", "64 bits"},
        {"extent beyond int64", one(R"("dtype":"BOOL","shape":[9223372036854775808],"data_offsets":[0,4])"), 4, "q", "64 bits"},
        {"number beyond 64 bits", one(R"("dtype":"F16","shape":[99999999999999999999],"data_offsets":[0,4])"), 4, "q", "whole number"},
        {"one offset", one(R"("dtype":"F16","shape":[2],"data_offsets":[4])"), 4, "q", "2 are needed"},
        {"backwards", one(R"("dtype":"F16","shape":[2],"data_offsets":[4,0])"), 4, "q", "backwards"},
        {"beyond the file", one(R"("dtype":"F16","shape":[2],"data_offsets":[4,8])"), 6, "q", "truncated"},
        {"extent against shape", one(R"("dtype":"F16","shape":[3],"data_offsets":[0,4])"), 4, "q", "6 by its shape"},
        {"hole before", one(R"("dtype":"F16","shape":[2],"data_offsets":[2,6])"), 6, "q", "hole"},
        {"bytes behind", one(good), 5, "q", "1 bytes that no tensor owns"},
        {"overlap", R"({"q":{)" + good + R"(},"k":{"dtype":"F16","shape":[2],"data_offsets":[2,6]}})", 6, "k", "overlaps q"},
        {"the same bytes", R"({"q":{)" + good + R"(},"v":{)" + good + "}}", 4, "v", "overlaps q"},
        {"metadata", R"({"__metadata__":[]})", 0, "__metadata__", "not a JSON object"},
        {"metadata of numbers", R"({"__metadata__":{"a":1}})", 0, "__metadata__", "no string"},
        {"control characters", "{\"q\\n\\u0007\":1}", 0, "q??", "not a JSON object"},
    };
    for (const Refused& c : cases) {
        SCOPED_TRACE(c.name);
        const auto read = parse(c.header, c.data_bytes);
        ASSERT_FALSE(read);
        EXPECT_EQ(read.error().code, Code::invalid_argument);
        EXPECT_EQ(read.error().argument, c.argument);
        EXPECT_THAT(read.error().message, HasSubstr(c.message));
        EXPECT_EQ(read.error().text().find('\n'), std::string::npos);
    }
}

TEST(Safetensors, RefusesTruncatedHeaders) {
    const std::string file = file_of("{}");
    for (std::size_t size = 0; size < file.size(); ++size) {
        EXPECT_FALSE(parse_safetensors(std::as_bytes(std::span(file).first(size)), size)) << size;
    }
    std::string huge = file;
    huge[6] = 1;
    const auto read = parse_safetensors(std::as_bytes(std::span(huge)), ~std::uint64_t{0});
    ASSERT_FALSE(read);
    EXPECT_THAT(read.error().message, HasSubstr("at most 100000000"));
}

TEST(Safetensors, DeepNestingIsRefusedWithoutOverflow) {
    std::string header = R"({"q":)";
    header.append(1'000'000, '[');
    EXPECT_FALSE(parse(header, 0));
    header.append(1'000'000, ']');
    EXPECT_FALSE(parse(header + "}", 0));
}

TEST(Safetensors, WritesWhatItReads) {
    const std::vector<std::byte> lse(12), o(10);
    const std::string header = safetensors_header({{"lse", "F32", {3}, lse}, {"o", "BF16", {1, 5}, o}});
    EXPECT_EQ(header.size() % 8, 0u);
    const auto read = parse_safetensors(std::as_bytes(std::span(header)), header.size() + 22);
    ASSERT_TRUE(read) << read.error().text();
    EXPECT_EQ((*read)[0].name, "lse");
    EXPECT_EQ((*read)[0].offset, header.size());
    EXPECT_EQ((*read)[1].name, "o");
    EXPECT_EQ((*read)[1].offset, header.size() + 12);
    EXPECT_EQ((*read)[1].shape, (std::vector<std::int64_t>{1, 5}));
}

}  // namespace
}  // namespace hopfill::cli

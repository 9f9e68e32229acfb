// Mutated safetensors headers: none may crash, and whatever is accepted must hold the format's promises.
#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "safetensors.h"

namespace hopfill::cli {
namespace {

constexpr int kMutants = 40'000;

// Another seed looks elsewhere: HOPFILL_FUZZ_SEED=7 ./test_cli --gtest_filter='SafetensorsFuzz.*'
std::uint64_t fuzz_seed() {
    const char* text = std::getenv("HOPFILL_FUZZ_SEED");
    return text ? std::strtoull(text, nullptr, 10) : 20260101;
}

const std::vector<std::string>& pieces() {
    static const std::vector<std::string> list{"{",
                                               "}",
                                               "[",
                                               "]",
                                               ":",
                                               ",",
                                               "\"",
                                               "\"q\"",
                                               "\"k\"",
                                               "\"dtype\"",
                                               "\"shape\"",
                                               "\"data_offsets\"",
                                               "\"BF16\"",
                                               "\"F4\"",
                                               "0",
                                               "-1",
                                               "1e9",
                                               "2",
                                               "24",
                                               "48",
                                               "72",
                                               "96",
                                               "null",
                                               "true",
                                               "4294967296",
                                               "18446744073709551615",
                                               "9223372036854775808",
                                               "\\u0000",
                                               "\xff\xfe",
                                               "__metadata__"};
    return list;
}

std::string seed_file() {
    const std::vector<std::byte> data(24);
    return safetensors_header(
        {{"q", "BF16", {1, 3, 1, 4}, data}, {"k", "BF16", {1, 3, 1, 4}, data}, {"v", "F16", {12}, data}, {"cu_seqlens_q", "I32", {6}, data}});
}

std::string mutate(std::string file, std::mt19937_64& random) {
    const auto below = [&random](std::size_t n) { return static_cast<std::size_t>(random() % n); };
    for (std::size_t change = below(4) + 1; change > 0; --change) {
        const std::size_t at = below(file.size());
        switch (below(6)) {
            case 0:
                file[at] = static_cast<char>(random());
                break;
            case 1:
                file[at] = static_cast<char>(file[at] ^ (1 << below(8)));
                break;
            case 2:
                file.erase(at, below(9) + 1);
                break;
            case 3:
                file.insert(at, pieces()[below(pieces().size())]);
                break;
            case 4:
                file.insert(at, file.substr(below(file.size()), below(60)));
                break;
            case 5:
                file.resize(at);
                break;
        }
        if (file.empty()) file = " ";
    }
    return file;
}

// Sets the header's length to what follows it, so that mutations reach the JSON.
void repair_length(std::string& file) {
    if (file.size() < 8) return;
    const std::uint64_t length = file.size() - 8;
    for (std::size_t i = 0; i < 8; ++i) file[i] = static_cast<char>(length >> (8 * i) & 0xff);
}

void expect_promises(const std::vector<StoredTensor>& tensors, std::uint64_t file_bytes) {
    std::uint64_t at = tensors.empty() ? file_bytes : tensors.front().offset;
    for (const StoredTensor& t : tensors) {
        ASSERT_EQ(t.offset, at);
        at += t.bytes;
        for (const std::int64_t extent : t.shape) ASSERT_GE(extent, 0);
    }
    ASSERT_EQ(at, file_bytes);
}

TEST(SafetensorsFuzz, MutatedHeaders) {
    const std::uint64_t seed = fuzz_seed();
    std::printf("seed %llu\n", static_cast<unsigned long long>(seed));
    std::mt19937_64 random(seed);
    const std::string good = seed_file();
    int accepted = 0;
    for (int i = 0; i < kMutants; ++i) {
        std::string file = mutate(good, random);
        if (random() % 4 != 0) repair_length(file);
        // A quarter of the files keeps the header's promise of 96 bytes of data.
        const std::uint64_t bytes = file.size() + (random() % 4 != 0 ? 96 : random() % 200);
        SCOPED_TRACE(i);
        const auto read = parse_safetensors(std::as_bytes(std::span(file)), bytes);
        if (!read) {
            ASSERT_FALSE(read.error().message.empty());
            ASSERT_EQ(read.error().text().find('\n'), std::string::npos) << read.error().text();
            continue;
        }
        ++accepted;
        expect_promises(*read, bytes);
        if (::testing::Test::HasFatalFailure()) return;
    }
    EXPECT_GT(accepted, 0) << "no mutant was well-formed: the fuzzer does not reach far enough";
    EXPECT_LT(accepted, kMutants / 2);
}

}  // namespace
}  // namespace hopfill::cli

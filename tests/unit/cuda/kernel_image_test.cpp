#include "cuda/kernel_image.h"

#include <gmock/gmock.h>

#include <random>

#include "cuda/catalogue.h"
#include "cuda/digest.h"

namespace hopfill::cuda {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

KernelImage sample() {
    return {"name", "_Zlowered", "key", "12.9", 168, 0, 0, 9, {"a fault", ""}, std::string(5000, 'c') + std::string(1, '\0') + "x"};
}

TEST(KernelImage, PacksAndUnpacks) {
    const auto back = unpack(pack(sample()));
    ASSERT_TRUE(back);
    EXPECT_EQ(*back, sample());
}

TEST(KernelImage, EveryDamageIsSeen) {
    const std::string good = pack(sample());
    for (std::size_t size = 0; size < good.size(); ++size) ASSERT_FALSE(unpack(good.substr(0, size))) << size;
    for (std::size_t at = 0; at < good.size(); ++at) {
        std::string damaged = good;
        damaged[at] = static_cast<char>(damaged[at] ^ 0x20);
        ASSERT_FALSE(unpack(damaged)) << at;
    }
    EXPECT_FALSE(unpack(good + "x"));
}

TEST(KernelImage, ReadsACleanLog) {
    KernelImage image;
    read_log("ptxas info    : 0 bytes gmem\n"
             "ptxas info    : Compiling entry function 'k' for 'sm_90a'\n"
             "ptxas info    : Function properties for k\n"
             "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
             "ptxas info    : Used 168 registers, used 9 barriers\n",
             image);
    EXPECT_EQ(image.registers, 168);
    EXPECT_EQ(image.barriers, 9);
    EXPECT_TRUE(image.faults.empty());
}

TEST(KernelImage, SpillsStackAndWgmmaWarningsAreFaults) {
    KernelImage image;
    read_log("    16 bytes stack frame, 24 bytes spill stores, 28 bytes spill loads\n"
             "ptxas info    : (C7510) Potential Performance Loss: wgmma.mma_async instructions are serialized due to ...\n"
             "ptxas warning : (C7504) Potential Performance Loss: 'setmaxnreg' ignored\n"
             "ptxas info    : (C7519) something\n"
             "ptxas info    : (C7520) something else\n"
             "ptxas info    : Used 128 registers\n",
             image);
    EXPECT_EQ(image.spill_bytes, 52);
    EXPECT_EQ(image.stack_bytes, 16);
    EXPECT_THAT(image.faults,
                ElementsAre(HasSubstr("C7510"), HasSubstr("C7504"), HasSubstr("C7519"), HasSubstr("spills 52"), HasSubstr("stack frame of 16")));
}

TEST(KernelImage, AFewSpilledBytesKeepNoKernelFromItsFirstUse) {
    const auto first = [](std::string log) {
        KernelImage image;
        read_log(log + "ptxas info    : Used 168 registers\n", image);
        const std::string* fault = fault_at_first_use(image);
        return fault == nullptr ? std::string() : *fault;
    };
    EXPECT_EQ(first("    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"), "");
    EXPECT_EQ(first("    16 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads\n"), "");
    EXPECT_THAT(first("    24 bytes stack frame, 24 bytes spill stores, 24 bytes spill loads\n"), HasSubstr("spills 48"));
    EXPECT_THAT(first("    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads\nptxas info    : (C7510) Potential Performance Loss\n"),
                HasSubstr("C7510"));
    KernelImage silent;
    read_log("", silent);
    EXPECT_NE(fault_at_first_use(silent), nullptr);
}

TEST(KernelImage, ALogWithoutRegistersIsAFault) {
    KernelImage image;
    read_log("", image);
    EXPECT_EQ(image.faults.size(), 1u);
}

TEST(Catalogue, ReadsWhatWasAppended) {
    std::string blob;
    append_entry(blob, {"a", "k1", 168, 200000, 0, "NVIDIA H100, 2026-01-01"}, "packed a");
    append_entry(blob, {"b", "k2", 128, 100, 4, ""}, "packed b");
    const auto entries = read_catalogue(blob);
    ASSERT_EQ(entries.size(), 2u);
    EXPECT_EQ(entries[0].info.evidence, "NVIDIA H100, 2026-01-01");
    EXPECT_EQ(entries[0].info.shared_bytes, 200000);
    EXPECT_EQ(entries[1].info.spill_bytes, 4);
    EXPECT_EQ(entries[1].packed, "packed b");
    EXPECT_EQ(read_catalogue(std::string_view(blob).substr(0, blob.size() - 1)).size(), 1u);
}

TEST(Digest, KnownAnswers) {
    // FIPS 180-4, example of one block; and the empty message.
    EXPECT_EQ(sha256_hex("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    EXPECT_EQ(sha256_hex(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    EXPECT_NE(Sha256().add_field("ab").add_field("c").hex(), Sha256().add_field("a").add_field("bc").hex());
}

}  // namespace
}  // namespace hopfill::cuda

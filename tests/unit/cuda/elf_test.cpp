#include "cuda/elf.h"

#include <gmock/gmock.h>

#include <random>

#include "elf_builder.h"

namespace hopfill::cuda {
namespace {

using Sections = std::vector<std::pair<std::string, std::string>>;

std::string key_of(const Sections& sections) {
    const auto key = kernel_key(build_elf(sections));
    return key ? *key : key.error().text();
}

TEST(Elf, ReadsSectionsInOrder) {
    const std::string file = build_elf({{".text.a", "code"}, {".nv.info", ""}, {".debug", "x"}});
    const auto sections = elf_sections(file);
    ASSERT_TRUE(sections);
    ASSERT_EQ(sections->size(), 5u);
    EXPECT_EQ((*sections)[1].name, ".text.a");
    EXPECT_EQ((*sections)[1].content, "code");
    EXPECT_EQ((*sections)[3].content, "x");
}

TEST(Elf, KeyIgnoresNamesAndOtherSections) {
    const Sections base{{".nv.info", "i"}, {".text._Zkernel", "code"}, {".nv.info._Zkernel", "regs"}, {".nv.constant0._Zkernel", "params"}};
    Sections renamed = base;
    renamed[1].first = ".text._Zother";
    renamed[2].first = ".nv.info._Zother";
    renamed[3].first = ".nv.constant0._Zother";
    renamed.push_back({".debug_line", "lines"});
    EXPECT_EQ(key_of(base), key_of(renamed));
    EXPECT_EQ(key_of(base).size(), 64u);
}

TEST(Elf, KeyMovesWithEachCoveredSection) {
    const Sections base{{".nv.info", "i"}, {".text.k", "code"}, {".nv.info.k", "regs"}, {".nv.constant0.k", "params"}};
    for (std::size_t i = 0; i < base.size(); ++i) {
        Sections changed = base;
        changed[i].second += '!';
        EXPECT_NE(key_of(base), key_of(changed)) << base[i].first;
    }
    // A byte that moves from one section to the next is a change too.
    EXPECT_NE(key_of({{".text.a", "ab"}, {".text.b", "c"}}), key_of({{".text.a", "a"}, {".text.b", "bc"}}));
    EXPECT_NE(key_of({{".text.a", "x"}, {".nv.constant0.a", "y"}}), key_of({{".text.a", "x"}, {".nv.constant2.a", "y"}}));
}

TEST(Elf, RefusesWhatIsNoCubin) {
    EXPECT_FALSE(kernel_key(""));
    EXPECT_FALSE(kernel_key("not an ELF file, but long enough to hold a header of one: 64 bytes at least"));
    EXPECT_FALSE(kernel_key(build_elf({{".data", "no code"}})));
}

TEST(Elf, SurvivesDamage) {
    const std::string good = build_elf({{".text.k", "code"}, {".nv.info.k", "regs"}});
    for (std::size_t size = 0; size < good.size(); ++size) EXPECT_FALSE(elf_sections(good.substr(0, size))) << size;
    std::mt19937 random(1);
    for (int i = 0; i < 20000; ++i) {
        std::string damaged = good;
        for (int flips = 0; flips < 3; ++flips) damaged[random() % damaged.size()] = static_cast<char>(random());
        (void)kernel_key(damaged);
    }
}

}  // namespace
}  // namespace hopfill::cuda

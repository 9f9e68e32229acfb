#include "cuda/elf.h"

#include <cstdint>
#include <cstring>
#include <optional>

#include "cuda/digest.h"

namespace hopfill::cuda {
namespace {

// ELF-64 Object File Format 1.5: the fields read here.
constexpr std::size_t kHeaderSize = 64, kSectionHeaderSize = 64;
constexpr std::uint32_t kNoBits = 8;

// Reads past the end give zero; elf_sections() checks the extents that matter.
template <class T>
T read_at(std::string_view file, std::size_t at) {
    T value{};
    if (at <= file.size() && file.size() - at >= sizeof(T)) std::memcpy(&value, file.data() + at, sizeof(T));
    return value;
}

bool within(std::string_view file, std::uint64_t offset, std::uint64_t size) { return offset <= file.size() && size <= file.size() - offset; }

// ".text.<kernel>" -> ".text"; ".nv.constant0.<kernel>" -> ".nv.constant0"; "" for sections that the key does not cover.
std::string_view kind(std::string_view name) {
    for (std::string_view prefix : {".text", ".nv.constant", ".nv.info"}) {
        if (!name.starts_with(prefix)) continue;
        const std::size_t dot = name.find('.', prefix.size());
        return name.substr(0, dot);
    }
    return {};
}

}  // namespace

Result<std::vector<ElfSection>> elf_sections(std::string_view file) {
    const Error damaged{Code::internal, "", "the cubin is no well-formed ELF64 file"};
    constexpr std::string_view ident("\x7f"
                                     "ELF\x02\x01",
                                     6);
    if (file.size() < kHeaderSize || !file.starts_with(ident)) return damaged;
    const auto table = read_at<std::uint64_t>(file, 40);
    const auto entry_size = read_at<std::uint16_t>(file, 58);
    const auto count = read_at<std::uint16_t>(file, 60);
    const auto names_index = read_at<std::uint16_t>(file, 62);
    if (entry_size != kSectionHeaderSize || names_index >= count || !within(file, table, std::uint64_t{count} * entry_size)) return damaged;
    const auto content = [&](std::size_t index) -> std::optional<std::string_view> {
        const std::size_t at = table + index * kSectionHeaderSize;
        const auto offset = read_at<std::uint64_t>(file, at + 24), size = read_at<std::uint64_t>(file, at + 32);
        if (read_at<std::uint32_t>(file, at + 4) == kNoBits) return std::string_view{};
        if (!within(file, offset, size)) return std::nullopt;
        return file.substr(offset, size);
    };
    const auto names = content(names_index);
    if (!names) return damaged;
    std::vector<ElfSection> sections;
    for (std::size_t i = 0; i < count; ++i) {
        const auto name_at = read_at<std::uint32_t>(file, table + i * kSectionHeaderSize);
        const auto bytes = content(i);
        const std::size_t end = names->find('\0', name_at);
        if (!bytes || end == std::string_view::npos) return damaged;
        sections.push_back({names->substr(name_at, end - name_at), *bytes});
    }
    return sections;
}

Result<std::string> kernel_key(std::string_view cubin) {
    auto sections = elf_sections(cubin);
    if (!sections) return sections.error();
    Sha256 digest;
    bool code = false;
    for (const ElfSection& s : *sections) {
        const std::string_view covered = kind(s.name);
        if (covered.empty()) continue;
        code |= covered == ".text" && !s.content.empty();
        digest.add_field(covered).add_field(s.content);
    }
    if (!code) return Error{Code::internal, "", "the cubin holds no code"};
    return digest.hex();
}

}  // namespace hopfill::cuda

// Small ELF64 files for tests.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <utility>
#include <vector>

namespace hopfill::cuda {

template <class T>
void put(std::string& file, std::size_t at, T value) {
    if (file.size() < at + sizeof(T)) file.resize(at + sizeof(T));
    std::memcpy(file.data() + at, &value, sizeof(T));
}

inline std::string build_elf(std::vector<std::pair<std::string, std::string>> sections) {
    sections.insert(sections.begin(), {"", ""});
    std::string names;
    sections.emplace_back(".shstrtab", "");
    std::vector<std::uint32_t> name_at;
    for (const auto& [name, content] : sections) {
        name_at.push_back(static_cast<std::uint32_t>(names.size()));
        names += name + '\0';
    }
    sections.back().second = names;
    std::string file("\x7f"
                     "ELF\x02\x01\x01",
                     7);
    file.resize(64);
    std::vector<std::uint64_t> offset;
    for (const auto& [name, content] : sections) {
        offset.push_back(file.size());
        file += content;
    }
    const std::uint64_t table = file.size();
    put<std::uint64_t>(file, 40, table);
    put<std::uint16_t>(file, 58, 64);
    put<std::uint16_t>(file, 60, static_cast<std::uint16_t>(sections.size()));
    put<std::uint16_t>(file, 62, static_cast<std::uint16_t>(sections.size() - 1));
    file.resize(table + 64 * sections.size());
    for (std::size_t i = 0; i < sections.size(); ++i) {
        put<std::uint32_t>(file, table + 64 * i, name_at[i]);
        put<std::uint32_t>(file, table + 64 * i + 4, 1);
        put<std::uint64_t>(file, table + 64 * i + 24, offset[i]);
        put<std::uint64_t>(file, table + 64 * i + 32, sections[i].second.size());
    }
    return file;
}

}  // namespace hopfill::cuda

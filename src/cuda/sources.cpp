#include "cuda/sources.h"

#include <fmt/format.h>

#include <algorithm>

namespace hopfill::cuda {
namespace {

// The names in lines of the form: #include "name"
std::vector<std::string_view> included(std::string_view text) {
    constexpr std::string_view directive = "#include \"";
    std::vector<std::string_view> names;
    for (std::size_t at = text.find(directive); at != std::string_view::npos; at = text.find(directive, at + 1)) {
        if (at != 0 && text[at - 1] != '\n') continue;
        const std::size_t begin = at + directive.size();
        names.push_back(text.substr(begin, text.find('"', begin) - begin));
    }
    return names;
}

}  // namespace

Result<std::vector<Source>> include_closure(std::string_view entry) {
    std::vector<Source> found;
    std::vector<std::string_view> wanted{entry};
    while (!wanted.empty()) {
        const std::string_view name = wanted.back();
        wanted.pop_back();
        if (std::ranges::any_of(found, [&](const Source& s) { return name == s.name; })) continue;
        const auto source = std::ranges::find_if(sources(), [&](const Source& s) { return name == s.name; });
        if (source == sources().end()) return Error{Code::internal, "", fmt::format("device header {} is not embedded", name)};
        found.push_back(*source);
        for (std::string_view inner : included(source->text)) wanted.push_back(inner);
    }
    std::ranges::sort(found, {}, [](const Source& s) { return std::string_view(s.name); });
    return found;
}

}  // namespace hopfill::cuda

#include <array>
#include <utility>

#include "api/error.h"
#include "hopfill/attention.h"

namespace hopfill {
namespace {

constexpr std::array<std::pair<Backend, std::string_view>, 5> kNames{
    {{Backend::automatic, "auto"}, {Backend::sm90, "sm90"}, {Backend::cpu, "cpu"}, {Backend::emulated, "emulated"}, {Backend::oracle, "oracle"}}};

}  // namespace

std::string_view name_of(Backend backend) {
    for (const auto& [value, name] : kNames) {
        if (value == backend) return name;
    }
    return "?";
}

Result<Backend> backend_from_name(std::string_view name) {
    for (const auto& [value, text] : kNames) {
        if (text == name) return value;
    }
    return invalid("backend", "is \"{}\"; auto, sm90, cpu, emulated and oracle are allowed", name);
}

}  // namespace hopfill

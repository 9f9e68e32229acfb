// Short ways to make errors.
#pragma once

#include <fmt/format.h>

#include <string>
#include <utility>

#include "hopfill/result.h"

namespace hopfill {

template <class... Args>
Error invalid(std::string argument, fmt::format_string<Args...> text, Args&&... args) {
    return {Code::invalid_argument, std::move(argument), fmt::format(text, std::forward<Args>(args)...)};
}

template <class... Args>
Error unsupported(std::string argument, fmt::format_string<Args...> text, Args&&... args) {
    return {Code::unsupported, std::move(argument), fmt::format(text, std::forward<Args>(args)...)};
}

}  // namespace hopfill

// hopfill::Error as Python exceptions.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

#include "hopfill/result.h"

namespace hopfill::python {

/// Creates hopfill.Error and its subclasses in the module and makes C++ throws of Failure arrive as them.
void register_errors(nanobind::module_& m);

/// Thrown by the extension's own code; becomes the Python exception of its code, with `.argument` set.
struct Failure {
    Error error;
};

[[noreturn]] inline void fail(Code code, std::string argument, std::string message) {
    throw Failure{{code, std::move(argument), std::move(message)}};
}

template <class T>
T unwrap(Result<T> result) {
    if (!result.ok()) throw Failure{result.error()};
    if constexpr (!std::is_void_v<T>) return std::move(*result);
}

}  // namespace hopfill::python

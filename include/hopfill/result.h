// Errors as values: Hopfill never throws across its API and never aborts.
#pragma once

#include <string>
#include <utility>
#include <variant>

namespace hopfill {

enum class Code {
    invalid_argument,  ///< an argument contradicts itself, another one, or its documented range
    unsupported,       ///< well-formed, but no kernel here computes it
    unavailable,       ///< the backend asked for is not present (no GPU, no driver, no NVRTC)
    device,            ///< the driver reported an error
    io,                ///< a file could not be read or written
    internal,          ///< a fault in Hopfill: please report it
};

/// What went wrong. `argument` names the argument or tensor at fault ("q", "k.strides[1]"), or is empty; `message` is one line that says the
/// value found and what is allowed.
struct Error {
    Code code = Code::internal;
    std::string argument;
    std::string message;

    /// "argument: message", or the message alone.
    [[nodiscard]] std::string text() const { return argument.empty() ? message : argument + ": " + message; }
};

/// A value or an Error. Test it before use; value() of an error is undefined.
template <class T>
class [[nodiscard]] Result {
public:
    Result(T value) : state_(std::in_place_index<0>, std::move(value)) {}
    Result(Error error) : state_(std::in_place_index<1>, std::move(error)) {}

    [[nodiscard]] bool ok() const { return state_.index() == 0; }
    explicit operator bool() const { return ok(); }
    T& value() & { return *std::get_if<0>(&state_); }
    const T& value() const& { return *std::get_if<0>(&state_); }
    T&& value() && { return std::move(*std::get_if<0>(&state_)); }
    T& operator*() & { return value(); }
    const T& operator*() const& { return value(); }
    T&& operator*() && { return std::move(*this).value(); }
    T* operator->() { return &value(); }
    const T* operator->() const { return &value(); }
    [[nodiscard]] const Error& error() const { return *std::get_if<1>(&state_); }

private:
    std::variant<T, Error> state_;
};

/// Success without a value, or an Error.
template <>
class [[nodiscard]] Result<void> {
public:
    Result() = default;
    Result(Error error) : error_(std::move(error)), ok_(false) {}

    [[nodiscard]] bool ok() const { return ok_; }
    explicit operator bool() const { return ok_; }
    [[nodiscard]] const Error& error() const { return error_; }

private:
    Error error_;
    bool ok_ = true;
};

}  // namespace hopfill

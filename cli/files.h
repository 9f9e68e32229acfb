// Reading and writing files, with errors that say which.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

#include "hopfill/result.h"

namespace hopfill::cli {

// A regular file open for reading.
class InputFile {
public:
    // Errors: io.
    static Result<InputFile> open(const std::string& path);
    InputFile(InputFile&& other) noexcept;
    InputFile(const InputFile&) = delete;
    InputFile& operator=(const InputFile&) = delete;
    ~InputFile();

    [[nodiscard]] std::uint64_t size() const { return size_; }
    // Fills `to` from the file's bytes at `offset`. Errors: io, a file that has become shorter included.
    Result<void> read(std::uint64_t offset, std::span<std::byte> to) const;

private:
    InputFile(std::string path, int fd, std::uint64_t size) : path_(std::move(path)), fd_(fd), size_(size) {}
    std::string path_;
    int fd_ = -1;
    std::uint64_t size_ = 0;
};

// A file that appears under its name only when commit() has written all of it: until then, and if it is never called, there is a temporary file
// beside it, which is removed.
class OutputFile {
public:
    static Result<OutputFile> create(const std::string& path);
    OutputFile(OutputFile&& other) noexcept;
    OutputFile(const OutputFile&) = delete;
    OutputFile& operator=(const OutputFile&) = delete;
    ~OutputFile();

    Result<void> write(std::span<const std::byte> bytes);
    Result<void> commit();

private:
    OutputFile(std::string path, std::string temporary, int fd) : path_(std::move(path)), temporary_(std::move(temporary)), fd_(fd) {}
    [[nodiscard]] Error failed(const char* what) const;
    std::string path_, temporary_;
    int fd_ = -1;
};

}  // namespace hopfill::cli

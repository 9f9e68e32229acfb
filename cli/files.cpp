#include "files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

namespace hopfill::cli {
namespace {

Error failed(const std::string& path, const std::string& what) { return {Code::io, path, what}; }

}  // namespace

Result<InputFile> InputFile::open(const std::string& path) {
    const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return failed(path, std::strerror(errno));
    struct stat status {};
    if (::fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
        ::close(fd);
        return failed(path, "is not a regular file");
    }
    return InputFile(path, fd, static_cast<std::uint64_t>(status.st_size));
}

InputFile::InputFile(InputFile&& other) noexcept : path_(std::move(other.path_)), fd_(std::exchange(other.fd_, -1)), size_(other.size_) {}

InputFile::~InputFile() {
    if (fd_ >= 0) ::close(fd_);
}

Result<void> InputFile::read(std::uint64_t offset, std::span<std::byte> to) const {
    while (!to.empty()) {
        const ssize_t n = ::pread(fd_, to.data(), to.size(), static_cast<off_t>(offset));
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return failed(path_, std::strerror(errno));
        if (n == 0) return failed(path_, "has become shorter while it was read");
        to = to.subspan(static_cast<std::size_t>(n));
        offset += static_cast<std::uint64_t>(n);
    }
    return {};
}

Result<OutputFile> OutputFile::create(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) return cli::failed(path, "exists and is not a regular file");
    std::string temporary = path + ".XXXXXX";
    const int fd = ::mkostemp(temporary.data(), O_CLOEXEC);
    if (fd < 0) return cli::failed(path, std::string("cannot be written: ") + std::strerror(errno));
    // mkostemp makes files that only their owner reads; outputs get what the umask leaves.
    const mode_t mask = ::umask(0);
    ::umask(mask);
    ::fchmod(fd, 0666 & ~mask);
    return OutputFile(path, std::move(temporary), fd);
}

OutputFile::OutputFile(OutputFile&& other) noexcept
    : path_(std::move(other.path_)), temporary_(std::exchange(other.temporary_, {})), fd_(std::exchange(other.fd_, -1)) {}

OutputFile::~OutputFile() {
    if (fd_ >= 0) ::close(fd_);
    if (!temporary_.empty()) ::unlink(temporary_.c_str());
}

Error OutputFile::failed(const char* what) const { return cli::failed(path_, std::string(what) + ": " + std::strerror(errno)); }

Result<void> OutputFile::write(std::span<const std::byte> bytes) {
    while (!bytes.empty()) {
        const ssize_t n = ::write(fd_, bytes.data(), bytes.size());
        if (n < 0 && errno == EINTR) continue;
        if (n < 0) return failed("cannot be written");
        bytes = bytes.subspan(static_cast<std::size_t>(n));
    }
    return {};
}

Result<void> OutputFile::commit() {
    if (::fsync(fd_) != 0) return failed("cannot be written");
    if (::close(std::exchange(fd_, -1)) != 0) return failed("cannot be written");
    if (std::rename(temporary_.c_str(), path_.c_str()) != 0) return failed("cannot be renamed into place");
    temporary_.clear();
    return {};
}

}  // namespace hopfill::cli

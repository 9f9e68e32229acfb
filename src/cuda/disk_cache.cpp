#include "cuda/disk_cache.h"

#include <stdlib.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>

namespace hopfill::cuda {

namespace fs = std::filesystem;

namespace {

constexpr std::uintmax_t kLargestEntry = std::uintmax_t{1} << 28;

}  // namespace

fs::path default_cache_folder() {
    const auto variable = [](const char* name) {
        const char* value = std::getenv(name);
        return std::string(value != nullptr ? value : "");
    };
    if (const std::string own = variable("HOPFILL_CACHE_DIR"); !own.empty()) return own;
    // The XDG Base Directory Specification says to ignore a relative path.
    if (const std::string xdg = variable("XDG_CACHE_HOME"); xdg.starts_with('/')) return fs::path(xdg) / "hopfill";
    if (const std::string home = variable("HOME"); !home.empty()) return fs::path(home) / ".cache" / "hopfill";
    return {};
}

std::optional<KernelImage> DiskCache::load(const std::string& key) const {
    if (folder_.empty()) return std::nullopt;
    std::error_code failed;
    const std::uintmax_t size = fs::file_size(file(key), failed);  // fails on what is no regular file
    if (failed || size > kLargestEntry) return std::nullopt;
    std::string bytes(size, '\0');
    std::ifstream in(file(key), std::ios::binary);
    if (!in.read(bytes.data(), static_cast<std::streamsize>(size))) return std::nullopt;
    return unpack(bytes);
}

bool DiskCache::store(const std::string& key, const KernelImage& image) const {
    if (folder_.empty()) return false;
    std::error_code failed;
    fs::create_directories(folder_, failed);
    std::string temporary = (folder_ / (key + ".XXXXXX")).string();
    const int fd = mkstemp(temporary.data());
    if (fd < 0) return false;
    const std::string bytes = pack(image);
    std::size_t written = 0;
    while (written < bytes.size()) {
        const ssize_t n = ::write(fd, bytes.data() + written, bytes.size() - written);
        if (n <= 0) break;
        written += static_cast<std::size_t>(n);
    }
    const bool whole = written == bytes.size() && ::close(fd) == 0;
    if (whole) fs::rename(temporary, file(key), failed);
    if (!whole || failed) {
        std::error_code ignored;
        fs::remove(temporary, ignored);
        return false;
    }
    return true;
}

}  // namespace hopfill::cuda

// Compiled kernels in a folder, one file each: many processes may share it.
#pragma once

#include <filesystem>
#include <optional>
#include <string>

#include "cuda/kernel_image.h"

namespace hopfill::cuda {

class DiskCache {
public:
    // An empty folder name makes a cache that keeps nothing.
    explicit DiskCache(std::filesystem::path folder) : folder_(std::move(folder)) {}

    // Nothing when there is no entry, or a damaged one.
    [[nodiscard]] std::optional<KernelImage> load(const std::string& key) const;
    // Atomic: readers see the old entry or the new one. False when the folder cannot be written, which is no error.
    bool store(const std::string& key, const KernelImage& image) const;

    [[nodiscard]] std::filesystem::path file(const std::string& key) const { return folder_ / (key + ".kernel"); }

private:
    std::filesystem::path folder_;
};

// HOPFILL_CACHE_DIR, $XDG_CACHE_HOME/hopfill or ~/.cache/hopfill; empty without a home.
std::filesystem::path default_cache_folder();

}  // namespace hopfill::cuda

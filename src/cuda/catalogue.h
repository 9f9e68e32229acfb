// Kernels compiled when the library was built, embedded as one blob.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hopfill/info.h"

namespace hopfill::cuda {

struct CatalogueEntry {
    KernelInfo info;
    std::string_view packed;  // see unpack() in kernel_image.h
};

// The blob's form: for each kernel its name, key, evidence, numbers and packed image.
void append_entry(std::string& blob, const KernelInfo& info, std::string_view packed);
std::vector<CatalogueEntry> read_catalogue(std::string_view blob);

// The library's own blob.
std::string_view embedded_catalogue();

}  // namespace hopfill::cuda

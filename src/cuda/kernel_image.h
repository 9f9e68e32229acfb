// A compiled kernel and its bytes in the disk cache and in the catalogue.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "hopfill/result.h"

namespace hopfill::cuda {

struct KernelImage {
    std::string name;          // planner::kernel_name
    std::string lowered_name;  // symbol in the cubin
    std::string key;           // see kernel_key() in elf.h
    std::string compiler;      // NVRTC's version
    int registers = 0;         // per thread at launch
    int spill_bytes = 0;       // stores and loads
    int stack_bytes = 0;
    int barriers = 0;          // named barriers in use
    std::vector<std::string> faults;  // what a shipped kernel must not have: ptxas warnings, spills, a stack frame
    std::string cubin;
    bool operator==(const KernelImage&) const = default;
};

// Self-checking: a digest leads, so that a damaged entry is never taken for a kernel. The cubin is compressed (zstd).
std::string pack(const KernelImage& image);
std::optional<KernelImage> unpack(std::string_view bytes);

// Fills registers, spills, stack, barriers and faults from NVRTC's log (made with --ptxas-options=-v).
void read_log(std::string_view log, KernelImage& image);

// Strings in one string, each behind its length.
void append_field(std::string& to, std::string_view field);
// Takes one off the front; nothing when `from` is too short.
std::optional<std::string_view> take_field(std::string_view& from);

}  // namespace hopfill::cuda

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

// What keeps a kernel that was compiled at first use from being loaded: its first fault, or null. A stack frame of up to 16 bytes is
// a few values kept in memory from one job to the next: no reason to refuse the user's call. A kernel of the catalogue may not have even that.
const std::string* fault_at_first_use(const KernelImage& image);

// Fills registers, spills, stack, barriers and faults from NVRTC's log (made with --ptxas-options=-v).
void read_log(std::string_view log, KernelImage& image);

// Strings in one string, each behind its length.
void append_field(std::string& to, std::string_view field);
// Takes one off the front; nothing when `from` is too short.
std::optional<std::string_view> take_field(std::string_view& from);

}  // namespace hopfill::cuda

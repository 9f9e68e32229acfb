// The sections of a cubin, which is an ELF64 file, and the key that names machine code whatever it is called.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "hopfill/result.h"

namespace hopfill::cuda {

struct ElfSection {
    std::string_view name, content;
};

// In file order of the section headers; content of a section without bytes in the file is empty. Errors: internal, for what is no little-endian
// ELF64.
Result<std::vector<ElfSection>> elf_sections(std::string_view file);

// SHA-256 over the contents of .text*, .nv.constant* and .nv.info*, without the kernels' names (see DESIGN.md, 'Evidence').
Result<std::string> kernel_key(std::string_view cubin);

}  // namespace hopfill::cuda

// The blob that hopfill_catalogue wrote, as read-only data.
#include "cuda/catalogue.h"

__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    ".hidden hopfill_catalogue_begin\n"
    ".hidden hopfill_catalogue_end\n"
    ".globl hopfill_catalogue_begin\n"
    ".globl hopfill_catalogue_end\n"
    "hopfill_catalogue_begin:\n"
    ".incbin \"" HOPFILL_CATALOGUE_FILE "\"\n"
    "hopfill_catalogue_end:\n"
    ".byte 0\n"
    ".popsection\n");

extern "C" __attribute__((visibility("hidden"))) const char hopfill_catalogue_begin[];
extern "C" __attribute__((visibility("hidden"))) const char hopfill_catalogue_end[];

namespace hopfill::cuda {

std::string_view embedded_catalogue() { return {hopfill_catalogue_begin, hopfill_catalogue_end}; }

}  // namespace hopfill::cuda

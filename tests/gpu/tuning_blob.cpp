#include "tuning_blob.h"

__asm__(
    ".pushsection .rodata\n"
    ".balign 16\n"
    ".globl hopfill_tuning_begin\n"
    ".globl hopfill_tuning_end\n"
    "hopfill_tuning_begin:\n"
    ".incbin \"" HOPFILL_TUNING_FILE "\"\n"
    "hopfill_tuning_end:\n"
    ".byte 0\n"
    ".popsection\n");

extern "C" const char hopfill_tuning_begin[];
extern "C" const char hopfill_tuning_end[];

namespace hopfill::gpu {

std::string_view tuning_catalogue() { return {hopfill_tuning_begin, hopfill_tuning_end}; }

}  // namespace hopfill::gpu

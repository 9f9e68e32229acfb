// hopfill_instruction_kernels HEADER OUTPUT: compiles the one-instruction kernels into a file.
#include <cstdio>

#include "instruction_kernels.h"

int main(int count, char** words) {
    using namespace hopfill;
    if (count != 3) {
        std::fputs("usage: hopfill_instruction_kernels HEADER OUTPUT\n", stderr);
        return 2;
    }
    const auto kernels = testing::compile_instruction_kernels(words[1]);
    if (!kernels) {
        std::fprintf(stderr, "%s\n", kernels.error().text().c_str());
        return 1;
    }
    if (!testing::write_instruction_kernels(words[2], *kernels)) {
        std::fprintf(stderr, "%s cannot be written\n", words[2]);
        return 2;
    }
    return 0;
}

// Written by sm90/gen_wgmma.py: N of wgmma that its wrappers have.
#pragma once

#include "plan/types.h"

namespace hopfill {

constexpr bool is_wgmma_width(i32 n) {
    return n == 16 || n == 32 || n == 64 || n == 80 || n == 96 || n == 112 || n == 128 ||
           n == 144 || n == 160 || n == 176 || n == 192 || n == 208 || n == 224 || n == 256;
}

}  // namespace hopfill

// setmaxnreg: moves registers between warpgroups (PTX ISA 9.7.19.5). All warps of a warpgroup execute it, converged; the count is a
// multiple of 8 in [24, 256]; a sum over warpgroups above what the launch allocated hangs.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

template <u32 Count>
HOPFILL_INLINE void give_registers() {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256);
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;\n" ::"n"(Count));
}
template <u32 Count>
HOPFILL_INLINE void take_registers() {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256);
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;\n" ::"n"(Count));
}

}  // namespace hopfill::sm90

// The emulator's twin of src/kernels/sm90/regs.cuh.
#pragma once

#include "sm90/launch.cuh"

namespace hopfill::sm90 {

template <u32 Count>
HOPFILL_INLINE void give_registers(Site at = Site::current()) {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256);
    emulator::set_registers(Count, false, at);
}
template <u32 Count>
HOPFILL_INLINE void take_registers(Site at = Site::current()) {
    static_assert(Count % 8 == 0 && Count >= 24 && Count <= 256);
    emulator::set_registers(Count, true, at);
}

}  // namespace hopfill::sm90

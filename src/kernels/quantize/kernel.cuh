// 16-bit K or V to E4M3 with scales: streams memory. See SCHEDULE.md.
#pragma once

#include "quantize/stages.cuh"

namespace hopfill {

template <QuantizeConfig C>
HOPFILL_KERNEL(kQuantizeThreads)
void quantize_kernel(HOPFILL_GRID_CONSTANT const QuantizeParams params) {
    sm90::wait_for_previous_launch();
    if constexpr (C.stage == QuantizeStage::prepare)
        prepare<C.elem>(params);
    else if constexpr (C.stage == QuantizeStage::greatest)
        greatest<C.elem>(params);
    else
        round<C.elem, C.transposed>(params);
}

}  // namespace hopfill

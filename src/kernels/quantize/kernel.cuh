// 16-bit K or V to E4M3 with scales, and E4M3 K and V to 16 bits without: streams memory. See SCHEDULE.md.
#pragma once

#include "quantize/stages.cuh"
#include "quantize/widen.cuh"

namespace hopfill {

template <QuantizeConfig C>
HOPFILL_STREAMING_KERNEL(kQuantizeThreads, quantize_blocks(C))
void quantize_kernel(HOPFILL_GRID_CONSTANT const typename QuantizeParamsFor<C.stage>::Type params) {
    sm90::let_next_launch_start();
    sm90::wait_for_previous_launch();
    if constexpr (C.stage == QuantizeStage::widen)
        widen<C.elem>(params);
    else if constexpr (C.stage == QuantizeStage::sum)
        sum<C>(params);
    else if constexpr (C.stage == QuantizeStage::prepare)
        prepare<C>(params);
    else if constexpr (C.stage == QuantizeStage::greatest)
        greatest<C>(params);
    else
        round<C>(params);
}

}  // namespace hopfill

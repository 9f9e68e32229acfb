#include "emulator/quantize.h"

#include "quantize/kernel.cuh"

namespace hopfill::emulator {
namespace {

template <QuantizeConfig C>
void kernel(const QuantizeParams& p) {
    quantize_kernel<C>(p);
}

template <Elem E>
QuantizeFunction kernel_of(const QuantizeConfig& c) {
    switch (c.stage) {
        case QuantizeStage::prepare:
            return kernel<QuantizeConfig{QuantizeStage::prepare, E, false}>;
        case QuantizeStage::greatest:
            return kernel<QuantizeConfig{QuantizeStage::greatest, E, false}>;
        case QuantizeStage::round:
            break;
    }
    return c.transposed ? kernel<QuantizeConfig{QuantizeStage::round, E, true}> : kernel<QuantizeConfig{QuantizeStage::round, E, false}>;
}

}  // namespace

Report run_quantizer(const planner::QuantizeLaunch& spec, const Options& options) {
    return run_kernel(spec, spec.config.elem == Elem::f16 ? kernel_of<Elem::f16>(spec.config) : kernel_of<Elem::bf16>(spec.config), options);
}

}  // namespace hopfill::emulator

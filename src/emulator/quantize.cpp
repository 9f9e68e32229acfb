#include "emulator/quantize.h"

#include <utility>

#include "quantize/kernel.cuh"

namespace hopfill::emulator {
namespace {

template <QuantizeConfig C>
void kernel(const QuantizeParams& p) {
    quantize_kernel<C>(p);
}

template <std::size_t... I>
QuantizeFunction kernel_of(const QuantizeConfig& config, std::index_sequence<I...>) {
    QuantizeFunction found = nullptr;
    ((kQuantizeKernels.config[I] == config ? void(found = kernel<kQuantizeKernels.config[I]>) : void()), ...);
    return found;
}

}  // namespace

Report run_quantizer(const planner::QuantizeLaunch& spec, const Options& options) {
    return run_kernel(spec, kernel_of(spec.config, std::make_index_sequence<QuantizeKernels::size>()), options);
}

}  // namespace hopfill::emulator

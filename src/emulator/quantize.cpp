#include "emulator/quantize.h"

#include <utility>

#include "quantize/kernel.cuh"

namespace hopfill::emulator {
namespace {

template <QuantizeConfig C>
void kernel(const planner::QuantizeLaunch& launch) {
    quantize_kernel<C>(launch.params);
}
template <Elem E>
void widening(const planner::QuantizeLaunch& launch) {
    quantize_kernel<widening_to(E)>(launch.widen);
}

template <std::size_t... I>
QuantizeFunction kernel_of(const QuantizeConfig& config, std::index_sequence<I...>) {
    QuantizeFunction found = nullptr;
    if (config == widening_to(Elem::bf16)) found = widening<Elem::bf16>;
    if (config == widening_to(Elem::f16)) found = widening<Elem::f16>;
    ((kQuantizeKernels.config[I] == config ? void(found = kernel<kQuantizeKernels.config[I]>) : void()), ...);
    return found;
}

}  // namespace

QuantizeFunction quantizer_of(const QuantizeConfig& config) { return kernel_of(config, std::make_index_sequence<QuantizeKernels::size>()); }

Report run_quantizer(const planner::QuantizeLaunch& spec, const Options& options) { return run_kernel(spec, quantizer_of(spec.config), options); }

}  // namespace hopfill::emulator

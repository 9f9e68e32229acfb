#include "emulator/quantize.h"

#include "quantize/kernel.cuh"

namespace hopfill::emulator {
namespace {

using Kernel = void (*)(const QuantizeParams&);

template <QuantizeConfig C>
void kernel(const QuantizeParams& p) {
    quantize_kernel<C>(p);
}

template <Elem E>
Kernel kernel_of(const QuantizeConfig& c) {
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

std::size_t extent(const TensorView& t) {
    if (t.elements() == 0) return 0;
    std::int64_t last = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(t.rank); ++i) last += (t.shape[i] - 1) * t.strides[i];
    return static_cast<std::size_t>((last + 1) * size_of(t.dtype));
}

}  // namespace

Report run(const planner::QuantizeLaunch& spec, const Options& options) {
    Launch launch{spec.grid, spec.threads, spec.shared_bytes, 0, {}};
    for (const auto& [tensor, writable] : spec.tensors) {
        launch.buffers.push_back({std::string(name_of(tensor.dtype)) + " tensor", tensor.data, extent(tensor), writable});
    }
    const Kernel kernel = spec.config.elem == Elem::f16 ? kernel_of<Elem::f16>(spec.config) : kernel_of<Elem::bf16>(spec.config);
    return emulate(
        launch, [&] { kernel(spec.params); }, options);
}

}  // namespace hopfill::emulator

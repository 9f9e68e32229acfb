// The planner's kernels, found by their configs.
#include "emulator/backend.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "emulator/instances.h"

namespace hopfill::emulator {
namespace {

template <int... Part>
KernelFunction kernel_of(int row, std::integer_sequence<int, Part...>) {
    KernelFunction f = nullptr;
    ((row % kParts == Part ? void(f = kernel_of_part<Part>(row / kParts)) : void()), ...);
    return f;
}

KernelFunction find_kernel(const KernelConfig& config) {
    int first = 0;
    for (const auto* table : {&planner::kernel_table(), &planner::first_use_table()}) {
        const auto row = std::find(table->begin(), table->end(), config);
        if (row != table->end()) return kernel_of(first + static_cast<int>(row - table->begin()), std::make_integer_sequence<int, kParts>());
        first += static_cast<int>(table->size());
    }
    return nullptr;
}

}  // namespace

Result<Report> run(const planner::LaunchSpec& spec, const Options& options) {
    if (spec.grid == 0) return Report{};
    const KernelFunction kernel = find_kernel(spec.config);
    if (kernel == nullptr)
        return Error{Code::unsupported, "kernel", fmt::format("{} is not compiled into the emulator", planner::kernel_name(spec.config))};
    return run_kernel(spec, kernel, options, spec.copying ? quantizer_of(spec.copying->config) : nullptr);
}

}  // namespace hopfill::emulator

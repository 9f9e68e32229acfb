#include "cuda/launch.h"

#include <fmt/format.h>

#include "cuda/backend.h"
#include "cuda/driver.h"
#include "cuda/loader.h"
#include "cuda/tensor_map.h"
#include "cuda/work_counter.h"

namespace hopfill::cuda {
namespace {

// Functions that this thread launched lately: spares the lock and the name of function_for().
struct Slot {
    unsigned long long context = 0;
    KernelConfig config;
    CUfunction function = nullptr;
};
constexpr std::size_t kSlots = 64;
thread_local Slot slots[kSlots];

std::size_t hash(unsigned long long context, const KernelConfig& c) {
    std::size_t h = context;
    for (i32 field : {static_cast<i32>(c.family), static_cast<i32>(c.elem), static_cast<i32>(c.out), static_cast<i32>(c.mask), c.head_dim, c.tile_n,
                      c.stages, c.consumers, static_cast<i32>(c.packed), static_cast<i32>(c.dynamic), static_cast<i32>(c.pingpong), c.scale_block,
                      static_cast<i32>(c.v_transposed)})
        h = h * 31 + static_cast<std::size_t>(field);
    return h;
}

Result<CUfunction> find_function(const Driver& cu, unsigned long long context, const KernelConfig& config) {
    Slot& slot = slots[hash(context, config) % kSlots];
    if (slot.function != nullptr && slot.context == context && slot.config == config) return slot.function;
    auto function = function_for(cu, context, config);
    if (!function) return function;
    slot = {context, config, *function};
    return function;
}

}  // namespace

Result<void> load(const KernelConfig& config) {
    const auto cu = driver();
    if (!cu) return cu.error();
    const auto context = current_context(**cu);
    if (!context) return context.error();
    if (auto function = find_function(**cu, *context, config); !function) return function.error();
    return config.dynamic ? reserve_counters(**cu, *context) : Result<void>{};
}

Result<void> launch(const planner::LaunchSpec& spec, Stream stream, LaunchOptions options) {
    if (spec.grid == 0) return {};
    const auto opened = driver();
    if (!opened) return opened.error();
    const Driver& cu = **opened;
    const auto context = current_context(cu);
    if (!context) return context.error();
    const auto function = find_function(cu, *context, spec.config);
    if (!function) return function.error();
    PrefillVtParams params = spec.params;
    for (const auto& [tensor, from, to] : spec.maps()) {
        if (tensor == nullptr) continue;
        if (auto r = encode(cu, *from, tensor, params.*to); !r) return r;
    }
    const auto cu_stream = static_cast<CUstream>(stream);
    if (spec.config.dynamic) {
        const auto counter = work_counter(cu, *context, cu_stream);
        if (!counter) return counter.error();
        params.work_counter = reinterpret_cast<u32*>(*counter);
    }
    CUlaunchAttribute attribute{CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, {}, {}};
    attribute.value.programmatic_stream_serialization_allowed = 1;
    const CUlaunchConfig config{static_cast<unsigned>(spec.grid),         1,         1,          static_cast<unsigned>(spec.threads), 1, 1,
                                static_cast<unsigned>(spec.shared_bytes), cu_stream, &attribute, options.programmatic ? 1u : 0u};
    void* arguments[] = {&params};
    const CUresult status = cu.cuLaunchKernelEx(&config, *function, arguments, nullptr);
    if (status == 0) return {};
    return Error{Code::device, "",
                 fmt::format("cannot launch {} ({} blocks of {} threads, {} bytes of shared memory): {}", planner::kernel_name(spec.config),
                             spec.grid, spec.threads, spec.shared_bytes, cu.describe(status))};
}

Result<void> launch(const planner::QuantizeLaunch& spec, Stream stream) {
    const auto opened = driver();
    if (!opened) return opened.error();
    const Driver& cu = **opened;
    const auto context = current_context(cu);
    if (!context) return context.error();
    const auto function = function_for(cu, *context, spec.config);
    if (!function) return function.error();
    QuantizeParams params = spec.params;
    CUlaunchAttribute attribute{CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, {}, {}};
    attribute.value.programmatic_stream_serialization_allowed = 1;
    const CUlaunchConfig config{static_cast<unsigned>(spec.grid),         1, 1, static_cast<unsigned>(spec.threads), 1, 1,
                                static_cast<unsigned>(spec.shared_bytes), static_cast<CUstream>(stream), &attribute, 1};
    void* arguments[] = {&params};
    const CUresult status = cu.cuLaunchKernelEx(&config, *function, arguments, nullptr);
    if (status == 0) return {};
    return Error{Code::device, "",
                 fmt::format("cannot launch {} ({} blocks): {}", planner::kernel_name(spec.config), spec.grid, cu.describe(status))};
}

Result<void> launch(const planner::LaunchSpec& spec, Stream stream) { return launch(spec, stream, LaunchOptions{}); }

}  // namespace hopfill::cuda

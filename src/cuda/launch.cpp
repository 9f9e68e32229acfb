#include "cuda/launch.h"

#include <fmt/format.h>

#include <utility>

#include "cuda/backend.h"
#include "cuda/driver.h"
#include "cuda/loader.h"
#include "cuda/scratch.h"
#include "cuda/tensor_map.h"
#include "cuda/work_counter.h"

namespace hopfill::cuda {
namespace {

std::size_t hash(unsigned long long context, const KernelConfig& c) {
    std::size_t h = context;
    for (i32 field : {static_cast<i32>(c.family), static_cast<i32>(c.elem), static_cast<i32>(c.out), static_cast<i32>(c.mask), c.head_dim, c.tile_n,
                      c.stages, c.consumers, static_cast<i32>(c.packed), static_cast<i32>(c.dynamic), static_cast<i32>(c.pingpong), c.scale_block,
                      static_cast<i32>(c.v_transposed), static_cast<i32>(c.ahead), static_cast<i32>(c.v_turned), static_cast<i32>(c.splits)})
        h = h * 31 + static_cast<std::size_t>(field);
    return h;
}
std::size_t hash(unsigned long long context, const QuantizeConfig& c) {
    std::size_t h = context;
    for (i32 field : {static_cast<i32>(c.stage), static_cast<i32>(c.elem), static_cast<i32>(c.extra), static_cast<i32>(c.transposed),
                      static_cast<i32>(c.wide)})
        h = h * 31 + static_cast<std::size_t>(field);
    return h;
}

// Functions that this thread launched lately: spares the lock and the name of function_for().
template <class Config>
Result<CUfunction> find_function(const Driver& cu, unsigned long long context, const Config& config) {
    struct Slot {
        unsigned long long context = 0;
        Config config;
        CUfunction function = nullptr;
    };
    constexpr std::size_t kSlots = 64;
    thread_local Slot slots[kSlots];
    Slot& slot = slots[hash(context, config) % kSlots];
    if (slot.function != nullptr && slot.context == context && slot.config == config) return slot.function;
    auto function = function_for(cu, context, config);
    if (!function) return function;
    slot = {context, config, *function};
    return function;
}

// What a quantiser's kernel is passed.
const void* params_of(const planner::QuantizeLaunch& spec) {
    if (spec.config.stage == QuantizeStage::widen) return &spec.widen;
    return &spec.params;
}

}  // namespace

Result<void> load(const KernelConfig& config) {
    const auto cu = driver();
    if (!cu) return cu.error();
    const auto context = current_context(**cu);
    if (!context) return context.error();
    if (auto function = find_function(**cu, *context, config); !function) return function.error();
    if (reads_copies(config))
        if (auto function = find_function(**cu, *context, planner::copying_for(config)); !function) return function.error();
    // Without a pool the launch will say so, or do without.
    if (takes_scratch(config)) (void)reserve_scratch(**cu, *context);
    return config.dynamic || config.v_turned || config.splits ? reserve_counters(**cu, *context) : Result<void>{};
}

namespace {

// The copies, if a launch makes them, then the kernel. Whatever fails, the memory goes back.
Result<void> launch_in_scratch(const planner::LaunchSpec& spec, Stream stream, LaunchOptions options) {
    const auto opened = driver();
    if (!opened) return opened.error();
    const Driver& cu = **opened;
    const auto context = current_context(cu);
    if (!context) return context.error();
    if (spec.copying) {
        if (const auto copier = find_function(cu, *context, spec.copying->config); !copier)
            return Error{copier.error().code, kScratch, fmt::format("k and v cannot be copied: {}", copier.error().text())};
    }
    const auto cu_stream = static_cast<CUstream>(stream);
    const auto memory = allocate_scratch(cu, *context, spec.scratch_bytes, cu_stream);
    if (!memory) return memory.error();
    planner::LaunchSpec placed = spec;
    placed.place_scratch(reinterpret_cast<void*>(*memory));
    placed.scratch_bytes = 0;
    Result<void> launched;
    if (placed.copying) launched = launch(*placed.copying, stream);
    if (launched) launched = launch(placed, stream, options);
    const auto released = release_scratch(cu, *memory, cu_stream);
    return launched ? released : launched;
}

}  // namespace

Result<void> launch(const planner::LaunchSpec& spec, Stream stream, LaunchOptions options) {
    if (spec.grid == 0) return {};
    if (spec.scratch_bytes > 0) return launch_in_scratch(spec, stream, options);
    const auto opened = driver();
    if (!opened) return opened.error();
    const Driver& cu = **opened;
    const auto context = current_context(cu);
    if (!context) return context.error();
    const auto function = find_function(cu, *context, spec.config);
    if (!function) return function.error();
    LaunchParams params = spec.params;
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
    if (const std::size_t count = planner::counting_words(spec); count > 0) {
        const auto words = counting_words(cu, *context, cu_stream, count);
        if (!words) return words.error();
        planner::place_words(spec, params, reinterpret_cast<u32*>(*words));
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
    const auto function = find_function(cu, *context, spec.config);
    if (!function) return function.error();
    // What makes copies comes behind an allocation, with which nothing can overlap: it is no programmatic launch. The one behind it is.
    const bool copies = spec.config.stage == QuantizeStage::widen;
    CUlaunchAttribute attribute{CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION, {}, {}};
    attribute.value.programmatic_stream_serialization_allowed = 1;
    const CUlaunchConfig config{static_cast<unsigned>(spec.grid),         1, 1, static_cast<unsigned>(spec.threads), 1, 1,
                                static_cast<unsigned>(spec.shared_bytes), static_cast<CUstream>(stream), &attribute, copies ? 0u : 1u};
    void* arguments[] = {const_cast<void*>(params_of(spec))};  // (the driver reads them)
    const CUresult status = cu.cuLaunchKernelEx(&config, *function, arguments, nullptr);
    if (status == 0) return {};
    return Error{Code::device, "",
                 fmt::format("cannot launch {} ({} blocks): {}", planner::kernel_name(spec.config), spec.grid, cu.describe(status))};
}

Result<void> launch(const planner::LaunchSpec& spec, Stream stream) { return launch(spec, stream, LaunchOptions{}); }

}  // namespace hopfill::cuda

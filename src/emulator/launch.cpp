// A launch of the planner's, run on host memory.
#include <fmt/format.h>

#include <algorithm>
#include <tuple>

#include "emulator/emulate.h"
#include "emulator/instances.h"
#include "emulator/quantize.h"

namespace hopfill::emulator {
namespace {

// Bytes from the base to the end of the last element. Ragged maps do not show how many rows there are: `rows` does.
std::size_t extent(const TensorMapSpec& s, bool packed, i32 rows) {
    const std::size_t bytes = static_cast<std::size_t>(elem_bytes(s.elem));
    std::size_t last = (s.size[0] - 1) * bytes + (s.size[1] - 1) * s.stride[0];
    if (packed) {
        if (rows <= 0) return 0;
        return last + static_cast<std::size_t>(rows - 1) * s.stride[1] + bytes;
    }
    for (std::size_t d = 2; d < 5; ++d) last += (s.size[d] - 1) * s.stride[d - 1];
    return last + bytes;
}

// Floats that a kernel may read of multipliers: `entries` of `tokens` tokens.
std::size_t extent(const ScaleView& v, i32 batch, i32 entries, i32 tokens) {
    const i64 blocks = v.block_tokens == 0 ? 1 : (std::max(tokens, 1) + v.block_tokens - 1) / v.block_tokens;
    return static_cast<std::size_t>(i64{v.batch} * (batch - 1) + i64{v.head} * (entries - 1) + v.block * (blocks - 1) + 1);
}

std::size_t extent(const TensorView& t) {
    if (t.elements() == 0) return 0;
    std::int64_t last = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(t.rank); ++i) last += (t.shape[i] - 1) * t.strides[i];
    return static_cast<std::size_t>((last + 1) * size_of(t.dtype));
}

}  // namespace

namespace {

Result<Report> run_alone(const planner::LaunchSpec& spec, KernelFunction kernel, const Options& options) {
    LaunchParams params = spec.params;
    for (const auto& [name, from, to] : spec.maps()) {
        if (name == nullptr) continue;
        Result<TensorMap> encoded = encode(*from);
        if (!encoded) return Error{encoded.error().code, fmt::format("{}.{}", name, encoded.error().argument), encoded.error().message};
        params.*to = *encoded;
    }
    const bool packed = spec.config.packed;
    // Every second row of k from the first on, and from the second.
    std::size_t odd_rows = 0;
    if (pairs_keys(spec.config))
        odd_rows = reinterpret_cast<u64>(spec.k_odd.base) - reinterpret_cast<u64>(spec.k.base) + extent(spec.k_odd, false, 0);
    const bool turned = spec.config.v_turned;
    Launch launch{spec.grid, spec.threads, spec.shared_bytes, 0, {}};
    launch.buffers = {{"q", spec.q.base, extent(spec.q, packed, params.total_q), false},
                      {"k", spec.k.base, std::max(extent(spec.k, packed, params.total_kv), odd_rows), false},
                      {"v", spec.v.base, extent(spec.v, packed && !spec.config.v_transposed, params.total_kv), turned, turned},
                      {"o", spec.o.base, extent(spec.o, packed, params.total_q), true}};
    if (params.lse != nullptr) {
        const std::size_t rows =
            static_cast<std::size_t>(params.heads) *
            (packed ? static_cast<std::size_t>(params.total_q) : static_cast<std::size_t>(params.batch) * static_cast<std::size_t>(params.seqlen_q));
        launch.buffers.push_back({"lse", params.lse, rows * sizeof(float), true});
    }
    if (packed) {
        const std::size_t bytes = (static_cast<std::size_t>(params.batch) + 1) * sizeof(i32);
        launch.buffers.push_back({"cu_seqlens_q", params.cu_seqlens_q, bytes, false});
        launch.buffers.push_back({"cu_seqlens_k", params.cu_seqlens_k, bytes, false});
    }
    if (kv_elem(spec.config) == Elem::e4m3) {
        const i32 kv_heads = params.heads / params.heads_per_kv_head;
        const i32 tokens_q = packed ? params.total_q : params.seqlen_q, tokens_kv = packed ? params.total_kv : params.seqlen_kv;
        for (const auto& [name, view, heads, tokens] :
             {std::tuple{"q_scale", &params.q_scale, params.q_scale.by_kv_head != 0 ? kv_heads : params.heads, tokens_q},
              std::tuple{"k_scale", &params.k_scale, kv_heads, tokens_kv},
              std::tuple{"v_scale", &params.v_scale, kv_heads, tokens_kv}})
            if (view->data != nullptr)
                launch.buffers.push_back({name, view->data, extent(*view, params.batch, heads, tokens) * sizeof(float), false});
        if (params.v_channel_scale != nullptr) {
            const i64 floats = i64{params.v_channel_stride} * (kv_heads - 1) + params.channels;
            launch.buffers.push_back({"v_channel_scale", params.v_channel_scale, static_cast<std::size_t>(floats) * sizeof(float), false});
        }
    }
    if (turned) launch.buffers.push_back({"v as given", spec.v_given.base, extent(spec.v_given, false, 0), false});
    if (const std::int64_t bytes = planner::part_bytes(spec); bytes > 0)
        launch.buffers.push_back({"part_records", params.part_records, static_cast<std::size_t>(bytes), true, false, true});
    std::vector<u32> words(planner::counting_words(spec), 0);
    if (!words.empty()) {
        planner::place_words(spec, params, words.data());
        launch.buffers.push_back({"counting words", words.data(), words.size() * sizeof(u32), true});
    }
    launch.programmatic = true;
    u32 counter[2] = {0, 0};
    if (spec.config.dynamic) {
        params.work_counter = counter;
        launch.buffers.push_back({"work_counter", counter, sizeof counter, true});
    }
    Report report = emulate(
        launch, [&] { kernel(params); }, options);
    if (report.faults.empty() && std::any_of(words.begin(), words.end(), [](u32 word) { return word != 0; }))
        report.faults.push_back({"work-counter", "work-counter: words that blocks count with are not left zero for the next launch"});
    if (report.faults.empty() && (counter[0] != 0 || counter[1] != 0))
        report.faults.push_back(
            {"work-counter", fmt::format("work-counter: {} and {} are left for the next launch, which needs zeros", counter[0], counter[1])});
    return report;
}

}  // namespace

Result<Report> run_kernel(const planner::LaunchSpec& spec, KernelFunction kernel, const Options& options, QuantizeFunction copying) {
    if (spec.scratch_bytes == 0) return run_alone(spec, kernel, options);
    // NaNs in all formats, until they are written.
    constexpr std::size_t kAlignment = 256;
    std::vector<u8> memory(static_cast<std::size_t>(spec.scratch_bytes) + kAlignment, 0xff);
    planner::LaunchSpec placed = spec;
    placed.place_scratch(memory.data() + (kAlignment - reinterpret_cast<std::uintptr_t>(memory.data()) % kAlignment));
    Report before;
    if (placed.copying) before = run_kernel(*placed.copying, copying, options);
    if (!before.faults.empty()) return before;
    Result<Report> report = run_alone(placed, kernel, options);
    if (report) report->steps += before.steps;
    return report;
}

Report run_kernel(const planner::QuantizeLaunch& spec, QuantizeFunction kernel, const Options& options) {
    Launch launch{spec.grid, spec.threads, spec.shared_bytes, 0, {}};
    launch.programmatic = true;
    for (const auto& [tensor, writable] : spec.tensors) {
        launch.buffers.push_back({std::string(name_of(tensor.dtype)) + " tensor", tensor.data, extent(tensor), writable});
    }
    return emulate(
        launch, [&] { kernel(spec); }, options);
}

}  // namespace hopfill::emulator

#include "workload.h"

#include <algorithm>
#include <ctime>
#include <fstream>
#include <numeric>
#include <string>

namespace hopfill::cli {
namespace {

std::int64_t sum(const std::vector<std::int64_t>& lens) { return std::accumulate(lens.begin(), lens.end(), std::int64_t{0}); }

std::vector<std::int32_t> cumulative(const std::vector<std::int64_t>& lens) {
    std::vector<std::int32_t> out{0};
    for (const std::int64_t n : lens) out.push_back(out.back() + static_cast<std::int32_t>(n));
    return out;
}

}  // namespace

std::int64_t Shape::tokens_q() const { return sum(q_lens); }
std::int64_t Shape::tokens_kv() const { return sum(kv_lens); }

double Shape::flops() const {
    double pairs = 0;
    for (std::size_t i = 0; i < q_lens.size(); ++i) pairs += static_cast<double>(q_lens[i]) * static_cast<double>(kv_lens[i]);
    return 4 * pairs * static_cast<double>(heads * head_dim) * (causal ? 0.5 : 1);
}

Result<Workload> Workload::make(const Shape& shape, Backend backend, std::uint64_t seed) {
    const Device device = device_of(backend);
    Workload w;
    // Allocates a tensor, filled from `bytes` or, where that is empty, at random.
    const auto add = [&](TensorView view, std::span<const std::byte> bytes) -> Result<TensorView> {
        const auto size = static_cast<std::size_t>(view.elements() * size_of(view.dtype));
        Result<Buffer> memory = Buffer::allocate(device, size);
        if (!memory) return memory.error();
        std::vector<std::byte> random(bytes.empty() ? size : 0);
        fill_random(random, view.dtype, seed++);
        if (auto sent = memory->upload(bytes.empty() ? random : bytes); !sent) return sent.error();
        view.data = memory->data();
        w.memory_.push_back(std::move(*memory));
        return view;
    };
    const auto tokens = static_cast<std::int64_t>(shape.q_lens.size());
    const auto tensor = [&](DType dtype, std::int64_t rows, std::int64_t heads) {
        return shape.packed ? contiguous(nullptr, dtype, {rows, heads, shape.head_dim}, device)
                            : contiguous(nullptr, dtype, {tokens, tokens == 0 ? 0 : rows / tokens, heads, shape.head_dim}, device);
    };
    const std::vector<std::int32_t> cu_q = cumulative(shape.q_lens), cu_k = cumulative(shape.kv_lens);
    struct Slot {
        TensorView* view;
        TensorView wanted;
        std::span<const std::byte> bytes;
    };
    std::vector<Slot> slots{{&w.tensors_.q, tensor(shape.dtype, shape.tokens_q(), shape.heads), {}},
                            {&w.tensors_.k, tensor(shape.dtype, shape.tokens_kv(), shape.kv_heads), {}},
                            {&w.tensors_.v, tensor(shape.dtype, shape.tokens_kv(), shape.kv_heads), {}},
                            {&w.tensors_.o, tensor(shape.out_dtype, shape.tokens_q(), shape.heads), {}}};
    AttentionOptions options;
    options.causal = shape.causal;
    options.backend = backend;
    if (shape.packed) {
        slots.push_back({&w.tensors_.cu_seqlens_q, contiguous(nullptr, DType::i32, {tokens + 1}, device), std::as_bytes(std::span(cu_q))});
        slots.push_back({&w.tensors_.cu_seqlens_k, contiguous(nullptr, DType::i32, {tokens + 1}, device), std::as_bytes(std::span(cu_k))});
        if (!shape.q_lens.empty()) {
            options.max_seqlen_q = *std::max_element(shape.q_lens.begin(), shape.q_lens.end());
            options.max_seqlen_kv = *std::max_element(shape.kv_lens.begin(), shape.kv_lens.end());
        }
    }
    for (const Slot& slot : slots) {
        Result<TensorView> made = add(slot.wanted, slot.bytes);
        if (!made) return made.error();
        *slot.view = *made;
    }
    Result<AttentionProblem> problem = describe(w.tensors_, options);
    if (!problem) return problem.error();
    w.problem_ = *problem;
    return w;
}

Result<check::RowErrors> Workload::errors(std::int64_t rows) const {
    AttentionTensors host = tensors_;
    std::vector<std::vector<std::byte>> copies;
    for (TensorView* view : {&host.q, &host.k, &host.v, &host.o, &host.cu_seqlens_q, &host.cu_seqlens_k}) {
        if (!view->present() || view->device.kind == Device::Kind::cpu) continue;
        const auto memory = std::find_if(memory_.begin(), memory_.end(), [&](const Buffer& b) { return b.data() == view->data; });
        copies.emplace_back(memory->size());
        if (auto copied = memory->download(copies.back()); !copied) return copied.error();
        view->data = copies.back().data();
        view->device = {};
    }
    return check::sampled_errors(problem_, host, rows);
}

Result<Plan> plan_for(const Workload& workload, Backend backend) {
    if (backend != Backend::sm90) return plan(workload.problem(), DeviceInfo{}, backend);
    Result<DeviceInfo> gpu = current_device();
    if (!gpu) return gpu.error();
    return plan(workload.problem(), *gpu, backend);
}

std::string today() {
    const std::time_t now = std::time(nullptr);
    std::tm utc{};
    gmtime_r(&now, &utc);
    char text[16];
    std::strftime(text, sizeof text, "%Y-%m-%d", &utc);
    return text;
}

std::string machine_name(Backend backend) {
    if (backend == Backend::sm90) {
        const Result<DeviceInfo> gpu = current_device();
        return gpu ? gpu->name : gpu.error().message;
    }
    std::ifstream cpuinfo("/proc/cpuinfo");
    for (std::string line; std::getline(cpuinfo, line);) {
        if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
    }
    return "cpu";
}

}  // namespace hopfill::cli

// hopfill run: attention of tensors in a safetensors file.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <map>

#include "buffer.h"
#include "files.h"
#include "options.h"
#include "safetensors.h"

namespace hopfill::cli {
namespace {

struct Arguments {
    std::string input, output;
    bool causal = false;
    std::optional<double> scale;
    std::optional<DType> out_dtype;
    std::optional<std::int64_t> scale_block;
    bool v_transposed = false;
    std::optional<std::int64_t> max_scratch_bytes;
    Backend backend = Backend::automatic;
};

struct DTypeName {
    DType dtype;
    const char* stored;  // in safetensors
};
constexpr std::array<DTypeName, 5> kDTypeNames{
    {{DType::f32, "F32"}, {DType::f16, "F16"}, {DType::bf16, "BF16"}, {DType::e4m3, "F8_E4M3"}, {DType::i32, "I32"}}};

const char* stored_name(DType dtype) {
    return std::find_if(kDTypeNames.begin(), kDTypeNames.end(), [dtype](const DTypeName& n) { return n.dtype == dtype; })->stored;
}

Error fault(std::string argument, std::string message) { return {Code::invalid_argument, std::move(argument), std::move(message)}; }

// A tensor and its memory.
struct Loaded {
    Buffer memory;
    TensorView view;
};

Result<std::vector<StoredTensor>> read_index(const InputFile& file) {
    std::vector<std::byte> head(static_cast<std::size_t>(std::min<std::uint64_t>(8, file.size())));
    if (auto read = file.read(0, head); !read) return read.error();
    Result<std::uint64_t> bytes = safetensors_head_bytes(head, file.size());
    if (!bytes) return bytes.error();
    head.resize(static_cast<std::size_t>(*bytes));
    if (auto read = file.read(0, head); !read) return read.error();
    return parse_safetensors(head, file.size());
}

Result<TensorView> view_of(const StoredTensor& stored) {
    const auto* known = std::find_if(kDTypeNames.begin(), kDTypeNames.end(), [&](const DTypeName& n) { return n.stored == stored.dtype; });
    if (known == kDTypeNames.end()) return fault(stored.name, fmt::format("is {}; F32, F16, BF16, F8_E4M3 and I32 are read", stored.dtype));
    if (stored.shape.empty() || stored.shape.size() > 4) return fault(stored.name, fmt::format("has rank {}; 1 to 4 are read", stored.shape.size()));
    TensorView view{nullptr, known->dtype, static_cast<int>(stored.shape.size()), {}, {}, {}};
    std::int64_t stride = 1;
    for (std::size_t i = stored.shape.size(); i-- > 0;) {
        view.shape[i] = stored.shape[i];
        view.strides[i] = stride;
        stride *= std::max<std::int64_t>(stored.shape[i], 1);
    }
    return view;
}

Result<Loaded> load(const InputFile& file, const StoredTensor& stored, Device device) {
    Result<TensorView> view = view_of(stored);
    if (!view) return view.error();
    Result<Buffer> memory = Buffer::allocate(device, static_cast<std::size_t>(stored.bytes));
    if (!memory) return memory.error();
    if (device.kind == Device::Kind::cpu) {
        if (auto read = file.read(stored.offset, memory->bytes()); !read) return read.error();
    } else {
        std::vector<std::byte> host(static_cast<std::size_t>(stored.bytes));
        if (auto read = file.read(stored.offset, host); !read) return read.error();
        if (auto sent = memory->upload(host); !sent) return sent.error();
    }
    view->data = memory->data();
    view->device = device;
    return Loaded{std::move(*memory), *view};
}

Result<Loaded> make(DType dtype, std::initializer_list<std::int64_t> shape, Device device) {
    TensorView view = contiguous(nullptr, dtype, shape, device);
    Result<Buffer> memory = Buffer::allocate(device, static_cast<std::size_t>(view.elements() * size_of(dtype)));
    if (!memory) return memory.error();
    view.data = memory->data();
    return Loaded{std::move(*memory), view};
}

Result<void> store(const std::string& path, const std::map<std::string, const Loaded*>& outputs) {
    std::vector<std::vector<std::byte>> data;
    std::vector<TensorToStore> tensors;
    // Widest elements first, so that each tensor is aligned in the file.
    std::vector<std::pair<std::string, const Loaded*>> order(outputs.begin(), outputs.end());
    std::stable_sort(order.begin(), order.end(),
                     [](const auto& a, const auto& b) { return size_of(a.second->view.dtype) > size_of(b.second->view.dtype); });
    data.reserve(order.size());
    for (const auto& [name, tensor] : order) {
        data.emplace_back(tensor->memory.size());
        if (auto got = tensor->memory.download(data.back()); !got) return got;
        const TensorView& v = tensor->view;
        tensors.push_back({name, stored_name(v.dtype), {v.shape.begin(), v.shape.begin() + v.rank}, data.back()});
    }
    Result<OutputFile> file = OutputFile::create(path);
    if (!file) return file.error();
    const std::string header = safetensors_header(tensors);
    if (auto written = file->write(std::as_bytes(std::span(header))); !written) return written;
    for (const TensorToStore& t : tensors) {
        if (auto written = file->write(t.data); !written) return written;
    }
    return file->commit();
}

Result<void> run(const Arguments& arguments) {
    Result<InputFile> file = InputFile::open(arguments.input);
    if (!file) return file.error();
    Result<std::vector<StoredTensor>> index = read_index(*file);
    if (!index) return index.error();
    const Backend backend = resolve(arguments.backend);
    const Device device = device_of(backend);
    if (backend == Backend::sm90) {
        if (Result<DeviceInfo> gpu = current_device(); !gpu) return gpu.error();
    }

    AttentionTensors tensors;
    const std::map<std::string, TensorView*> wanted{{"q", &tensors.q},
                                                    {"k", &tensors.k},
                                                    {"v", &tensors.v},
                                                    {"cu_seqlens_q", &tensors.cu_seqlens_q},
                                                    {"cu_seqlens_k", &tensors.cu_seqlens_k},
                                                    {"q_scale", &tensors.q_scale},
                                                    {"k_scale", &tensors.k_scale},
                                                    {"v_scale", &tensors.v_scale}};
    std::vector<Loaded> inputs;
    for (const StoredTensor& stored : *index) {
        const auto slot = wanted.find(stored.name);
        if (slot == wanted.end()) {
            fmt::print(stderr, "hopfill: note: tensor \"{}\" is not an input and is not used\n", stored.name);
            continue;
        }
        Result<Loaded> loaded = load(*file, stored, device);
        if (!loaded) return loaded.error();
        *slot->second = loaded->view;
        inputs.push_back(std::move(*loaded));
    }
    for (const char* name : {"q", "k", "v"}) {
        if (!wanted.at(name)->present()) return fault(name, fmt::format("is not in {}", arguments.input));
    }
    const TensorView& q = tensors.q;
    if (q.rank != 3 && q.rank != 4)
        return fault("q", fmt::format("has rank {}; [batch, seq, heads, head_dim] or packed [tokens, heads, head_dim] is needed", q.rank));
    // Eight bits of an output are too few to be had unasked.
    const DType out_dtype = arguments.out_dtype.value_or(q.dtype == DType::e4m3 ? DType::bf16 : q.dtype);
    Result<Loaded> o = q.rank == 4 ? make(out_dtype, {q.shape[0], q.shape[1], q.shape[2], q.shape[3]}, device)
                                   : make(out_dtype, {q.shape[0], q.shape[1], q.shape[2]}, device);
    Result<Loaded> lse =
        q.rank == 4 ? make(DType::f32, {q.shape[0], q.shape[2], q.shape[1]}, device) : make(DType::f32, {q.shape[1], q.shape[0]}, device);
    if (!o) return o.error();
    if (!lse) return lse.error();
    tensors.o = o->view;
    tensors.lse = lse->view;

    AttentionOptions options;
    options.causal = arguments.causal;
    options.scale = arguments.scale;
    options.backend = backend;
    options.scale_block = arguments.scale_block;
    options.v_transposed = arguments.v_transposed;
    options.max_scratch_bytes = arguments.max_scratch_bytes;
    if (auto computed = attention(tensors, options); !computed) return computed;
    if (backend == Backend::sm90) {
        if (auto finished = device::synchronize(); !finished) return finished;
    }
    return store(arguments.output, {{"o", &*o}, {"lse", &*lse}});
}

}  // namespace

void add_run(CLI::App& app, Status& status) {
    auto arguments = std::make_shared<Arguments>();
    CLI::App* command = app.add_subcommand("run", "Computes o and lse of the q, k, v in a safetensors file");
    command
        ->add_option("input", arguments->input,
                     "Safetensors file with q, k, v, cu_seqlens_q and cu_seqlens_k when packed, q_scale, k_scale and v_scale of FP8 tensors")
        ->required();
    command->add_option("-o,--output", arguments->output, "Safetensors file for o and lse")->required();
    command->add_flag("--causal", arguments->causal, "Query i of s_q sees keys up to i + s_kv - s_q");
    command->add_option("--scale", arguments->scale, "Softmax scale (default 1/sqrt(head_dim))");
    add_dtype_option(*command, "--out-dtype", arguments->out_dtype, "Type of o (default: that of q, bf16 where q is e4m3)");
    command->add_option("--scale-block", arguments->scale_block, "Tokens of a block where a scale is [batch, kv_heads, blocks]: 64 or 128");
    command->add_flag("--v-transposed", arguments->v_transposed, "v is [batch, kv_heads, head_dim, seq], packed [kv_heads, head_dim, tokens]");
    command->add_option("--max-scratch-bytes", arguments->max_scratch_bytes, kMaxScratchBytes);
    add_backend_option(*command, arguments->backend, {Backend::automatic, Backend::cpu, Backend::sm90, Backend::emulated, Backend::oracle});
    command->callback([arguments, &status] {
        if (auto result = run(*arguments); !result) status = report(result.error());
    });
}

}  // namespace hopfill::cli

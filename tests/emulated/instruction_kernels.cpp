#include "instruction_kernels.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <sstream>

#include "cuda/compile.h"
#include "cuda/disk_cache.h"
#include "cuda/elf.h"
#include "instruction_cases.h"
#include "plan/launch.h"
#include "plan/quantize.h"
#include "workload.h"

namespace hopfill::testing {
namespace {

// instructions.cuh and all that it includes, for NVRTC; its text is `text`.
Result<std::vector<cuda::Source>> headers_of(const std::string& text) {
    std::vector<cuda::Source> headers{{"instructions.cuh", text.c_str()}};
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        constexpr std::string_view kInclude = "#include \"";
        if (!line.starts_with(kInclude)) continue;
        const auto closure = cuda::include_closure(line.substr(kInclude.size(), line.rfind('"') - kInclude.size()));
        if (!closure) return closure.error();
        for (const cuda::Source& s : *closure)
            if (std::ranges::none_of(headers, [&](const cuda::Source& h) { return std::string_view(h.name) == s.name; })) headers.push_back(s);
    }
    std::ranges::sort(headers, {}, [](const cuda::Source& s) { return std::string_view(s.name); });
    return headers;
}

Result<cuda::KernelImage> compile(const cuda::Nvrtc& nvrtc, const cuda::NvrtcProgram& program) {
    auto output = nvrtc.compile(program);
    if (!output) return Error{output.error().code, "", fmt::format("{}: {}", program.name_expression, output.error().message)};
    auto key = cuda::kernel_key(output->cubin);
    if (!key) return key.error();
    cuda::KernelImage image;
    image.name = program.name_expression;
    image.lowered_name = std::move(output->lowered_name);
    image.key = std::move(*key);
    image.compiler = nvrtc.version;
    image.cubin = std::move(output->cubin);
    cuda::read_log(output->log, image);
    if (!image.faults.empty()) return Error{Code::internal, "", fmt::format("{}: {}", image.name, image.faults[0])};
    return image;
}

Result<void> add_first_use(const cuda::Nvrtc& nvrtc, const cuda::DiskCache& cache, const std::string& name, const Result<cuda::NvrtcProgram>& program,
                           InstructionKernels& kernels) {
    if (!program) return program.error();
    const std::string key = cuda::cache_key(*program, nvrtc);
    auto image = cache.load(key);
    if (!image) {
        auto compiled = cuda::compile_program(name, *program);
        if (!compiled) return compiled.error();
        if (const std::string* fault = cuda::fault_at_first_use(*compiled)) return Error{Code::internal, "", fmt::format("{}: {}", name, *fault)};
        image = std::move(*compiled);
        cache.store(key, *image);
    }
    kernels.emplace(name, std::move(*image));
    return {};
}

}  // namespace

Result<InstructionKernels> compile_instruction_kernels(const std::string& header) {
    const auto compiler = cuda::nvrtc();
    if (!compiler) return compiler.error();
    std::ifstream in(header);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    if (text.empty()) return Error{Code::internal, "", fmt::format("{} cannot be read", header)};
    const auto headers = headers_of(text);
    if (!headers) return headers.error();
    const cuda::DiskCache cache(cuda::default_cache_folder());
    InstructionKernels kernels;
    for (const InstructionCase& c : instruction_cases()) {
        if (kernels.contains(c.kernel)) continue;
        const cuda::NvrtcProgram program{"#include \"instructions.cuh\"\n", *headers, cuda::compile_options(), c.kernel};
        const std::string key = cuda::cache_key(program, **compiler);
        auto image = cache.load(key);
        if (!image) {
            auto compiled = compile(**compiler, program);
            if (!compiled) return compiled.error();
            image = std::move(*compiled);
            cache.store(key, *image);
        }
        kernels.emplace(c.kernel, std::move(*image));
    }
    for (const KernelConfig& config : planner::first_use_table()) {
        if (!travels(config)) continue;
        if (auto r = add_first_use(**compiler, cache, planner::kernel_name(config), cuda::program_for(config), kernels); !r) return r.error();
    }
    for (const QuantizeConfig& config : planner::quantize_kernels())
        if (auto r = add_first_use(**compiler, cache, planner::kernel_name(config), cuda::program_for(config), kernels); !r) return r.error();
    return kernels;
}

bool write_instruction_kernels(const std::string& path, const InstructionKernels& kernels) {
    std::string bytes;
    for (const auto& [name, image] : kernels) cuda::append_field(bytes, cuda::pack(image));
    std::ofstream out(path, std::ios::binary);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
    return out.good();
}

InstructionKernels read_instruction_kernels(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(in), {}};
    InstructionKernels kernels;
    std::string_view rest = bytes;
    while (const auto packed = cuda::take_field(rest)) {
        auto image = cuda::unpack(*packed);
        if (!image) return {};
        std::string name = image->name;
        kernels.emplace(std::move(name), std::move(*image));
    }
    return kernels;
}

}  // namespace hopfill::testing

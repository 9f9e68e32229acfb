#include "cuda/compile.h"

#include <fmt/format.h>

#include <filesystem>

#include "cuda/digest.h"
#include "cuda/elf.h"
#include "plan/launch.h"
#include "plan/quantize.h"

namespace hopfill::cuda {
namespace {

// Where a family's kernel lies: the header to include and the template to instantiate.
struct Entry {
    Family family;
    const char* header;
    const char* kernel;
};
constexpr Entry kEntries[] = {
    {Family::prefill, "prefill/kernel.cuh", "hopfill::prefill_kernel"},
    {Family::prefill_folded, "prefill_folded/kernel.cuh", "hopfill::prefill_folded_kernel"},
    {Family::prefill_fp8, "prefill_fp8/kernel.cuh", "hopfill::prefill_fp8_kernel"},
    {Family::prefill_mixed, "prefill_mixed/kernel.cuh", "hopfill::prefill_mixed_kernel"},
    {Family::prefill_widened, "prefill_widened/kernel.cuh", "hopfill::prefill_widened_kernel"},
    {Family::prefill_fp8_folded, "prefill_fp8/kernel.cuh", "hopfill::prefill_fp8_kernel"},
    {Family::prefill_short, "prefill_short/kernel.cuh", "hopfill::prefill_short_kernel"},
};

}  // namespace

const std::vector<std::string>& compile_options() {
    static const std::vector<std::string> options{
        "--gpu-architecture=sm_90a",
        "--std=c++20",
        "--device-as-default-execution-space",
        "--ptxas-options=-v",
    };
    return options;
}

Result<NvrtcProgram> program_for(const KernelConfig& config) {
    for (const Entry& entry : kEntries) {
        if (entry.family != config.family) continue;
        auto headers = include_closure(entry.header);
        if (!headers) return headers.error();
        return NvrtcProgram{fmt::format("#include \"{}\"\n", entry.header), std::move(*headers), compile_options(),
                            fmt::format("{}<{}>", entry.kernel, planner::kernel_expression(config))};
    }
    return Error{Code::internal, "", "the kernel's family has no entry"};
}

Result<NvrtcProgram> program_for(const QuantizeConfig& config) {
    constexpr const char* header = "quantize/kernel.cuh";
    auto headers = include_closure(header);
    if (!headers) return headers.error();
    return NvrtcProgram{fmt::format("#include \"{}\"\n", header), std::move(*headers), compile_options(),
                        fmt::format("hopfill::quantize_kernel<{}>", planner::kernel_expression(config))};
}

std::string cache_key(const NvrtcProgram& program, const Nvrtc& nvrtc) {
    Sha256 digest;
    digest.add_field("hopfill kernel 1").add_field(program.text).add_field(program.name_expression).add_field(nvrtc.version);
    // NVRTC tells no patch level: the library's size does.
    std::error_code ignored;
    digest.add_field(std::to_string(std::filesystem::file_size(nvrtc.path, ignored)));
    for (const std::string& option : program.options) digest.add_field(option);
    for (const Source& header : program.headers) digest.add_field(header.name).add_field(header.text);
    return digest.hex();
}

Result<KernelImage> compile_kernel(const KernelConfig& config) {
    const auto program = program_for(config);
    if (!program) return program.error();
    return compile_program(planner::kernel_name(config), *program);
}

Result<KernelImage> compile_program(const std::string& name, const NvrtcProgram& program) {
    const auto compiler = nvrtc();
    if (!compiler) return compiler.error();
    auto output = (*compiler)->compile(program);
    if (!output) return Error{output.error().code, "", fmt::format("{}: {}", name, output.error().message)};
    auto key = kernel_key(output->cubin);
    if (!key) return key.error();
    KernelImage image;
    image.name = name;
    image.lowered_name = std::move(output->lowered_name);
    image.key = std::move(*key);
    image.compiler = (*compiler)->version;
    image.cubin = std::move(output->cubin);
    read_log(output->log, image);
    return image;
}

}  // namespace hopfill::cuda

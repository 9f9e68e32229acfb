// hopfill info: what this library and this machine can do.
#include <fmt/format.h>

#include <nlohmann/json.hpp>

#include "options.h"

namespace hopfill::cli {
namespace {

using nlohmann::json;

json to_json(const Info& info) {
    json out = {{"version", info.version}, {"backends", json::array()}, {"gpu", nullptr},
                {"driver", info.driver},   {"nvrtc", info.nvrtc},       {"kernels", json::array()}};
    for (const Backend b : info.backends) out["backends"].push_back(name_of(b));
    if (info.gpu) {
        const DeviceInfo& gpu = *info.gpu;
        out["gpu"] = {{"name", gpu.name},
                      {"compute_capability", fmt::format("{}.{}", gpu.sm_major, gpu.sm_minor)},
                      {"sms", gpu.num_sms},
                      {"shared_memory_per_block", gpu.shared_memory_per_block},
                      {"l2_bytes", gpu.l2_bytes}};
    }
    for (const KernelInfo& k : info.kernels) {
        out["kernels"].push_back({{"name", k.name},
                                  {"key", k.key},
                                  {"registers", k.registers},
                                  {"shared", k.shared_bytes},
                                  {"spills", k.spill_bytes},
                                  {"evidence", k.evidence.empty() ? json(nullptr) : json(k.evidence)}});
    }
    return out;
}

void print(const Info& info) {
    std::vector<std::string_view> backends;
    for (const Backend b : info.backends) backends.push_back(name_of(b));
    fmt::print("hopfill   {}\nbackends  {}\n", info.version, fmt::join(backends, ", "));
    if (info.gpu) {
        fmt::print("gpu       {}, compute capability {}.{}, {} SMs\n", info.gpu->name, info.gpu->sm_major, info.gpu->sm_minor, info.gpu->num_sms);
    } else {
        fmt::print("gpu       none\n");
    }
    fmt::print("driver    {}\nnvrtc     {}\nkernels   {}\n", info.driver, info.nvrtc, info.kernels.size());
    if (info.kernels.empty()) return;
    std::size_t width = 4;
    for (const KernelInfo& k : info.kernels) width = std::max(width, k.name.size());
    fmt::print("\n{:<{}}  registers   shared  spills  key           evidence\n", "name", width);
    for (const KernelInfo& k : info.kernels) {
        fmt::print("{:<{}}  {:>9}  {:>7}  {:>6}  {:<12}  {}\n", k.name, width, k.registers, k.shared_bytes, k.spill_bytes, k.key.substr(0, 12),
                   k.evidence.empty() ? "none" : k.evidence);
    }
}

}  // namespace

void add_info(CLI::App& app, Status&) {
    auto as_json = std::make_shared<bool>(false);
    CLI::App* command = app.add_subcommand("info", "Version, backends, GPU, driver, NVRTC and the kernel catalogue");
    command->add_flag("--json", *as_json, "One JSON object");
    command->callback([as_json] {
        const Info found = info();
        if (*as_json) {
            fmt::print("{}\n", to_json(found).dump(2));
        } else {
            print(found);
        }
    });
}

}  // namespace hopfill::cli

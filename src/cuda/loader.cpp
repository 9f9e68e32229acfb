#include "cuda/loader.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <iterator>
#include <map>
#include <mutex>
#include <utility>

#include "cuda/catalogue.h"
#include "cuda/compile.h"
#include "cuda/disk_cache.h"
#include "plan/launch.h"
#include "plan/quantize.h"

namespace hopfill::cuda {
namespace {

// Never destroyed: a thread may still load a kernel while the process exits.
struct Catalogues {
    std::mutex mutex;
    std::vector<CatalogueEntry> entries = read_catalogue(embedded_catalogue());
};
Catalogues& catalogues() {
    static auto* c = new Catalogues;
    return *c;
}

struct Loaded {
    std::mutex mutex;
    std::map<std::pair<unsigned long long, std::string>, CUfunction> functions;
};
Loaded& loaded() {
    static auto* l = new Loaded;
    return *l;
}

Error load_error(const Driver& cu, CUresult status, const KernelImage& image) {
    int major = 0, minor = 0;
    std::sscanf(image.compiler.c_str(), "%d.%d", &major, &minor);
    // Minor versions of one major run on each other's drivers; a newer major needs a newer driver.
    if (major * 1000 > cu.version)
        return Error{Code::unavailable, "",
                     fmt::format("{} was compiled for CUDA {}, which needs driver {} or newer; this driver supports CUDA {}", image.name,
                                 image.compiler, major >= 13 ? 580 : 525, version_text(cu.version))};
    return Error{Code::device, "", fmt::format("cannot load {}: {}", image.name, cu.describe(status))};
}

Result<CUfunction> load_image(const Driver& cu, const KernelImage& image) {
    const RelaxedCapture relaxed(cu);
    CUmodule module = nullptr;
    CUfunction function = nullptr;
    if (CUresult status = cu.cuModuleLoadData(&module, image.cubin.data()); status != 0) return load_error(cu, status, image);
    if (CUresult status = cu.cuModuleGetFunction(&function, module, image.lowered_name.c_str()); status != 0) return load_error(cu, status, image);
    CUdevice device = 0;
    int limit = 0, fixed = 0;
    if (auto r = cu.check(cu.cuCtxGetDevice(&device), "cuCtxGetDevice"); !r) return r.error();
    if (auto r = cu.check(cu.cuDeviceGetAttribute(&limit, CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, device), "cuDeviceGetAttribute"); !r)
        return r.error();
    if (auto r = cu.check(cu.cuFuncGetAttribute(&fixed, CU_FUNC_ATTRIBUTE_SHARED_SIZE_BYTES, function), "cuFuncGetAttribute"); !r) return r.error();
    if (auto r = cu.check(cu.cuFuncSetAttribute(function, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES, limit - fixed), "cuFuncSetAttribute"); !r)
        return r.error();
    return function;
}

}  // namespace

void add_catalogue(std::string_view blob) {
    std::vector<CatalogueEntry> more = read_catalogue(blob);
    std::lock_guard lock(catalogues().mutex);
    std::ranges::move(more, std::back_inserter(catalogues().entries));
}

namespace {

template <class Config>
Result<KernelImage> find_image(const Config& config) {
    const std::string name = planner::kernel_name(config);
    {
        std::lock_guard lock(catalogues().mutex);
        for (const CatalogueEntry& e : catalogues().entries) {
            if (e.info.name != name) continue;
            if (auto image = unpack(e.packed)) return std::move(*image);
            return Error{Code::internal, "", fmt::format("{} is damaged in the library", name)};
        }
    }
    const auto compiler = nvrtc();
    if (!compiler) return Error{compiler.error().code, "", fmt::format("{} is not in the catalogue: {}", name, compiler.error().text())};
    const auto program = program_for(config);
    if (!program) return program.error();
    const DiskCache cache(default_cache_folder());
    const std::string key = cache_key(*program, **compiler);
    if (auto image = cache.load(key)) return std::move(*image);
    auto image = compile_program(name, *program);
    if (!image) return image.error();
    if (const std::string* fault = fault_at_first_use(*image)) return Error{Code::internal, "", fmt::format("{} compiles badly: {}", name, *fault)};
    cache.store(key, *image);
    return image;
}

template <class Config>
Result<CUfunction> find_function(const Driver& cu, unsigned long long context, const Config& config) {
    // Held while compiling too: two threads that want one kernel compile it once.
    std::lock_guard lock(loaded().mutex);
    const std::pair key(context, planner::kernel_name(config));
    if (const auto found = loaded().functions.find(key); found != loaded().functions.end()) return found->second;
    const auto image = find_image(config);
    if (!image) return image.error();
    const auto function = load_image(cu, *image);
    if (!function) return function.error();
    loaded().functions.emplace(key, *function);
    return *function;
}

}  // namespace

Result<KernelImage> image_for(const KernelConfig& config) { return find_image(config); }

Result<CUfunction> function_for(const Driver& cu, unsigned long long context, const KernelConfig& config) {
    return find_function(cu, context, config);
}
Result<CUfunction> function_for(const Driver& cu, unsigned long long context, const QuantizeConfig& config) {
    return find_function(cu, context, config);
}

}  // namespace hopfill::cuda

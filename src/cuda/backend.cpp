#include "cuda/backend.h"

#include <fmt/format.h>

#include <map>
#include <mutex>

#include "cuda/catalogue.h"
#include "cuda/driver.h"
#include "cuda/nvrtc.h"

namespace hopfill::cuda {
namespace {

Result<DeviceInfo> query(const Driver& cu, int ordinal) {
    CUdevice device = 0;
    if (cu.cuDeviceGet(&device, ordinal) != 0) {
        int count = 0;
        cu.cuDeviceGetCount(&count);
        return Error{Code::unavailable, "device", fmt::format("CUDA device {} does not exist; there are {}", ordinal, count)};
    }
    DeviceInfo info;
    char name[256] = {};
    int l2 = 0;
    if (auto r = cu.check(cu.cuDeviceGetName(name, sizeof(name) - 1, device), "cuDeviceGetName"); !r) return r.error();
    info.name = name;
    const struct {
        CUdeviceAttribute attribute;
        int* to;
    } wanted[] = {
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, &info.sm_major},
        {CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, &info.sm_minor},
        {CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT, &info.num_sms},
        {CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN, &info.shared_memory_per_block},
        {CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE, &l2},
    };
    for (const auto& w : wanted)
        if (auto r = cu.check(cu.cuDeviceGetAttribute(w.to, w.attribute, device), "cuDeviceGetAttribute"); !r) return r.error();
    info.l2_bytes = l2;
    return info;
}

}  // namespace

Result<DeviceInfo> device(int ordinal) {
    const auto cu = driver();
    if (!cu) return cu.error();
    static std::mutex mutex;
    static auto* known = new std::map<int, DeviceInfo>;
    std::lock_guard lock(mutex);
    if (const auto found = known->find(ordinal); found != known->end()) return found->second;
    auto info = query(**cu, ordinal);
    if (info) known->emplace(ordinal, *info);
    return info;
}

Result<int> current_ordinal() {
    const auto cu = driver();
    if (!cu) return cu.error();
    // First, as cuCtxGetDevice without a context is an error in the eyes of compute-sanitizer.
    if (auto context = current_context(**cu); !context) return context.error();
    CUdevice ordinal = 0;
    if (auto r = (*cu)->check((*cu)->cuCtxGetDevice(&ordinal), "cuCtxGetDevice"); !r) return r.error();
    return ordinal;
}

Result<DeviceInfo> current_device() {
    const auto ordinal = current_ordinal();
    if (!ordinal) return ordinal.error();
    return device(*ordinal);
}

Versions versions() {
    Versions v;
    const auto cu = driver();
    v.driver = cu ? version_text((*cu)->version) : cu.error().text();
    const auto compiler = nvrtc();
    v.nvrtc = compiler ? fmt::format("{} ({})", (*compiler)->version, (*compiler)->path) : compiler.error().text();
    return v;
}

std::vector<KernelInfo> catalogue() {
    std::vector<KernelInfo> kernels;
    for (CatalogueEntry& e : read_catalogue(embedded_catalogue())) kernels.push_back(std::move(e.info));
    return kernels;
}

}  // namespace hopfill::cuda

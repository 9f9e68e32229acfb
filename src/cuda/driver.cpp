#include "cuda/driver.h"

#include <dlfcn.h>
#include <fmt/format.h>

#include <mutex>

namespace hopfill::cuda {
namespace {

constexpr int kOldestVersion = 12000;  // cuTensorMapEncodeTiled and cuCtxGetId

Result<Driver> open_driver() {
    // Never closed: contexts and other libraries hold on to it until the process ends.
    void* library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        const char* reason = dlerror();
        return Error{Code::unavailable, "", fmt::format("no NVIDIA driver: {}", reason != nullptr ? reason : "libcuda.so.1 cannot be opened")};
    }
    Driver cu;
    cu.cuDriverGetVersion = reinterpret_cast<CUresult (*)(int*)>(dlsym(library, "cuDriverGetVersion"));
    if (cu.cuDriverGetVersion == nullptr || cu.cuDriverGetVersion(&cu.version) != 0)
        return Error{Code::unavailable, "", "libcuda.so.1 does not tell its version"};
    if (cu.version < kOldestVersion)
        return Error{Code::unavailable, "",
                     fmt::format("the driver supports CUDA {}; 12.0 (driver 525) or newer is needed", version_text(cu.version))};
    const char* missing = nullptr;
#define HOPFILL_OPEN(name, symbol, parameters)                                    \
    cu.name = reinterpret_cast<CUresult(*) parameters>(dlsym(library, #symbol)); \
    if (cu.name == nullptr) missing = #symbol;
    HOPFILL_DRIVER_FUNCTIONS(HOPFILL_OPEN)
#undef HOPFILL_OPEN
    if (missing != nullptr) return Error{Code::unavailable, "", fmt::format("libcuda.so.1 (CUDA {}) lacks {}", version_text(cu.version), missing)};
    if (CUresult status = cu.cuInit(0); status != 0) return Error{Code::unavailable, "", fmt::format("cuInit: {}", cu.describe(status))};
    int devices = 0;
    if (CUresult status = cu.cuDeviceGetCount(&devices); status != 0 || devices == 0) return Error{Code::unavailable, "", "the driver sees no GPU"};
    return cu;
}

}  // namespace

std::string version_text(int version) { return fmt::format("{}.{}", version / 1000, version % 1000 / 10); }

std::string Driver::describe(CUresult status) const {
    const char* name = nullptr;
    const char* text = nullptr;
    if (cuGetErrorName != nullptr) cuGetErrorName(status, &name);
    if (cuGetErrorString != nullptr) cuGetErrorString(status, &text);
    if (name == nullptr) return fmt::format("CUDA error {}", status);
    return text == nullptr ? name : fmt::format("{} ({})", name, text);
}

Result<void> Driver::check(CUresult status, const char* what) const {
    if (status == 0) return {};
    return Error{Code::device, "", fmt::format("{}: {}", what, describe(status))};
}

Result<const Driver*> driver() {
    static const Result<Driver> opened = open_driver();
    if (!opened) return opened.error();
    return &opened.value();
}

Result<unsigned long long> current_context(const Driver& cu) {
    CUcontext context = nullptr;
    unsigned long long id = 0;
    if (cu.cuCtxGetCurrent(&context) == 0 && context != nullptr) {
        if (auto r = cu.check(cu.cuCtxGetId(context, &id), "cuCtxGetId"); !r) return r.error();
        return id;
    }
    CUdevice device = 0;
    if (auto r = cu.check(cu.cuDeviceGet(&device, 0), "cuDeviceGet"); !r) return r.error();
    // Retained once for the life of the process, as the CUDA runtime does.
    static std::mutex mutex;
    static CUcontext primary = nullptr;
    std::lock_guard lock(mutex);
    if (primary == nullptr)
        if (auto r = cu.check(cu.cuDevicePrimaryCtxRetain(&primary, device), "cuDevicePrimaryCtxRetain"); !r) return r.error();
    if (auto r = cu.check(cu.cuCtxSetCurrent(primary), "cuCtxSetCurrent"); !r) return r.error();
    if (auto r = cu.check(cu.cuCtxGetId(primary, &id), "cuCtxGetId"); !r) return r.error();
    return id;
}

}  // namespace hopfill::cuda

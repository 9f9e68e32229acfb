// What the fake driver answers.
#include "cuda/driver.h"

namespace hopfill::cuda {
namespace {

constexpr CUresult kInvalidDevice = 101;

}  // namespace

extern "C" {

// The device whose context is current; negative: no context is. Tests set it.
int fake_current = 0;
// Kernels that were launched.
int fake_launches = 0;
// Scratch memory: allocations less releases, and whether there is none to be had.
int fake_scratch = 0, fake_full = 0;
// Whether there is no memory for words to count with either.
int fake_no_words = 0;

CUresult cuDriverGetVersion(int* version) { return *version = 13000, 0; }
CUresult cuDeviceGetCount(int* count) { return *count = 2, 0; }
CUresult cuDeviceGet(CUdevice* device, int ordinal) { return *device = ordinal, ordinal < 0 || ordinal > 1 ? kInvalidDevice : 0; }
CUresult cuDeviceGetName(char* name, int, CUdevice) { return name[0] = 'G', name[1] = 0, 0; }
CUresult cuDeviceGetAttribute(int* value, CUdeviceAttribute attribute, CUdevice) {
    *value = attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR          ? 9
             : attribute == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR        ? 0
             : attribute == CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN ? 232448
             : attribute == CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE                   ? 50 << 20
                                                                                : 132;
    return 0;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext* context, CUdevice device) { return *context = reinterpret_cast<CUcontext>(device + 1l), 0; }
CUresult cuCtxGetCurrent(CUcontext* context) { return *context = reinterpret_cast<CUcontext>(fake_current + 1l), 0; }
CUresult cuCtxSetCurrent(CUcontext context) { return fake_current = static_cast<int>(reinterpret_cast<long>(context)) - 1, 0; }
CUresult cuCtxGetId(CUcontext context, unsigned long long* id) { return *id = reinterpret_cast<unsigned long long>(context), 0; }
CUresult cuCtxGetDevice(CUdevice* device) { return *device = fake_current, fake_current < 0 ? kErrorInvalidContext : 0; }
CUresult cuModuleLoadData(CUmodule* module, const void*) { return *module = reinterpret_cast<CUmodule>(1), 0; }
CUresult cuModuleGetFunction(CUfunction* function, CUmodule, const char*) { return *function = reinterpret_cast<CUfunction>(1), 0; }
CUresult cuFuncGetAttribute(int* value, CUfunctionAttribute, CUfunction) { return *value = 0, 0; }
CUresult cuMemAlloc_v2(CUdeviceptr* memory, std::size_t) { return *memory = 4096, fake_no_words != 0 ? 2 : 0; }
CUresult cuMemPoolCreate(CUmemoryPool* pool, const CUmemPoolProps*) { return *pool = reinterpret_cast<CUmemoryPool>(1), 0; }
CUresult cuMemAllocFromPoolAsync(CUdeviceptr* memory, std::size_t, CUmemoryPool, CUstream) {
    if (fake_full != 0) return 2;
    return *memory = 4096, ++fake_scratch, 0;
}
CUresult cuMemFreeAsync(CUdeviceptr, CUstream) { return --fake_scratch, 0; }
CUresult cuLaunchKernelEx(const CUlaunchConfig*, CUfunction, void**, void**) { return ++fake_launches, 0; }

}  // extern "C"

}  // namespace hopfill::cuda

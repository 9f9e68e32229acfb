#include "cuda/memory.h"

#include "cuda/driver.h"

namespace hopfill::cuda {
namespace {

// The driver with a context current on this thread.
Result<const Driver*> ready() {
    const auto cu = driver();
    if (!cu) return cu;
    if (auto context = current_context(**cu); !context) return context.error();
    return cu;
}

}  // namespace

Result<void*> allocate(std::size_t bytes) {
    const auto cu = ready();
    if (!cu) return cu.error();
    CUdeviceptr p = 0;
    if (auto r = (*cu)->check((*cu)->cuMemAlloc(&p, bytes > 0 ? bytes : 1), "cuMemAlloc"); !r) return r.error();
    return reinterpret_cast<void*>(p);
}

void release(void* memory) {
    if (const auto cu = ready(); cu && memory != nullptr) (*cu)->cuMemFree(reinterpret_cast<CUdeviceptr>(memory));
}

Result<void> upload(void* to_device, const void* from_host, std::size_t bytes) {
    const auto cu = ready();
    if (!cu) return cu.error();
    if (auto r = (*cu)->check((*cu)->cuMemcpyHtoD(reinterpret_cast<CUdeviceptr>(to_device), from_host, bytes), "cuMemcpyHtoD"); !r) return r;
    // From pageable memory cuMemcpyHtoD returns when the last piece is staged, not when it has arrived: streams that do not wait for the default one
    // would overtake it.
    return (*cu)->check((*cu)->cuStreamSynchronize(nullptr), "cuStreamSynchronize");
}

Result<void> download(void* to_host, const void* from_device, std::size_t bytes) {
    const auto cu = ready();
    if (!cu) return cu.error();
    return (*cu)->check((*cu)->cuMemcpyDtoH(to_host, reinterpret_cast<CUdeviceptr>(from_device), bytes), "cuMemcpyDtoH");
}

Result<void> synchronize(Stream stream) {
    const auto cu = ready();
    if (!cu) return cu.error();
    return (*cu)->check((*cu)->cuStreamSynchronize(static_cast<CUstream>(stream)), "cuStreamSynchronize");
}

}  // namespace hopfill::cuda

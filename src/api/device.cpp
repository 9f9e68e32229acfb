#include "hopfill/device.h"

#include "cuda/memory.h"

namespace hopfill::device {

Result<void*> allocate(std::size_t bytes) { return bytes == 0 ? Result<void*>(nullptr) : cuda::allocate(bytes); }

void release(void* memory) {
    if (memory != nullptr) cuda::release(memory);
}

Result<void> upload(void* to_device, const void* from_host, std::size_t bytes) {
    return bytes == 0 ? Result<void>() : cuda::upload(to_device, from_host, bytes);
}

Result<void> download(void* to_host, const void* from_device, std::size_t bytes) {
    return bytes == 0 ? Result<void>() : cuda::download(to_host, from_device, bytes);
}

Result<void> synchronize(Stream stream) { return cuda::synchronize(stream); }

}  // namespace hopfill::device

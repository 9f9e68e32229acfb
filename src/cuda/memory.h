// Device memory of the current context, for the public API's hopfill/device.h. All of it blocks.
#pragma once

#include <cstddef>

#include "hopfill/attention.h"

namespace hopfill::cuda {

// 256-byte aligned.
Result<void*> allocate(std::size_t bytes);
void release(void* memory);
Result<void> upload(void* to_device, const void* from_host, std::size_t bytes);
Result<void> download(void* to_host, const void* from_device, std::size_t bytes);
Result<void> synchronize(Stream stream);

}  // namespace hopfill::cuda

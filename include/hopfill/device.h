// Memory of the current GPU, for programs that have no CUDA library of their own. All of it blocks the calling thread.
// Errors: unavailable when there is no GPU or driver, device when the driver reports a failure.
#pragma once

#include <cstddef>

#include "hopfill/attention.h"

namespace hopfill::device {

/// Uninitialised memory, 256-byte aligned; null for 0 bytes.
Result<void*> allocate(std::size_t bytes);
/// Frees what allocate() gave; null is ignored.
void release(void* memory);

/// Copies `bytes` bytes; the copy is complete, for every stream, when they return.
Result<void> upload(void* to_device, const void* from_host, std::size_t bytes);
Result<void> download(void* to_host, const void* from_device, std::size_t bytes);

/// Waits until the stream's work is done.
Result<void> synchronize(Stream stream = nullptr);

}  // namespace hopfill::device

// The GPU backend: driver API and NVRTC, both opened at run time. Nothing here needs a CUDA header or a GPU to compile or to be called.
#pragma once

#include <string>
#include <vector>

#include "hopfill/info.h"
#include "plan/launch.h"
#include "plan/quantize.h"

namespace hopfill::cuda {

// The device of the current context (the primary context of device 0 is retained when there is none). Errors: unavailable.
Result<DeviceInfo> current_device();
// The ordinal of the current context's device: one driver call where there is a context. Errors: unavailable.
Result<int> current_ordinal();
// The DeviceInfo of a CUDA ordinal, cached. Errors: unavailable.
Result<DeviceInfo> device(int ordinal);

// Loads a kernel into the current context: from the catalogue, else the disk cache, else NVRTC. Idempotent, thread-safe.
Result<void> load(const KernelConfig& config);

// What an Error of launch() names when the copies that a launch reads cannot be had, for want of memory or of the kernel that makes them, so that the
// caller can tell, and do without.
constexpr const char* kScratch = "scratch";

// Encodes the tensor maps and launches; asynchronous.
Result<void> launch(const planner::LaunchSpec& spec, Stream stream);

// Launches a stage of the quantiser; asynchronous.
Result<void> launch(const planner::QuantizeLaunch& spec, Stream stream);

struct Versions {
    std::string driver, nvrtc;
};
Versions versions();

// The embedded catalogue, with registers, shared memory, spills and evidence.
std::vector<KernelInfo> catalogue();

}  // namespace hopfill::cuda

// What this library and this machine can do.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "hopfill/attention.h"

namespace hopfill {

/// A kernel of the catalogue.
struct KernelInfo {
    std::string name;
    std::string key;                 ///< SHA-256 of its machine code (see DESIGN.md, 'Evidence'); empty where it cannot be computed
    int registers = 0;               ///< per thread at launch
    int shared_bytes = 0;            ///< dynamic, per block
    int spill_bytes = 0;
    std::string evidence;            ///< GPU and date of the recorded run, or empty
};

struct Info {
    std::string version;
    std::vector<Backend> backends;   ///< those that can run here
    std::optional<DeviceInfo> gpu;   ///< the current device, if there is one
    std::string driver;              ///< CUDA version that the driver supports, e.g. "13.0", or why there is none
    std::string nvrtc;               ///< version and path of NVRTC, or why there is none
    std::vector<KernelInfo> kernels; ///< the embedded catalogue
};

/// Never fails: what is missing is said in the strings.
Info info();

/// The GPU that run() would use on this thread. Errors: unavailable.
Result<DeviceInfo> current_device();

}  // namespace hopfill

#include "hopfill/info.h"

#include "cuda/backend.h"

namespace hopfill {

Info info() {
    const cuda::Versions versions = cuda::versions();
    Info out;
    out.version = HOPFILL_VERSION;
    out.backends = {Backend::cpu, Backend::emulated, Backend::oracle};
    out.driver = versions.driver;
    out.nvrtc = versions.nvrtc;
    out.kernels = cuda::catalogue();
    if (Result<DeviceInfo> device = cuda::current_device()) {
        out.gpu = *device;
        if (device->sm_major == 9 && device->sm_minor == 0) out.backends.insert(out.backends.begin(), Backend::sm90);
    }
    return out;
}

Result<DeviceInfo> current_device() { return cuda::current_device(); }

}  // namespace hopfill

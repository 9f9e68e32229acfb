// Kernels in contexts: from a catalogue, else the disk cache, else NVRTC.
#pragma once

#include <string_view>

#include "cuda/driver.h"
#include "cuda/kernel_image.h"
#include "plan/kernel_config.h"
#include "plan/quantize_params.h"

namespace hopfill::cuda {

// While one lives, this thread may allocate and load although some stream is being captured.
class RelaxedCapture {
public:
    explicit RelaxedCapture(const Driver& cu) : cu_(cu) { cu_.cuThreadExchangeStreamCaptureMode(&mode_); }
    ~RelaxedCapture() { cu_.cuThreadExchangeStreamCaptureMode(&mode_); }
    RelaxedCapture(const RelaxedCapture&) = delete;
    RelaxedCapture& operator=(const RelaxedCapture&) = delete;

private:
    const Driver& cu_;
    CUstreamCaptureMode mode_ = CU_STREAM_CAPTURE_MODE_RELAXED;
};

// Adds kernels that are not shipped, for tuning: a blob of hopfill_catalogue, which must outlive the process.
void add_catalogue(std::string_view blob);

// The machine code of a kernel, wherever it comes from. Errors: unavailable (not in the catalogue and no NVRTC), internal.
Result<KernelImage> image_for(const KernelConfig& config);

// The kernel, loaded into the current context, whose id is given; kept for the context's life. Thread-safe.
Result<CUfunction> function_for(const Driver& cu, unsigned long long context, const KernelConfig& config);
Result<CUfunction> function_for(const Driver& cu, unsigned long long context, const QuantizeConfig& config);

}  // namespace hopfill::cuda

// A driver of two GPUs that do nothing, for tests of the host's side: each function of cuda/driver.h succeeds, those of fake_devices.cpp answer too.
#include "cuda/driver.h"

namespace hopfill::cuda {

#define HOPFILL_FAKE(name, symbol, parameters) \
    extern "C" __attribute__((weak, visibility("default"))) CUresult symbol parameters { return 0; }
HOPFILL_DRIVER_FUNCTIONS(HOPFILL_FAKE)
#undef HOPFILL_FAKE

}  // namespace hopfill::cuda

// Runs any kernel written against sm90/*.cuh as a grid of emulated thread blocks. What run() does with the real kernels, tests do with small ones.
#pragma once

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "emulator/backend.h"
#include "plan/tensor_map.h"

namespace hopfill::emulator {

// Global memory that the kernel may touch; every other address is out of bounds.
struct Buffer {
    std::string name;
    const void* begin = nullptr;
    std::size_t bytes = 0;
    bool writable = false;
    bool handed_over = false;  // some blocks store it, once, others load it in the same launch, both by TMA: that they do so in order is checked
    // Some threads store it, others of any block load it in the same launch, both by ordinary instructions: that they do so in order is checked, byte
    // by byte. The words by whose atomics they know of each other lie in another buffer.
    bool exchanged = false;
};

struct Launch {
    int grid = 1;
    int threads = 128;     // of a block, a multiple of 32
    int shared_bytes = 0;  // dynamic shared memory
    int registers = 0;     // of a thread at launch; 0: all that `threads` threads can have, as __launch_bounds__(threads, 1) gives
    std::vector<Buffer> buffers;
    bool programmatic = false;  // may start while the launch before it ends: touches no global memory before wait_for_previous_launch
};

// `kernel` is what one thread does.
Report emulate(const Launch& launch, const std::function<void()>& kernel, const Options& options = {});

// What cuTensorMapEncodeTiled does, with its limits checked. Errors name the field.
Result<TensorMap> encode(const TensorMapSpec& spec);

}  // namespace hopfill::emulator

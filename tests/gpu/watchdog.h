// Ends the process when a step takes too long: a kernel that hangs would otherwise hold the GPU, and us, for ever.
#pragma once

#include <chrono>
#include <functional>
#include <string>

namespace hopfill::gpu {

// Starts a step of this thread, ending the one before. When it is not over in time, `expired` is called with its name and the process exits with
// status 124. HOPFILL_PATIENCE multiplies the limits: sanitizers are slow.
void watch(std::string step, std::chrono::seconds limit);
void stop_watching();
// What to do on expiry besides the message on stderr.
void on_expiry(std::function<void(const std::string& step)> action);

}  // namespace hopfill::gpu

#include "cuda/memory.h"
#include "cuda/timing.h"
namespace hopfill::cuda {
static Error absent() { return {Code::unavailable, "", "this build has no sm90 backend"}; }
Result<void*> allocate(std::size_t) { return absent(); }
void release(void*) {}
Result<void> upload(void*, const void*, std::size_t) { return absent(); }
Result<void> download(void*, const void*, std::size_t) { return absent(); }
Result<void> synchronize(Stream) { return absent(); }
Result<Timing> time_launch(const planner::LaunchSpec&, int) { return absent(); }
}  // namespace hopfill::cuda

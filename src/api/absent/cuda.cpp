#include "cuda/backend.h"
namespace hopfill::cuda {
static Error absent() { return {Code::unavailable, "", "this build has no sm90 backend"}; }
Result<DeviceInfo> current_device() { return absent(); }
Result<DeviceInfo> device(int) { return absent(); }
Result<void> load(const KernelConfig&) { return absent(); }
Result<void> launch(const planner::LaunchSpec&, Stream) { return absent(); }
Versions versions() { return {"absent", "absent"}; }
std::vector<KernelInfo> catalogue() { return {}; }
}  // namespace hopfill::cuda

// plan(): which backend, and for the sm90 kernels which kernel (src/plan).
#include "api/error.h"
#include "api/validate.h"
#include "hopfill/attention.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

bool is_hopper(const DeviceInfo& device) { return device.sm_major == 9 && device.sm_minor == 0; }

}  // namespace

Result<Plan> plan(const AttentionProblem& problem, const DeviceInfo& device, Backend backend) {
    if (auto checked = validate(problem); !checked) return checked.error();
    if (backend == Backend::automatic) backend = is_hopper(device) ? Backend::sm90 : Backend::cpu;
    if (backend == Backend::sm90 || backend == Backend::emulated) {
        Result<Plan> chosen = planner::choose(problem, device);
        if (chosen) chosen->backend = backend;
        return chosen;
    }
    Plan plan;
    plan.problem = problem;
    plan.backend = backend;
    return plan;
}

}  // namespace hopfill

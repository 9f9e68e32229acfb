#include "hopfill/timing.h"

#include <algorithm>
#include <chrono>
#include <vector>

#include "api/backends.h"
#include "api/error.h"
#include "cuda/timing.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

Result<Timing> time_on_host(const Plan& plan, const AttentionTensors& tensors, int rounds) {
    using Clock = std::chrono::steady_clock;
    std::vector<double> us;
    for (int round = 0; round < rounds; ++round) {
        const Clock::time_point start = Clock::now();
        if (auto done = dispatch(plan, tensors, nullptr); !done) return done.error();
        us.push_back(std::chrono::duration<double, std::micro>(Clock::now() - start).count());
    }
    std::sort(us.begin(), us.end());
    const double median = us[us.size() / 2];
    return Timing{median, us.back() - us.front(), median};
}

}  // namespace

Result<Timing> time(const Plan& plan, const AttentionTensors& tensors, int rounds) {
    if (rounds < 1) return invalid("rounds", "is {}; 1 or more is allowed", rounds);
    if (auto checked = check_against(plan, tensors); !checked) return checked.error();
    const AttentionTensors checked_tensors = canonical(tensors);
    if (plan.backend != Backend::sm90) return time_on_host(plan, checked_tensors, rounds);
    Result<planner::LaunchSpec> launch = planner::make_launch(plan, checked_tensors);
    if (!launch) return launch.error();
    const Result<cuda::Timing> timing = cuda::time_launch(*launch, rounds);
    if (!timing) return timing.error();
    return Timing{timing->us, timing->us_spread, timing->host_us};
}

double flops(const AttentionProblem& p) {
    const double pairs = static_cast<double>(p.batch) * static_cast<double>(p.max_seqlen_q) * static_cast<double>(p.max_seqlen_kv);
    return 4 * pairs * static_cast<double>(p.heads * p.head_dim) * (p.causal ? 0.5 : 1);
}

}  // namespace hopfill

// run(), load(), emulate() and attention().
#include <functional>
#include <mutex>
#include <unordered_map>

#include "api/backends.h"
#include "api/error.h"
#include "cuda/backend.h"
#include "hopfill/emulate.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

// What attention() makes a plan from.
struct PlanKey {
    AttentionProblem problem;
    Device device;
    Backend backend = Backend::automatic;
    bool operator==(const PlanKey&) const = default;
};

struct PlanKeyHash {
    std::size_t operator()(const PlanKey& key) const {
        std::size_t h = 0;
        const auto mix = [&h](auto value) { h = (h ^ std::hash<decltype(value)>{}(value)) * 0x9e3779b97f4a7c15ull; };
        const AttentionProblem& p = key.problem;
        mix(static_cast<int>(p.dtype) | static_cast<int>(p.out_dtype) << 3 | p.packed << 6 | p.causal << 7 | p.want_lse << 8 |
            p.batch_invariant << 9 | p.v_transposed << 24 | static_cast<int>(key.backend) << 10 | static_cast<int>(key.device.kind) << 13 |
            key.device.index << 14);
        for (std::int64_t value : {p.batch, p.heads, p.kv_heads, p.head_dim, p.max_seqlen_q, p.max_seqlen_kv, p.tokens_q, p.tokens_kv}) mix(value);
        mix(static_cast<int>(p.kv_dtype) | static_cast<int>(p.q_scale.kind) << 3 | static_cast<int>(p.k_scale.kind) << 6 |
            static_cast<int>(p.v_scale.kind) << 9);
        mix(p.scale);
        mix(p.max_scratch_bytes.value_or(-1));
        for (const Strides& s : {p.q, p.k, p.v, p.o}) {
            mix(s.batch);
            mix(s.seq);
            mix(s.head);
        }
        return h;
    }
};

// The lengths of a serving engine's batches have no end, so the plans kept have one.
constexpr std::size_t kMaxPlans = 4096;

Result<Plan> make_plan(const PlanKey& key) {
    if (key.device.kind == Device::Kind::cuda) {
        Result<DeviceInfo> device = cuda::device(key.device.index);
        if (!device) return device.error();
        return plan(key.problem, *device, key.backend == Backend::automatic ? Backend::sm90 : key.backend);
    }
    return plan(key.problem, DeviceInfo{}, key.backend == Backend::automatic ? Backend::cpu : key.backend);
}

// The plan of a key, from this thread's last call, from those kept, or new.
Result<std::reference_wrapper<const Plan>> plan_for(const PlanKey& key) {
    thread_local PlanKey last_key;
    thread_local Plan last_plan;
    if (last_plan.backend != Backend::automatic && last_key == key) return std::cref(last_plan);

    static std::mutex mutex;
    static std::unordered_map<PlanKey, Plan, PlanKeyHash> kept;
    {
        const std::lock_guard lock(mutex);
        if (auto found = kept.find(key); found != kept.end()) {
            last_key = key;
            last_plan = found->second;
            return std::cref(last_plan);
        }
    }
    Result<Plan> made = make_plan(key);
    if (!made) return made.error();
    last_key = key;
    last_plan = *made;
    const std::lock_guard lock(mutex);
    if (kept.size() >= kMaxPlans) kept.clear();
    kept.emplace(key, *made);
    return std::cref(last_plan);
}

}  // namespace

Result<void> run(const Plan& plan, const AttentionTensors& tensors, Stream stream) {
    if (auto checked = check_against(plan, tensors); !checked) return checked;
    return dispatch(plan, canonical(tensors), stream);
}

Result<std::uint64_t> emulate(const Plan& plan, const AttentionTensors& tensors, std::uint64_t seed) {
    if (plan.backend != Backend::emulated) return invalid("plan", "is for the {} backend; emulate() takes emulated plans", name_of(plan.backend));
    if (auto checked = check_against(plan, tensors); !checked) return checked.error();
    return dispatch_emulated(plan, canonical(tensors), seed);
}

Result<void> load(const Plan& plan) {
    if (plan.backend != Backend::sm90) return {};
    const int variants = planner::variants();
    if (plan.variant < 0 || plan.variant >= variants) {
        return invalid("plan", "has kernel {}; plan() makes plans that have one from 0 to {}", plan.variant, variants - 1);
    }
    return cuda::load(planner::kernel_at(plan.variant));
}

Result<void> attention(const AttentionTensors& tensors, const AttentionOptions& options, Stream stream) {
    Result<AttentionProblem> problem = describe(tensors, options);
    if (!problem) return problem.error();
    const PlanKey key{*problem, tensors.q.device, options.backend};
    Result<std::reference_wrapper<const Plan>> found = plan_for(key);
    if (!found) return found.error();
    const Plan& plan = *found;
    if (auto checked = check_device(plan, tensors); !checked) return checked;
    return dispatch(plan, canonical(tensors), stream);
}

}  // namespace hopfill

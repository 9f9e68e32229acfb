// hopfill::check on the GPU: the library's own path, or one kernel that the planner would perhaps not choose.
#pragma once

#include <algorithm>
#include <string>
#include <utility>

#include "cuda/backend.h"
#include "cuda/launch.h"
#include "cuda/memory.h"
#include "hopfill/check.h"
#include "plan/launch.h"
#include "watchdog.h"

namespace hopfill::gpu {

// A kernel that splits jobs is to do so even where the planner would not, and alike on every GPU: half of them, in up to three parts.
inline Plan split_anyway(Plan plan, const DeviceInfo& device) {
    const KernelConfig& c = planner::kernel_at(plan.variant);
    const std::int64_t blocks = (plan.problem.max_seqlen_kv + plan.tile_n - 1) / plan.tile_n;
    if (!c.splits || blocks < 2) return plan;
    const int parts = static_cast<int>(std::min<std::int64_t>(3, blocks));
    const std::int64_t jobs = std::min((plan.jobs + 1) / 2, planner::splittable_jobs(c, plan.problem, parts));
    return jobs > 0 ? planner::with_split(std::move(plan), {jobs, parts}, device.num_sms) : plan;
}

class GpuTarget : public check::Target {
public:
    // A negative variant leaves the choice to the planner.
    explicit GpuTarget(int variant = -1, bool programmatic = false) : Target(Backend::sm90), variant_(variant), programmatic_(programmatic) {}

    [[nodiscard]] Device device() const override { return {Device::Kind::cuda, 0}; }
    Result<void*> allocate(std::size_t bytes) override { return cuda::allocate(bytes); }
    void release(void* p) override { cuda::release(p); }
    Result<void> upload(void* to, const void* from, std::size_t bytes) override { return cuda::upload(to, from, bytes); }
    Result<void> download(void* to, const void* from, std::size_t bytes) override { return cuda::download(to, from, bytes); }

    Result<void> run(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions& options, std::uint64_t) override {
        watch(label_, std::chrono::seconds(30));
        const auto done = run_watched(problem, tensors, options);
        stop_watching();
        return done;
    }

    // What the watchdog says when a run does not end.
    void label(std::string text) { label_ = std::move(text); }
    // The kernel of the last run that left the choice to the planner.
    [[nodiscard]] const std::string& kernel() const { return kernel_; }

private:
    Result<void> run_watched(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions& options) {
        if (variant_ < 0) {
            if (const auto info = cuda::current_device()) {
                const auto chosen = planner::choose(problem, *info);
                kernel_ = chosen ? chosen->kernel : "";
            }
            if (auto r = attention(tensors, options); !r) return r;
            return cuda::synchronize(nullptr);
        }
        const auto device = cuda::current_device();
        if (!device) return device.error();
        const auto plan = planner::plan_variant(problem, *device, variant_);
        if (!plan) return plan.error();
        const auto spec = planner::make_launch(split_anyway(*plan, *device), tensors);
        if (!spec) return spec.error();
        if (auto r = cuda::launch(*spec, nullptr, {programmatic_}); !r) return r;
        return cuda::synchronize(nullptr);
    }

    std::string label_ = "a launch", kernel_;
    int variant_;
    bool programmatic_;
};

}  // namespace hopfill::gpu

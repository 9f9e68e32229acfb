// hopfill::check on the GPU: the library's own path, or one kernel that the planner would perhaps not choose.
#pragma once

#include "cuda/backend.h"
#include "cuda/launch.h"
#include "cuda/memory.h"
#include "hopfill/check.h"
#include "plan/launch.h"

namespace hopfill::gpu {

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
        if (variant_ < 0) {
            if (auto r = attention(tensors, options); !r) return r;
            return cuda::synchronize(nullptr);
        }
        const auto device = cuda::current_device();
        if (!device) return device.error();
        const auto plan = planner::plan_variant(problem, *device, variant_);
        if (!plan) return plan.error();
        const auto spec = planner::make_launch(*plan, tensors);
        if (!spec) return spec.error();
        if (auto r = cuda::launch(*spec, nullptr, {programmatic_}); !r) return r;
        return cuda::synchronize(nullptr);
    }

private:
    int variant_;
    bool programmatic_;
};

}  // namespace hopfill::gpu

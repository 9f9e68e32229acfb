#include "api/backends.h"

#include <charconv>
#include <cstdlib>
#include <cstring>
#include <string>
#include <tuple>

#include "api/error.h"
#include "api/layout.h"
#include "cpu/backend.h"
#include "cuda/backend.h"
#include "emulator/backend.h"
#include "oracle/oracle.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

// Says what of `found` is not as `planned`.
Error disagreement(const AttentionProblem& planned, const AttentionProblem& found) {
    const auto number = [](const char* name, auto want, auto have) { return invalid(name, "is {}; the plan was made for {}", have, want); };
    if (found.dtype != planned.dtype) return number("q", name_of(planned.dtype), name_of(found.dtype));
    if (found.kv_dtype != planned.kv_dtype) return number("k", name_of(planned.kv_dtype), name_of(found.kv_dtype));
    if (found.out_dtype != planned.out_dtype) return number("o", name_of(planned.out_dtype), name_of(found.out_dtype));
    if (found.packed != planned.packed) return number("q", planned.packed ? "packed tensors" : "dense tensors", found.packed ? "packed" : "dense");
    if (found.batch != planned.batch) return number("batch", planned.batch, found.batch);
    if (found.heads != planned.heads) return number("heads", planned.heads, found.heads);
    if (found.kv_heads != planned.kv_heads) return number("kv_heads", planned.kv_heads, found.kv_heads);
    if (found.head_dim != planned.head_dim) return number("head_dim", planned.head_dim, found.head_dim);
    if (found.tokens_q != planned.tokens_q) return number("tokens_q", planned.tokens_q, found.tokens_q);
    if (found.tokens_kv != planned.tokens_kv) return number("tokens_kv", planned.tokens_kv, found.tokens_kv);
    if (found.want_lse != planned.want_lse) return number("lse", planned.want_lse ? "one" : "none", found.want_lse ? "given" : "absent");
    struct Named {
        const char* name;
        const Strides &want, &have;
    };
    for (const auto& [name, want, have] :
         {Named{"q", planned.q, found.q}, Named{"k", planned.k, found.k}, Named{"v", planned.v, found.v}, Named{"o", planned.o, found.o}}) {
        if (!(want == have)) {
            return invalid(std::string(name) + ".strides", "are {}, {}, {} (batch, seq, head); the plan was made for {}, {}, {}", have.batch,
                           have.seq, have.head, want.batch, want.seq, want.head);
        }
    }
    for (const auto& [name, want, have] :
         {std::tuple{"q_scale", planned.q_scale, found.q_scale}, std::tuple{"k_scale", planned.k_scale, found.k_scale},
          std::tuple{"v_scale", planned.v_scale, found.v_scale}}) {
        if (!(want == have)) return invalid(name, "has another shape or other strides than the plan was made for");
    }
    return invalid("plan", "was made for other tensors");
}

// Where a plan's scratch memory cannot be had.
Result<void> launch_without_scratch(const Plan& plan, const AttentionTensors& tensors, Stream stream, const Error& refused) {
    const Result<DeviceInfo> device = cuda::current_device();
    if (!device) return refused;
    const Result<Plan> other = planner::replace_without_scratch(plan, *device);
    if (!other) return refused;
    const Result<planner::LaunchSpec> launch = planner::make_launch(*other, tensors);
    if (!launch) return launch.error();
    return cuda::launch(*launch, stream);
}

}  // namespace

Result<std::uint64_t> emulator_seed() {
    const char* text = std::getenv("HOPFILL_EMULATOR_SEED");
    if (text == nullptr) return std::uint64_t{0};
    std::uint64_t seed = 0;
    const char* end = text + std::strlen(text);
    if (auto [at, error] = std::from_chars(text, end, seed); error != std::errc{} || at != end) {
        return invalid("HOPFILL_EMULATOR_SEED", "is \"{}\"; a number from 0 to 2^64 - 1 is needed", text);
    }
    return seed;
}

AttentionTensors canonical(const AttentionTensors& t) {
    AttentionTensors out = t;
    for (TensorView* view : {&out.q, &out.k, &out.v, &out.o, &out.lse}) {
        if (view->present()) *view = canonical(*view);
    }
    return out;
}

Result<void> check_against(const Plan& plan, const AttentionTensors& tensors) {
    const AttentionProblem& p = plan.problem;
    AttentionOptions options;
    options.causal = p.causal;
    options.scale = p.scale;
    options.batch_invariant = p.batch_invariant;
    options.max_scratch_bytes = p.max_scratch_bytes;
    options.v_transposed = p.v_transposed;
    if (p.scale_block != 0) options.scale_block = p.scale_block;
    if (p.packed && tensors.q.rank == 3) {
        options.max_seqlen_q = p.max_seqlen_q;
        options.max_seqlen_kv = p.max_seqlen_kv;
    }
    Result<AttentionProblem> found = describe(tensors, options);
    if (!found) return found.error();
    if (!(*found == p)) return disagreement(p, *found);
    return check_device(plan, tensors);
}

Result<void> check_device(const Plan& plan, const AttentionTensors& tensors) {
    const bool on_gpu = tensors.q.device.kind == Device::Kind::cuda;
    if (plan.backend == Backend::sm90 && !on_gpu) return invalid("q", "is on the host; the sm90 backend reads tensors on a GPU");
    if (plan.backend != Backend::sm90 && on_gpu) return invalid("q", "is on a GPU; the {} backend reads tensors on the host", name_of(plan.backend));
    if (!on_gpu) return {};
    const Result<int> current = cuda::current_ordinal();
    if (!current) return current.error();
    if (*current == tensors.q.device.index) return {};
    return invalid("q", "is on CUDA device {0} and the current context is of device {1}; make device {0} current first", tensors.q.device.index,
                   *current);
}

Result<std::uint64_t> dispatch_emulated(const Plan& plan, const AttentionTensors& tensors, std::uint64_t seed) {
    Result<planner::LaunchSpec> launch = planner::make_launch(plan, tensors);
    if (!launch) return launch.error();
    if (launch->grid == 0) return std::uint64_t{0};
    emulator::Options options;
    options.seed = seed;
    Result<emulator::Report> report = emulator::run(*launch, options);
    if (!report) return report.error();
    if (!report->faults.empty()) {
        const emulator::Fault& fault = report->faults.front();
        return Error{Code::internal, "", fmt::format("{}: {} ({}, seed {})", fault.kind, fault.text, plan.kernel, seed)};
    }
    return report->steps;
}

Result<void> dispatch(const Plan& plan, const AttentionTensors& tensors, Stream stream) {
    switch (plan.backend) {
        case Backend::sm90: {
            Result<planner::LaunchSpec> launch = planner::make_launch(plan, tensors);
            if (!launch) return launch.error();
            Result<void> launched = cuda::launch(*launch, stream);
            if (launched || launched.error().argument != cuda::kScratch) return launched;
            return launch_without_scratch(plan, tensors, stream, launched.error());
        }
        case Backend::emulated: {
            Result<std::uint64_t> seed = emulator_seed();
            if (!seed) return seed.error();
            Result<std::uint64_t> steps = dispatch_emulated(plan, tensors, *seed);
            return steps ? Result<void>() : Result<void>(steps.error());
        }
        case Backend::cpu:
            return cpu::attention(plan.problem, tensors);
        case Backend::oracle:
            return oracle::attention(plan.problem, tensors);
        case Backend::automatic:
            break;
    }
    return invalid("plan", "has no backend; plan() makes plans that have one");
}

}  // namespace hopfill

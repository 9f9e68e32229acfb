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
    if (backend == Backend::cpu && problem.dtype == DType::e4m3) return unsupported("q", "is e4m3; the cpu backend takes f32, f16 and bf16");
    Plan plan;
    plan.problem = problem;
    plan.backend = backend;
    return plan;
}

std::string Plan::to_string() const {
    const AttentionProblem& p = problem;
    std::string text = fmt::format("problem   {} {} -> {}, {} {} of {} x {} tokens, {} heads over {} KV heads, head dimension {}, scale {:.6g}{}{}\n", name_of(p.dtype),
                                   p.causal ? "causal" : "full", name_of(p.out_dtype), p.batch, p.packed ? "ragged sequences, bounds" : "sequences", p.max_seqlen_q,
                                   p.max_seqlen_kv, p.heads, p.kv_heads, p.head_dim, p.scale, p.want_lse ? ", lse" : "", p.batch_invariant ? ", batch-invariant" : "");
    if (p.packed) text += fmt::format("tokens    {} of q, {} of k and v\n", p.tokens_q, p.tokens_kv);
    text += fmt::format("backend   {}\n", name_of(backend));
    if (kernel.empty()) return text;
    text += fmt::format("kernel    {} (variant {})\n", kernel, variant);
    text += fmt::format("tiles     {} query rows by {} keys, {} KV blocks in flight\n", tile_m, tile_n, stages);
    text += fmt::format("launch    {} blocks of {} threads, {} bytes of shared memory each\n", grid, threads, shared_bytes);
    text += fmt::format("jobs      {}{} (query tile, head, sequence) triples, {:.2f} a block\n", p.packed ? "at most " : "", jobs,
                        grid > 0 ? static_cast<double>(jobs) / grid : 0.0);
    text += fmt::format("modelled  {:.1f} us\n", modelled_us);
    return text;
}

}  // namespace hopfill

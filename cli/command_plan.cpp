// hopfill plan: which kernel a problem gets, on any device, on any machine.
#include <fmt/format.h>

#include <cmath>
#include <nlohmann/json.hpp>

#include "options.h"

namespace hopfill::cli {
namespace {

using nlohmann::json;

struct Arguments {
    AttentionProblem problem;
    std::optional<DType> dtype, kv_dtype, out_dtype;
    std::optional<std::int64_t> kv_heads, seq_kv, tokens_q, tokens_kv;
    std::optional<double> scale;
    DeviceInfo device;
    Backend backend = Backend::sm90;
    bool as_json = false;
};

// Strides of contiguous tensors.
void fill_strides(AttentionProblem& p) {
    const auto compact = [&p](std::int64_t heads, std::int64_t seq) {
        return Strides{p.packed ? 0 : seq * heads * p.head_dim, heads * p.head_dim, p.head_dim};
    };
    p.q = p.o = compact(p.heads, p.max_seqlen_q);
    p.k = p.v = compact(p.kv_heads, p.max_seqlen_kv);
}

AttentionProblem problem_of(const Arguments& a) {
    AttentionProblem p = a.problem;
    p.dtype = a.dtype.value_or(DType::bf16);
    p.kv_dtype = a.kv_dtype.value_or(p.dtype);
    p.out_dtype = a.out_dtype.value_or(p.dtype == DType::e4m3 ? DType::bf16 : p.dtype);
    p.kv_heads = a.kv_heads.value_or(p.heads);
    p.max_seqlen_kv = a.seq_kv.value_or(p.max_seqlen_q);
    p.tokens_q = a.tokens_q.value_or(p.batch * p.max_seqlen_q);
    p.tokens_kv = a.tokens_kv.value_or(p.batch * p.max_seqlen_kv);
    p.scale = a.scale ? *a.scale : 1 / std::sqrt(static_cast<double>(p.head_dim));
    fill_strides(p);
    return p;
}

json to_json(const Plan& plan) {
    const AttentionProblem& p = plan.problem;
    return {{"backend", name_of(plan.backend)},
            {"kernel", plan.kernel.empty() ? json(nullptr) : json(plan.kernel)},
            {"variant", plan.variant},
            {"tile_m", plan.tile_m},
            {"tile_n", plan.tile_n},
            {"stages", plan.stages},
            {"threads", plan.threads},
            {"grid", plan.grid},
            {"shared_bytes", plan.shared_bytes},
            {"jobs", plan.jobs},
            {"split_jobs", plan.split_jobs},
            {"parts", plan.parts},
            {"heads_per_group", plan.heads_per_group},
            {"scratch_bytes", plan.scratch_bytes},
            {"modelled_us", plan.modelled_us},
            {"problem",
             {{"dtype", name_of(p.dtype)},
              {"kv_dtype", name_of(p.kv_dtype)},
              {"out_dtype", name_of(p.out_dtype)},
              {"packed", p.packed},
              {"causal", p.causal},
              {"batch", p.batch},
              {"heads", p.heads},
              {"kv_heads", p.kv_heads},
              {"head_dim", p.head_dim},
              {"max_seqlen_q", p.max_seqlen_q},
              {"max_seqlen_kv", p.max_seqlen_kv},
              {"tokens_q", p.tokens_q},
              {"tokens_kv", p.tokens_kv},
              {"scale", p.scale},
              {"want_lse", p.want_lse},
              {"batch_invariant", p.batch_invariant},
              {"max_scratch_bytes", p.max_scratch_bytes ? nlohmann::json(*p.max_scratch_bytes) : nlohmann::json(nullptr)}}}};
}

}  // namespace

void add_plan(CLI::App& app, Status& status) {
    auto a = std::make_shared<Arguments>();
    a->problem.batch = 1;
    a->problem.heads = 32;
    a->problem.head_dim = 128;
    a->problem.max_seqlen_q = 512;
    CLI::App* command = app.add_subcommand("plan", "Explains which kernel a problem gets, its tiles, work and shared memory");
    add_dtype_option(*command, "--dtype", a->dtype, "Type of q (default bf16)");
    add_dtype_option(*command, "--kv-dtype", a->kv_dtype, "Type of k and v (default: that of q)");
    add_dtype_option(*command, "--out-dtype", a->out_dtype, "Type of o (default: that of q, bf16 where q is e4m3)");
    command->add_option("--batch", a->problem.batch, "Sequences")->capture_default_str();
    command->add_option("--heads", a->problem.heads, "Query heads")->capture_default_str();
    command->add_option("--kv-heads", a->kv_heads, "KV heads (default: as many as query heads)");
    command->add_option("--head-dim", a->problem.head_dim, "Columns of a head")->capture_default_str();
    command->add_option("--seq-q", a->problem.max_seqlen_q, "Queries of a sequence; packed: the most")->capture_default_str();
    command->add_option("--seq-kv", a->seq_kv, "Keys of a sequence; packed: the most (default: --seq-q)");
    command->add_flag("--packed", a->problem.packed, "A ragged batch, [tokens, heads, head_dim]");
    command->add_option("--tokens-q", a->tokens_q, "Packed: rows of q (default: batch * seq-q)");
    command->add_option("--tokens-kv", a->tokens_kv, "Packed: rows of k and v (default: batch * seq-kv)");
    command->add_flag("--causal", a->problem.causal, "Query i of s_q sees keys up to i + s_kv - s_q");
    command->add_option("--scale", a->scale, "Softmax scale (default 1/sqrt(head_dim))");
    command->add_flag("--lse", a->problem.want_lse, "Also the log-sum-exp");
    command->add_flag("--batch-invariant", a->problem.batch_invariant, "A sequence's bits do not depend on its batch");
    command->add_option("--max-scratch-bytes", a->problem.max_scratch_bytes, kMaxScratchBytes);
    command->add_option("--sms", a->device.num_sms, "Streaming multiprocessors of the GPU (H100 SXM 132, PCIe 114, H20 78)")->capture_default_str();
    command->add_option("--l2", a->device.l2_bytes, "Bytes of its L2 cache")->capture_default_str();
    add_backend_option(*command, a->backend, {Backend::automatic, Backend::cpu, Backend::sm90, Backend::emulated, Backend::oracle});
    command->add_flag("--json", a->as_json, "One JSON object");
    command->callback([a, &status] {
        const Result<Plan> made = plan(problem_of(*a), a->device, a->backend);
        if (!made) {
            status = report(made.error());
        } else if (a->as_json) {
            fmt::print("{}\n", to_json(*made).dump(2));
        } else {
            fmt::print("{}", made->to_string());
        }
    });
}

}  // namespace hopfill::cli

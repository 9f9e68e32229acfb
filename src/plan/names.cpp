// Printed names of kernels and plans.
#include <fmt/format.h>

#include "plan/geometry.h"
#include "plan/launch.h"

namespace hopfill {
namespace {

const char* text(Elem e) {
    switch (e) {
        case Elem::bf16: return "bf16";
        case Elem::f16: return "f16";
        case Elem::e4m3: return "e4m3";
        case Elem::f32: return "f32";
    }
    return "?";
}
const char* text(Mask m) { return m == Mask::causal ? "causal" : "full"; }
const char* text(Family f) { return f == Family::prefill ? "prefill" : "prefill_short"; }

}  // namespace

namespace planner {

std::string kernel_name(const KernelConfig& c) {
    return fmt::format("{}_{}{}_hd{}_{}{}_m{}n{}s{}{}{}", text(c.family), text(c.elem), c.out == c.elem ? "" : fmt::format("_o{}", text(c.out)), c.head_dim,
                       text(c.mask), c.packed ? "_packed" : "", geometry(c).tile_m, c.tile_n, c.stages, c.pingpong ? "_pp" : "", c.dynamic ? "_dyn" : "");
}

std::string kernel_expression(const KernelConfig& c) {
    return fmt::format(
        "hopfill::KernelConfig{{hopfill::Family::{}, hopfill::Elem::{}, hopfill::Elem::{}, hopfill::Mask::{}, {}, {}, {}, {}, {}, {}, {}}}", text(c.family),
        text(c.elem), text(c.out), text(c.mask), c.head_dim, c.tile_n, c.stages, c.consumers, c.packed, c.dynamic, c.pingpong);
}

}  // namespace planner

std::string Plan::to_string() const {
    const AttentionProblem& p = problem;
    std::string s = fmt::format("problem  {} -> {}, {} heads, {} kv heads, head_dim {}, {}, {}\n", name_of(p.dtype), name_of(p.out_dtype), p.heads, p.kv_heads,
                                p.head_dim, p.causal ? "causal" : "full", p.packed ? "packed" : "dense");
    s += p.packed ? fmt::format("         {} sequences, {} query tokens, {} kv tokens\n", p.batch, p.tokens_q, p.tokens_kv)
                  : fmt::format("         {} sequences of {} queries and {} keys\n", p.batch, p.max_seqlen_q, p.max_seqlen_kv);
    s += fmt::format("backend  {}\n", name_of(backend));
    if (variant < 0) return s;
    const KernelConfig& c = planner::kernel_at(variant);
    const Geometry g = geometry(c);
    s += fmt::format("kernel   {}\n", kernel);
    s += fmt::format("tiles    {} queries by {} keys, {} of 16 columns a product, {} stages of K and V\n", tile_m, tile_n, c.head_dim / 16, stages);
    s += fmt::format("block    {} threads: 1 producer and {} consumer warpgroups{}\n", threads, c.consumers, c.pingpong ? ", taking turns" : "");
    s += fmt::format("shared   {} bytes: q {}, k {}, v {}, o {}\n", shared_bytes, g.k - g.q, g.v - g.k, c.stages * g.kv_block,
                     g.o_over_q ? std::string("over q") : std::to_string(g.jobs - g.o));
    s += fmt::format("jobs     {}{} on {} blocks, {}{}\n", p.packed ? "at most " : "", jobs, grid, c.dynamic ? "drawn from a counter" : "dealt in turn",
                     p.causal ? ", longest first" : "");
    s += fmt::format("model    {:.1f} us\n", modelled_us);
    return s;
}

}  // namespace hopfill

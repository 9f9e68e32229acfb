// A plan in words.
#include <fmt/format.h>

#include <algorithm>
#include <string>
#include <vector>

#include "plan/geometry.h"
#include "plan/launch.h"

namespace hopfill {

std::string Plan::to_string() const {
    const AttentionProblem& p = problem;
    std::string s = fmt::format("problem  {} -> {}, {} heads, {} kv heads, head_dim {}, {}, {}\n", name_of(p.dtype), name_of(p.out_dtype), p.heads,
                                p.kv_heads, p.head_dim, p.causal ? "causal" : "full", p.packed ? "packed" : "dense");
    s += p.packed ? fmt::format("         {} sequences, {} query tokens, {} kv tokens\n", p.batch, p.tokens_q, p.tokens_kv)
                  : fmt::format("         {} sequences of {} queries and {} keys\n", p.batch, p.max_seqlen_q, p.max_seqlen_kv);
    s += fmt::format("backend  {}\n", name_of(backend));
    if (variant < 0) return s;
    const KernelConfig& c = planner::kernel_at(variant);
    const Geometry g = geometry(c);
    s += fmt::format("kernel   {}\n", kernel);
    s += fmt::format("tiles    {} queries by {} keys, {} of 16 columns a product, {} stages of K and V\n", tile_m, tile_n, c.head_dim / 16, stages);
    s += fmt::format("block    {} threads: 1 producer and {} consumer warpgroups{}\n", threads, c.consumers, c.pingpong ? ", taking turns" : "");
    s += fmt::format("shared   {} bytes: q {}, k {}, v {}, o {}, {} {}\n", shared_bytes, g.k - g.q, g.v - g.k, g.o - g.v, g.merge - g.o,
                     c.v_turned ? "pieces of v" : "merge", g.jobs - g.merge);
    s += fmt::format("jobs     {}{} on {} blocks, {}{}\n", p.packed ? "at most " : "", jobs, grid,
                     c.dynamic && jobs + split_jobs * (parts - 1) > grid ? "drawn from a counter" : "dealt in turn",
                     p.causal ? (p.packed ? ", longest of a sequence first" : ", longest first") : "");
    if (split_jobs > 0) s += fmt::format("split    the {} {}, in {} parts each of their keys\n", p.causal ? "longest" : "last", split_jobs, parts);
    const std::int64_t heads = p.heads * p.batch;
    if (!p.packed) s += fmt::format("order    {} of {} heads at a time, while L2 has their K and V\n", std::min(heads_per_group, heads), heads);
    if (scratch_bytes > 0) {
        std::vector<std::string> uses;
        if (reads_copies(c)) uses.emplace_back("k and v in 16 bits, which a launch before makes");
        if (c.v_turned) uses.emplace_back("v transposed");
        if (split_jobs > 0) uses.emplace_back("outputs of parts");
        s += fmt::format("scratch  {} bytes: {}\n", scratch_bytes, fmt::join(uses, ", "));
    }
    s += fmt::format("model    {:.1f} us\n", modelled_us);
    return s;
}

}  // namespace hopfill

// Problem and device to plan: which kernel, how many blocks.
#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "plan/cost_model.h"
#include "plan/geometry.h"
#include "plan/kernel_table.h"
#include "plan/launch.h"
#include "plan/tuning_table.h"

namespace hopfill::planner {
namespace {

// Columns that a kernel multiplies for a head_dim: the smallest class that holds it.
constexpr int kClasses[] = {64, 96, 128, 192, 256};

Error unsupported(std::string argument, std::string message) { return {Code::unsupported, std::move(argument), std::move(message)}; }

// TMA needs 16-byte strides below 2^40 bytes (cuTensorMapEncodeTiled), rows of ragged tensors below 2^35 (plan/tensor_map.h). Strides of empty
// tensors and of dimensions of one element are never used.
Result<void> check_strides(const char* name, const Strides& s, DType dtype, bool packed, std::int64_t batch, std::int64_t seq, std::int64_t heads) {
    const struct {
        const char* axis;
        std::int64_t stride, extent;
        int bits;
    } axes[] = {{"batch", s.batch, batch, 38}, {"seq", s.seq, seq, packed ? 34 : 38}, {"heads", s.head, heads, 38}};
    if (batch == 0 || seq == 0) return {};
    const std::int64_t of_16_bytes = 16 / size_of(dtype);
    for (const auto& a : axes) {
        if (a.extent <= 1) continue;
        const int bits = a.bits + (of_16_bytes == 16 ? 1 : 0);
        if (a.stride % of_16_bytes != 0 || a.stride <= 0 || a.stride >= (std::int64_t{1} << bits))
            return unsupported(fmt::format("{}.strides[{}]", name, a.axis),
                               fmt::format("{} elements; TMA needs a positive multiple of {} (16 bytes) below 2^{}", a.stride, of_16_bytes, bits));
    }
    return {};
}

// Of a transposed v: rows of tokens.
Result<void> check_transposed_strides(const Strides& s, std::int64_t batch, std::int64_t seq, std::int64_t heads, std::int64_t head_dim) {
    const struct {
        const char* axis;
        std::int64_t stride, extent;
    } axes[] = {{"batch", s.batch, batch}, {"heads", s.head, heads}, {"head_dim", s.seq, head_dim}};
    if (batch == 0 || seq == 0) return {};
    for (const auto& a : axes) {
        if (a.extent <= 1) continue;
        if (a.stride % 16 != 0 || a.stride <= 0 || a.stride >= std::int64_t{1} << 39)
            return unsupported(fmt::format("v.strides[{}]", a.axis),
                               fmt::format("{} elements, v being transposed; TMA needs a positive multiple of 16 (bytes) below 2^39", a.stride));
    }
    return {};
}

Result<void> check(const AttentionProblem& p, const DeviceInfo& device) {
    if (device.num_sms <= 0) return unsupported("device", fmt::format("{} multiprocessors; at least 1 is needed", device.num_sms));
    if (device.sm_major != 9 || device.sm_minor != 0)
        return unsupported("device", fmt::format("{} has compute capability {}.{}; the sm90 kernels need 9.0 (H100, H200, H20)", device.name,
                                                 device.sm_major, device.sm_minor));
    const bool fp8 = p.dtype == DType::e4m3, fp8_kv = p.kv_dtype == DType::e4m3;
    if (!fp8 && p.dtype != DType::f16 && p.dtype != DType::bf16)
        return unsupported("q", fmt::format("dtype {}; the sm90 kernels take f16, bf16 and e4m3", name_of(p.dtype)));
    if (p.kv_dtype != p.dtype && !fp8_kv)
        return unsupported("k", fmt::format("dtype {} with a {} q; the sm90 kernels take q's dtype and e4m3", name_of(p.kv_dtype), name_of(p.dtype)));
    if (fp8 ? p.out_dtype != DType::f16 && p.out_dtype != DType::bf16 && p.out_dtype != DType::e4m3 : p.out_dtype != p.dtype)
        return unsupported("o", fmt::format("dtype {} with {} inputs; the sm90 kernels write {}", name_of(p.out_dtype), name_of(p.dtype),
                                            fp8 ? "f16, bf16 and e4m3" : "the inputs' dtype"));
    if (fp8_kv && !fp8 && p.v_transposed)
        return unsupported("v_transposed", fmt::format("true with a {} q; the sm90 kernels take v transposed where q is e4m3", name_of(p.dtype)));
    if (fp8_kv && !fp8 && p.scale_block != 0)
        return unsupported("scale_block", fmt::format("{} with a {} q; the sm90 kernels take scales by block where q is e4m3", p.scale_block,
                                                      name_of(p.dtype)));
    if (p.scale_block != 0 && p.scale_block != 64 && p.scale_block != 128)
        return unsupported("scale_block", fmt::format("{}; 64 and 128 are supported", p.scale_block));
    for (const auto& [name, scale] : {std::pair{"q_scale", &p.q_scale}, std::pair{"k_scale", &p.k_scale}, std::pair{"v_scale", &p.v_scale}})
        for (const std::int64_t stride : {scale->batch, scale->head, scale->block, scale->channel})
            if (stride < 0 || stride >= (std::int64_t{1} << 31))
                return unsupported(name, fmt::format("stride of {} elements; 0 to 2^31 - 1 are supported", stride));
    if (p.v_scale.kind == ScaleKind::channel && p.v_scale.channel != 1 && p.head_dim > 1)
        return unsupported("v_scale", fmt::format("stride of {} elements from channel to channel; 1 is supported", p.v_scale.channel));
    const std::int64_t step = fp8_kv ? 16 : 8;
    if (p.head_dim <= 0 || p.head_dim > 256 || p.head_dim % step != 0)
        return unsupported("q", fmt::format("head_dim {}; multiples of {} from {} to 256 are supported", p.head_dim, step, step));
    if (p.heads <= 0 || p.kv_heads <= 0 || p.heads % p.kv_heads != 0)
        return Error{Code::invalid_argument, "k",
                     fmt::format("{} kv heads for {} query heads; heads must be a multiple of kv heads", p.kv_heads, p.heads)};
    if (!(p.scale >= 0) || !(p.scale <= 2.0e38)) return unsupported("scale", fmt::format("{}; the sm90 kernels take 0 to 2e38", p.scale));
    const std::int64_t longest = std::int64_t{1} << 30;
    if (p.tokens_q >= longest || p.tokens_kv >= longest || p.batch >= (1 << 20) || p.heads >= (1 << 16))
        return unsupported(
            "q", fmt::format("{} query tokens, {} kv tokens, {} sequences, {} heads; below 2^30 tokens, 2^20 sequences and 2^16 heads are supported",
                             p.tokens_q, p.tokens_kv, p.batch, p.heads));
    const std::int64_t batch = p.packed ? 1 : p.batch;
    const std::int64_t seq_q = p.packed ? p.tokens_q : p.max_seqlen_q, seq_kv = p.packed ? p.tokens_kv : p.max_seqlen_kv;
    if (auto r = check_strides("q", p.q, p.dtype, p.packed, batch, seq_q, p.heads); !r) return r;
    if (auto r = check_strides("k", p.k, p.kv_dtype, p.packed, batch, seq_kv, p.kv_heads); !r) return r;
    if (p.v_transposed) {
        if (auto r = check_transposed_strides(p.v, batch, seq_kv, p.kv_heads, p.head_dim); !r) return r;
    } else if (auto r = check_strides("v", p.v, p.kv_dtype, p.packed, batch, seq_kv, p.kv_heads); !r) {
        return r;
    }
    return check_strides("o", p.o, p.out_dtype, p.packed, batch, seq_q, p.heads);
}

Elem elem_of(DType t) { return t == DType::f16 ? Elem::f16 : t == DType::e4m3 ? Elem::e4m3 : Elem::bf16; }

// Columns that a kernel multiplies for a problem's head_dim.
int class_of(const AttentionProblem& p) {
    if (p.kv_dtype == DType::e4m3) return p.head_dim <= 64 ? 64 : p.head_dim <= 128 ? 128 : p.dtype != DType::e4m3 && p.head_dim <= 192 ? 192 : 256;
    return *std::find_if(std::begin(kClasses), std::end(kClasses), [&](int d) { return d >= p.head_dim; });
}

bool fits(const KernelConfig& c, const AttentionProblem& p) {
    // The families for short prompts are chosen by the size of the batch, as is which jobs are split, and their bits are not the main family's.
    if (p.batch_invariant && (c.family == Family::prefill_short || is_folded(c.family) || c.splits)) return false;
    return c.elem == elem_of(p.dtype) && kv_elem(c) == elem_of(p.kv_dtype) && c.out == elem_of(p.out_dtype) && c.packed == p.packed &&
           (c.mask == Mask::causal) == p.causal && (c.scale_block == p.scale_block || (any_scale_block(c) && p.scale_block != 0)) &&
           c.v_transposed == p.v_transposed && c.head_dim == class_of(p);
}

// A copy's strides are TMA's, which ends at 2^40 bytes.
constexpr std::int64_t kMostScratch = std::int64_t{1} << 39;

// Of a kernel that fits.
bool may_copy(const KernelConfig& c, const AttentionProblem& p, const Split& split) {
    return scratch_bytes(c, p, split) <= std::min(p.max_scratch_bytes.value_or(kMostScratch), kMostScratch);
}

// Query heads whose tiles run together, the outermost order of the jobs.
// Without a mask those of one KV head: all tiles are alike, and K and V are read from device memory once, which saves power (alone on an H200 3% of
// the time at hd128 and hd256 on average, up to 10% at 4k tokens, 1 to 2% at hd64; bench/limits/README.md, 'Clocks').
// With a causal mask the longest tiles of a group come first, so that its last ones are short, which takes many heads: as many as have K and V in L2
// together (0.64 of it: 32 of an H100's 50 MB), and no more heads of 4 tiles than make a wave (33 on an H100), so that short sequences ask device
// memory for new heads steadily rather than in bursts (measured: 346 against 304 TFLOP/s at 32 x 512). Of up to 7 tiles a sequence two waves:
// 2 x 512 is then one group, in which the longest tiles of all heads come first (12.5 us against 14.1), 8 x 256 gains 8%, 32 x 512 2%; at 8 tiles
// (16 x 1024) more heads than 44 lose, and at hd256 64 heads of 4 tiles. And all heads are one group where that makes five waves at most and half of
// L2 holds their K and V (H200: 4 x 256 +6 to +12%, 4 x 384 +6 to +19%, 3 x 512 +3 to +8%, 4 x 512 in e4m3 +3%, at hd256 with 16 heads +12%; BF16 at
// 4 x 512, whose K and V are 0.64 of it, -4%). Of the numbers down to half of the most the one whose last group lacks least: a small last group has
// nothing but its longest tiles to end with (10% at 8 x 2048, hd256 in e4m3, in 10 groups of 12 heads and one of 8).
std::int64_t heads_per_group(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    const std::int64_t group = p.heads / p.kv_heads;
    if (c.mask == Mask::full) return group;
    const std::int64_t kv_bytes = std::max<std::int64_t>(1, 2 * p.max_seqlen_kv * c.head_dim * elem_bytes(loaded_elem(c)));
    const std::int64_t tiles = (p.max_seqlen_q + geometry(c).tile_m - 1) / geometry(c).tile_m;
    const bool one_group = tiles > 0 && tiles < 8 && tiles * p.heads * p.batch <= 5 * device.num_sms &&
                           p.kv_heads * p.batch * kv_bytes <= device.l2_bytes / 2;
    if (one_group) return std::max<std::int64_t>(1, p.heads * p.batch);
    const std::int64_t in_waves = tiles > 0 && tiles < 8 && c.head_dim < 256 ? 2 * device.num_sms / tiles : device.num_sms / 4;
    const std::int64_t in_l2 = device.l2_bytes / 25 * 16 / kv_bytes;
    const std::int64_t all = std::max<std::int64_t>(1, p.kv_heads * p.batch);
    const std::int64_t most = std::clamp<std::int64_t>(std::min(in_l2, in_waves / group), 1, all);
    const auto lacking = [all](std::int64_t heads) { return (all + heads - 1) / heads * heads - all; };
    std::int64_t best = most;
    for (std::int64_t heads = most - 1; 2 * heads > most && lacking(best) > 0; --heads)
        if (lacking(heads) < lacking(best)) best = heads;
    return best * group;
}

// A ragged batch has at most tokens / tile_m full tiles and one partial tile a sequence.
std::int64_t jobs_of(const KernelConfig& c, const AttentionProblem& p) {
    const std::int64_t tile_m = geometry(c).tile_m;
    const std::int64_t tiles = p.batch == 0 ? 0
                               : p.packed   ? std::min(p.tokens_q, p.tokens_q / tile_m + p.batch)
                                            : (p.max_seqlen_q + tile_m - 1) / tile_m;
    return tiles * p.heads * (p.packed ? 1 : p.batch);
}

}  // namespace

const std::vector<KernelConfig>& kernel_table() {
    static const std::vector<KernelConfig> table(std::begin(kKernelTable.row), std::end(kKernelTable.row));
    return table;
}
const std::vector<KernelConfig>& tuning_table() {
    static const std::vector<KernelConfig> table(std::begin(kTuningTable), std::end(kTuningTable));
    return table;
}
const std::vector<KernelConfig>& first_use_table() {
    static const std::vector<KernelConfig> table(std::begin(kFirstUseTable.row), std::end(kFirstUseTable.row));
    return table;
}
const KernelConfig& kernel_at(int variant) {
    std::size_t i = static_cast<std::size_t>(variant);
    for (const auto* table : {&kernel_table(), &first_use_table()}) {
        if (i < table->size()) return (*table)[i];
        i -= table->size();
    }
    return tuning_table()[i];
}
int variants() { return static_cast<int>(kernel_table().size() + first_use_table().size() + tuning_table().size()); }

int shared_bytes(const KernelConfig& config) { return geometry(config).total; }
int threads(const KernelConfig& config) { return geometry(config).threads; }

Result<Plan> plan_variant(const AttentionProblem& p, const DeviceInfo& device, int variant) {
    if (auto r = check(p, device); !r) return r.error();
    if (variant < 0 || variant >= variants())
        return Error{Code::invalid_argument, "variant", fmt::format("{} is outside the kernel tables", variant)};
    const KernelConfig& c = kernel_at(variant);
    if (!fits(c, p)) return unsupported("variant", fmt::format("{} does not compute this problem", kernel_name(c)));
    const auto [us, split] = model(c, p, device);
    if (!may_copy(c, p, split)) {
        return unsupported("max_scratch_bytes", fmt::format("{}; {} needs {}", p.max_scratch_bytes.value_or(kMostScratch), kernel_name(c),
                                                            scratch_bytes(c, p, split)));
    }
    const Geometry g = geometry(c);
    if (g.total > device.shared_memory_per_block)
        return unsupported("device",
                           fmt::format("{} bytes of shared memory a block; {} needs {}", device.shared_memory_per_block, kernel_name(c), g.total));
    Plan plan;
    plan.problem = p;
    plan.backend = Backend::sm90;
    plan.kernel = kernel_name(c);
    plan.variant = variant;
    plan.tile_m = g.tile_m;
    plan.tile_n = c.tile_n;
    plan.stages = c.stages;
    plan.threads = g.threads;
    plan.shared_bytes = g.total;
    plan.jobs = jobs_of(c, p);
    if (plan.jobs >= (std::int64_t{1} << 31) - 65536)
        return unsupported("q", fmt::format("{} tiles over all heads; below 2^31 are supported", plan.jobs));
    plan.heads_per_group = heads_per_group(c, p, device);
    plan.modelled_us = us;
    return with_split(std::move(plan), split, device.num_sms);
}

Plan with_split(Plan plan, const Split& split, int num_sms) {
    const KernelConfig& c = kernel_at(plan.variant);
    // Of all heads the longest jobs come first.
    if (c.mask == Mask::causal && split.jobs > 0) plan.heads_per_group = std::max<std::int64_t>(1, plan.problem.heads * plan.problem.batch);
    plan.split_jobs = split.jobs;
    plan.parts = split.parts;
    plan.grid = static_cast<int>(std::min<std::int64_t>(plan.jobs + split.jobs * (split.parts - 1), num_sms));
    plan.scratch_bytes = plan.grid > 0 ? scratch_bytes(c, plan.problem, split) : 0;
    return plan;
}

namespace {

// The kernel that transposes V for each job, of one that does so once.
int twin_of(int variant) {
    return static_cast<int>(std::ranges::find(kernel_table(), without_turning(kernel_at(variant))) - kernel_table().begin());
}

Result<Plan> choose_fastest(const AttentionProblem& p, const DeviceInfo& device, bool scratch) {
    if (auto r = check(p, device); !r) return r.error();
    // What is to be the same in every batch is chosen as for one sequence of the greatest length.
    AttentionProblem judged = p;
    if (p.batch_invariant) {
        judged.batch = 1;
        judged.tokens_q = p.max_seqlen_q;
        judged.tokens_kv = p.max_seqlen_kv;
    }
    int best = -1;
    double least = 0;
    for (int i = 0; i < static_cast<int>(kernel_table().size() + first_use_table().size()); ++i) {
        const KernelConfig& c = kernel_at(i);
        if (!fits(c, p)) continue;
        const auto [us, split] = model(c, judged, device);
        if ((!scratch && scratch_bytes(c, p, split) > 0) || (c.splits && split.jobs == 0)) continue;
        // Whether there is room for copies depends on the batch. Of V transposed that changes no bits (below); prefill_mixed has others than
        // prefill_widened.
        if (p.batch_invariant ? p.max_scratch_bytes && c.family == Family::prefill_widened && c.head_dim <= 128 : !may_copy(c, p, split)) continue;
        // A folded job keeps one warpgroup busy: beside others of its kind, in a second wave, it takes longer than the model says.
        // And of a chunk at a long prompt's end, whose first rows see about as much as its last (2k queries of 32k keys: 450 us where the main family
        // takes 350).
        if (is_folded(c.family) && (jobs_of(c, judged) > device.num_sms || judged.max_seqlen_kv >= 2 * judged.max_seqlen_q)) continue;
        if (best >= 0 && us >= least) continue;
        best = i;
        least = us;
    }
    if (best < 0) {
        if (scratch && p.max_scratch_bytes)
            return unsupported("max_scratch_bytes", fmt::format("{}; no kernel computes this problem with so little", *p.max_scratch_bytes));
        return unsupported("q", scratch ? "no kernel computes this problem" : "no kernel computes this problem without scratch memory");
    }
    if (kernel_at(best).v_turned && !may_copy(kernel_at(best), p, {})) best = twin_of(best);
    return plan_variant(p, device, best);
}

}  // namespace

Result<Plan> choose(const AttentionProblem& p, const DeviceInfo& device) { return choose_fastest(p, device, true); }
Result<Plan> choose_without_scratch(const AttentionProblem& p, const DeviceInfo& device) { return choose_fastest(p, device, false); }

Result<Plan> replace_without_scratch(const Plan& plan, const DeviceInfo& device) {
    if (kernel_at(plan.variant).v_turned && !kernel_at(plan.variant).splits) return plan_variant(plan.problem, device, twin_of(plan.variant));
    if (plan.problem.batch_invariant) return unsupported("batch_invariant", "is set, and without scratch memory bits would change");
    return choose_without_scratch(plan.problem, device);
}

}  // namespace hopfill::planner

// Problem and device to plan: which kernel, how many blocks.
#include <fmt/format.h>

#include <algorithm>

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
Result<void> check_strides(const char* name, const Strides& s, bool packed, std::int64_t batch, std::int64_t seq, std::int64_t heads) {
    const struct {
        const char* axis;
        std::int64_t stride, extent;
        int bits;
    } axes[] = {{"batch", s.batch, batch, 38}, {"seq", s.seq, seq, packed ? 34 : 38}, {"heads", s.head, heads, 38}};
    if (batch == 0 || seq == 0) return {};
    for (const auto& a : axes) {
        if (a.extent <= 1) continue;
        if (a.stride % 8 != 0 || a.stride <= 0 || a.stride >= (std::int64_t{1} << a.bits))
            return unsupported(fmt::format("{}.strides[{}]", name, a.axis),
                               fmt::format("{} elements; TMA needs a positive multiple of 8 (16 bytes) below 2^{}", a.stride, a.bits));
    }
    return {};
}

Result<void> check(const AttentionProblem& p, const DeviceInfo& device) {
    if (device.num_sms <= 0) return unsupported("device", fmt::format("{} multiprocessors; at least 1 is needed", device.num_sms));
    if (device.sm_major != 9 || device.sm_minor != 0)
        return unsupported("device", fmt::format("{} has compute capability {}.{}; the sm90 kernels need 9.0 (H100, H200, H20)", device.name,
                                                 device.sm_major, device.sm_minor));
    if (p.dtype != DType::f16 && p.dtype != DType::bf16)
        return unsupported("q", fmt::format("dtype {}; the sm90 kernels take f16 and bf16", name_of(p.dtype)));
    if (p.kv_dtype != p.dtype)
        return unsupported("k", fmt::format("dtype {} with a {} q; the sm90 kernels take one dtype", name_of(p.kv_dtype), name_of(p.dtype)));
    if (p.out_dtype != p.dtype)
        return unsupported("o",
                           fmt::format("dtype {} with {} inputs; the sm90 kernels write the inputs' dtype", name_of(p.out_dtype), name_of(p.dtype)));
    if (p.head_dim <= 0 || p.head_dim > 256 || p.head_dim % 8 != 0)
        return unsupported("q", fmt::format("head_dim {}; multiples of 8 from 8 to 256 are supported", p.head_dim));
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
    if (auto r = check_strides("q", p.q, p.packed, batch, seq_q, p.heads); !r) return r;
    if (auto r = check_strides("k", p.k, p.packed, batch, seq_kv, p.kv_heads); !r) return r;
    if (auto r = check_strides("v", p.v, p.packed, batch, seq_kv, p.kv_heads); !r) return r;
    return check_strides("o", p.o, p.packed, batch, seq_q, p.heads);
}

Elem elem_of(DType t) { return t == DType::f16 ? Elem::f16 : Elem::bf16; }

bool fits(const KernelConfig& c, const AttentionProblem& p) {
    // The short family, which splits the keys in two, is chosen by the size of the batch, and its bits are not the main family's.
    if (p.batch_invariant && c.family == Family::prefill_short) return false;
    return c.elem == elem_of(p.dtype) && c.out == elem_of(p.out_dtype) && c.packed == p.packed && (c.mask == Mask::causal) == p.causal &&
           c.head_dim == *std::find_if(std::begin(kClasses), std::end(kClasses), [&](int d) { return d >= p.head_dim; });
}

// Heads whose tiles run together: their K and V share L2 (0.64 of it: 32 of an H100's 50 MB), and no more heads of 4 tiles than make a wave (33 on
// an H100), so that short sequences ask device memory for new heads steadily rather than in bursts (measured: 346 against 304 TFLOP/s at 32 x 512
// causal).
std::int64_t heads_per_group(const KernelConfig& c, const AttentionProblem& p, const DeviceInfo& device) {
    const std::int64_t kv_bytes = std::max<std::int64_t>(1, 2 * p.max_seqlen_kv * c.head_dim * elem_bytes(c.elem));
    const std::int64_t group = p.heads / p.kv_heads;
    const std::int64_t in_l2 = device.l2_bytes / 25 * 16 / kv_bytes, in_wave = device.num_sms / 4 / group;
    return std::max<std::int64_t>(1, std::min({in_l2, in_wave, p.kv_heads * p.batch})) * group;
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
const KernelConfig& kernel_at(int variant) {
    const int shipped = static_cast<int>(kernel_table().size());
    return variant < shipped ? kernel_table()[static_cast<std::size_t>(variant)] : tuning_table()[static_cast<std::size_t>(variant - shipped)];
}

int shared_bytes(const KernelConfig& config) { return geometry(config).total; }
int threads(const KernelConfig& config) { return geometry(config).threads; }

Result<Plan> plan_variant(const AttentionProblem& p, const DeviceInfo& device, int variant) {
    if (auto r = check(p, device); !r) return r.error();
    if (variant < 0 || variant >= static_cast<int>(kernel_table().size() + tuning_table().size()))
        return Error{Code::invalid_argument, "variant", fmt::format("{} is outside the kernel tables", variant)};
    const KernelConfig& c = kernel_at(variant);
    if (!fits(c, p)) return unsupported("variant", fmt::format("{} does not compute this problem", kernel_name(c)));
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
    // A ragged batch has at most tokens / tile_m full tiles and one partial tile a sequence.
    const std::int64_t tiles = p.batch == 0 ? 0
                               : p.packed   ? std::min(p.tokens_q, p.tokens_q / g.tile_m + p.batch)
                                            : (p.max_seqlen_q + g.tile_m - 1) / g.tile_m;
    plan.jobs = tiles * p.heads * (p.packed ? 1 : p.batch);
    if (plan.jobs >= (std::int64_t{1} << 31) - 65536)
        return unsupported("q", fmt::format("{} tiles over all heads; below 2^31 are supported", plan.jobs));
    plan.heads_per_group = heads_per_group(c, p, device);
    plan.grid = static_cast<int>(std::min<std::int64_t>(plan.jobs, device.num_sms));
    plan.modelled_us = modelled_us(c, p, device);
    return plan;
}

Result<Plan> choose(const AttentionProblem& p, const DeviceInfo& device) {
    if (auto r = check(p, device); !r) return r.error();
    // What is to be the same in every batch is chosen as for one sequence of the greatest length.
    AttentionProblem judged = p;
    if (p.batch_invariant) {
        judged.batch = 1;
        judged.tokens_q = p.max_seqlen_q;
        judged.tokens_kv = p.max_seqlen_kv;
    }
    const std::vector<KernelConfig>& table = kernel_table();
    int best = -1;
    double least = 0;
    for (int i = 0; i < static_cast<int>(table.size()); ++i) {
        const KernelConfig& c = table[static_cast<std::size_t>(i)];
        if (!fits(c, p)) continue;
        const double us = modelled_us(c, judged, device);
        if (best >= 0 && us >= least) continue;
        best = i;
        least = us;
    }
    if (best < 0) return unsupported("q", "no kernel computes this problem");
    return plan_variant(p, device, best);
}

}  // namespace hopfill::planner

// Plan and tensors to kernel arguments and tensor map descriptions.
#include "plan/launch.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>

#include "plan/geometry.h"
#include "plan/split.h"

namespace hopfill::planner {
namespace {

constexpr double kLog2E = 1.4426950408889634;

Result<void> check_base(const char* name, const TensorView& t) {
    if (t.elements() == 0) return {};
    if (t.data == nullptr) return Error{Code::invalid_argument, name, "data is null"};
    if (reinterpret_cast<std::uintptr_t>(t.data) % 16 != 0)
        return Error{Code::unsupported, name, fmt::format("data at {}; TMA needs 16-byte alignment", t.data)};
    return {};
}

// TMA checks a stride even of a dimension of one element: any legal value does there.
std::uint64_t stride_bytes(std::int64_t stride, std::int64_t extent, int bytes) {
    return extent <= 1 ? 16 : static_cast<std::uint64_t>(stride) * static_cast<std::uint64_t>(bytes);
}

// `columns`: what a row of the box has, a slab's. A slab that the swizzle of 128 bytes does not fill is not swizzled.
TensorMapSpec spec_of(const TensorView& t, const void* fallback, Elem elem, bool packed, int rows, int columns) {
    const int bytes = elem_bytes(elem);
    const std::size_t seq = packed ? 0 : 1, heads = seq + 1, dim = seq + 2;
    const auto extent = [&](std::size_t i) { return static_cast<std::uint64_t>(std::max<std::int64_t>(1, t.shape[i])); };
    TensorMapSpec s;
    s.elem = elem;
    s.base = t.elements() == 0 ? fallback : t.data;  // never read: every coordinate that a job asks of an empty tensor is out of bounds
    const auto stride = [&](std::size_t i) { return t.elements() == 0 ? 16 : stride_bytes(t.strides[i], t.shape[i], bytes); };
    const std::uint64_t row = stride(seq), head = stride(heads);
    if (packed) {
        s.size = {extent(dim), extent(heads), kRaggedRows, kRaggedOuter, kRaggedOuter};
        s.stride = {head, row, row, (std::uint64_t{1} << 35) - row};
    } else {
        s.size = {extent(dim), extent(heads), extent(seq), extent(0), 1};
        s.stride = {head, row, stride(0), 16};
    }
    if (columns * bytes < kSlabBytes) s.swizzle = Swizzle::none;
    s.box = {static_cast<std::uint32_t>(columns), 1, static_cast<std::uint32_t>(rows), 1, 1};
    return s;
}

// Rows `first`, first + 2, ... of a dense k.
TensorMapSpec every_second(TensorMapSpec s, std::uint64_t first) {
    const std::uint64_t rows = s.size[2];
    // Of one row there is no second; what is read in its place is masked.
    if (rows > 1) s.base = static_cast<const char*>(s.base) + first * s.stride[1];
    s.size[2] = std::max<std::uint64_t>(1, (rows + 1 - first) / 2);
    s.stride[1] *= 2;
    s.box[2] /= 2;
    return s;
}

// v as [batch, kv_heads, head_dim, seq] or [kv_heads, head_dim, tokens], in boxes of a slab, or of `tokens`.
TensorMapSpec transposed_spec_of(const TensorView& t, const void* fallback, const KernelConfig& c, int tokens) {
    const std::size_t heads = c.packed ? 0 : 1, dim = heads + 1, seq = heads + 2;
    const bool empty = t.elements() == 0;
    const auto extent = [&](std::size_t i) { return static_cast<std::uint64_t>(std::max<std::int64_t>(1, t.shape[i])); };
    const auto stride = [&](std::size_t i) { return empty ? 16 : stride_bytes(t.strides[i], t.shape[i], 1); };
    TensorMapSpec s;
    s.elem = c.elem;
    s.swizzle = tokens == kSlabBytes ? Swizzle::b128 : Swizzle::none;
    s.base = empty ? fallback : t.data;
    s.size = {extent(seq), extent(dim), extent(heads), c.packed ? 1 : extent(0), 1};
    s.stride = {stride(dim), stride(heads), c.packed ? 16 : stride(0), 16};
    s.box = {static_cast<std::uint32_t>(tokens), static_cast<std::uint32_t>(c.head_dim), 1, 1, 1};
    return s;
}

// Of k in 16 bits, or of v, up to where the next tensor may begin.
std::int64_t copy_bytes(const KernelConfig& c, const AttentionProblem& p) {
    return (p.tokens_kv * p.kv_heads * p.head_dim * elem_bytes(loaded_elem(c)) + 255) / 256 * 256;
}

// Of v, transposed, [batch, kv_heads, head_dim, tokens]: up to a whole 16, among which the order is not theirs, and in rows of whole lines.
TensorView turned_view(const AttentionProblem& p) {
    const std::int64_t tokens = (p.max_seqlen_kv + 15) / 16 * 16, row = (tokens + kSlabBytes - 1) / kSlabBytes * kSlabBytes;
    TensorView t = contiguous(nullptr, DType::e4m3, {p.batch, p.kv_heads, p.head_dim, tokens});
    t.strides = {p.kv_heads * p.head_dim * row, p.head_dim * row, row, 1};
    return t;
}

// Where a tensor's multipliers lie.
Result<ScaleView> scale_view(const char* name, const TensorView& t, const ScaleLayout& layout, std::int64_t block_tokens) {
    ScaleView v{nullptr, 0, 0, 0, 0, 0};
    if (layout.kind == ScaleKind::none || layout.kind == ScaleKind::channel) return v;
    if (t.data == nullptr && t.elements() != 0) return Error{Code::invalid_argument, name, "data is null"};
    v.data = static_cast<const float*>(t.data);
    v.batch = static_cast<i32>(layout.batch);
    v.head = static_cast<i32>(layout.head);
    v.block = static_cast<i32>(layout.block);
    v.block_tokens = layout.kind == ScaleKind::block ? static_cast<i32>(block_tokens) : 0;
    if (layout.kind == ScaleKind::sequence || layout.kind == ScaleKind::block) v.by_kv_head = 1;
    return v;
}

Result<void> set_scales(PrefillFp8Params& a, const AttentionProblem& p, const AttentionTensors& t) {
    const auto set = [&](const char* name, ScaleView& view, const TensorView& tensor, const ScaleLayout& layout) -> Result<void> {
        auto made = scale_view(name, tensor, layout, p.scale_block);
        if (!made) return made.error();
        view = *made;
        return {};
    };
    if (auto r = set("q_scale", a.q_scale, t.q_scale, p.q_scale); !r) return r;
    if (auto r = set("k_scale", a.k_scale, t.k_scale, p.k_scale); !r) return r;
    if (auto r = set("v_scale", a.v_scale, t.v_scale, p.v_scale); !r) return r;
    a.channels = static_cast<i32>(p.head_dim);
    if (p.v_scale.kind == ScaleKind::channel) {
        a.v_channel_scale = static_cast<const float*>(t.v_scale.data);
        a.v_channel_stride = static_cast<i32>(p.v_scale.head);
    }
    return {};
}

void set_divisors(PrefillParams& a) {
    a.by_heads = divisor_of(a.heads);
    a.by_kv_group = divisor_of(a.heads_per_kv_head);
    // Of ragged batches nothing divides by what follows.
    const u32 width = static_cast<u32>(std::max(a.heads_per_group, 1));
    const u32 last = static_cast<u32>(a.batch) * static_cast<u32>(a.heads) % width;
    a.by_group = divisor_of(width * static_cast<u32>(std::max(a.q_tiles, 1)));
    a.by_width = divisor_of(width);
    a.by_last_width = divisor_of(last == 0 ? width : last);
}

void set_turning(PrefillTurnParams& a, const KernelConfig& c) {
    const i32 parts = channel_pieces(c);
    a.kv_heads = a.heads / a.heads_per_kv_head;
    a.turned_heads = a.batch * a.kv_heads;
    a.turned_blocks = ceil_div(a.seqlen_kv, piece_tokens());
    a.turned_width = std::max(a.heads_per_group / a.heads_per_kv_head, 1);
    const i32 last = a.turned_heads % a.turned_width;
    a.by_kv_heads = divisor_of(static_cast<u32>(a.kv_heads));
    a.by_turned_group = divisor_of(static_cast<u32>(a.turned_width * std::max(a.turned_blocks, 1) * parts));
    a.by_turned_width = divisor_of(static_cast<u32>(a.turned_width * parts));
    a.by_last_turned_width = divisor_of(static_cast<u32>((last == 0 ? a.turned_width : last) * parts));
}

// Of v transposed, whole lines.
std::int64_t turned_bytes(const KernelConfig& c, const AttentionProblem& p) {
    if (!c.v_turned) return 0;
    const TensorView v = turned_view(p);
    return v.elements() == 0 ? 0 : p.batch * v.strides[0];
}

// Of so many parts' records.
std::int64_t part_bytes(const KernelConfig& c, std::int64_t parts) { return parts * 4 * c.consumers * part_record_bytes(c); }

void set_split(LaunchParams& a, const Plan& plan, const TensorView& o) {
    a.whole_jobs = static_cast<i32>(plan.jobs - plan.split_jobs);
    a.parts = plan.parts;
    a.by_parts = divisor_of(static_cast<u32>(plan.parts));
    a.o_rows = o.data;
    a.o_batch = o.strides[0];
    a.o_seq = o.strides[1];
    a.o_head = o.strides[2];
}

}  // namespace

Result<LaunchSpec> make_launch(const Plan& plan, const AttentionTensors& t) {
    if (plan.variant < 0 || plan.variant >= variants())
        return Error{Code::invalid_argument, "plan", fmt::format("variant {} is no sm90 kernel of this version", plan.variant)};
    const AttentionProblem& p = plan.problem;
    for (const auto& [name, view] : {std::pair{"q", &t.q}, std::pair{"k", &t.k}, std::pair{"v", &t.v}, std::pair{"o", &t.o}})
        if (auto r = check_base(name, *view); !r) return r.error();
    LaunchSpec spec;
    spec.config = kernel_at(plan.variant);
    const KernelConfig& c = spec.config;
    spec.grid = plan.grid;
    spec.threads = plan.threads;
    spec.shared_bytes = plan.shared_bytes;
    if (spec.grid == 0) return spec;

    LaunchParams& a = spec.params;
    if (auto r = set_scales(a, p, t); !r) return r.error();
    a.lse = t.lse.present() ? static_cast<float*>(t.lse.data) : nullptr;
    a.cu_seqlens_q = p.packed ? static_cast<const i32*>(t.cu_seqlens_q.data) : nullptr;
    a.cu_seqlens_k = p.packed ? static_cast<const i32*>(t.cu_seqlens_k.data) : nullptr;
    // Never 0, which times the -inf of a masked logit is NaN: the smallest normal float leaves logits below 2^100 equal.
    a.scale_log2 = std::max(static_cast<float>(p.scale * kLog2E), std::numeric_limits<float>::min());
    a.batch = static_cast<i32>(p.batch);
    a.heads = static_cast<i32>(p.heads);
    a.heads_per_kv_head = static_cast<i32>(p.heads / p.kv_heads);
    a.seqlen_q = static_cast<i32>(p.packed ? 0 : p.max_seqlen_q);
    a.seqlen_kv = static_cast<i32>(p.packed ? 0 : p.max_seqlen_kv);
    a.total_q = static_cast<i32>(p.tokens_q);
    a.total_kv = static_cast<i32>(p.tokens_kv);
    a.jobs = static_cast<i32>(plan.jobs + plan.split_jobs * (plan.parts - 1));
    a.q_tiles = static_cast<i32>(plan.jobs / (p.heads * (p.packed ? 1 : p.batch)));
    a.heads_per_group = static_cast<i32>(plan.heads_per_group);
    set_divisors(a);
    if (c.splits) set_split(a, plan, t.o);

    const int columns = geometry(c).slab_columns;
    TensorView k = t.k, v = t.v;
    spec.scratch_bytes = scratch_bytes(c, p, {plan.split_jobs, plan.parts});
    if (c.v_turned) {
        v = turned_view(p);
        v.device = t.v.device;
        spec.v_given = spec_of(t.v, t.q.data, c.elem, false, piece_tokens(), piece_channels());
        spec.v_stored = transposed_spec_of(v, t.q.data, c, piece_tokens());
        spec.v_stored.box[1] = piece_channels();
        set_turning(a, c);
    } else if (reads_copies(c) && spec.scratch_bytes > 0) {
        spec.copying = make_widening(p, t.k, t.v, c.elem);
        k = spec.copying->tensors[1].first;
        v = spec.copying->tensors[3].first;
    }
    spec.q = spec_of(t.q, t.q.data, c.elem, p.packed, kRowsPerWarpgroup, columns);
    spec.k = spec_of(k, t.q.data, loaded_elem(c), p.packed, c.tile_n, columns);
    spec.o = spec_of(t.o, t.q.data, c.out, p.packed, stored_rows(c), kSlabBytes / elem_bytes(c.out));
    if (!loads_v_transposed(c)) {
        spec.v = spec_of(v, t.q.data, loaded_elem(c), p.packed, c.tile_n, columns);
        return spec;
    }
    spec.v = transposed_spec_of(v, t.q.data, c, kSlabBytes);
    if (c.packed) {
        spec.v_edge = transposed_spec_of(v, t.q.data, c, edge_keys());
    } else if (pairs_keys(c)) {
        spec.k_odd = every_second(spec.k, 1);
        spec.k = every_second(spec.k, 0);
    }
    return spec;
}

std::int64_t scratch_bytes(const KernelConfig& c, const AttentionProblem& p, const Split& split) {
    if (reads_copies(c)) return 2 * copy_bytes(c, p);
    return turned_bytes(c, p) + part_bytes(c, split.jobs * split.parts);
}

KernelConfig without_turning(KernelConfig c) {
    c.v_turned = c.splits = false;
    return c;
}

QuantizeConfig copying_for(const KernelConfig& c) { return widening_to(c.elem); }

namespace {

std::size_t turning_words(const LaunchSpec& spec) {
    if (!spec.config.v_turned) return 0;
    return 2 + static_cast<std::size_t>(spec.params.turned_heads) * static_cast<std::size_t>(spec.params.turned_blocks);
}

}  // namespace

std::int64_t part_bytes(const LaunchSpec& spec) {
    return spec.config.splits ? part_bytes(spec.config, spec.params.jobs - spec.params.whole_jobs) : 0;
}

std::size_t counting_words(const LaunchSpec& spec) {
    const LaunchParams& a = spec.params;
    if (!spec.config.splits || spec.grid == 0) return turning_words(spec);
    const std::size_t split_jobs = static_cast<std::size_t>((a.jobs - a.whole_jobs) / a.parts);
    return turning_words(spec) + split_jobs * 4 * static_cast<std::size_t>(spec.config.consumers);
}

void place_words(const LaunchSpec& spec, LaunchParams& params, u32* words) {
    params.turning = words;
    params.parts_done = words + turning_words(spec);
}

void LaunchSpec::place_scratch(void* memory) {
    if (config.v_turned) v.base = v_stored.base = memory;
    if (config.splits) params.part_records = static_cast<char*>(memory) + scratch_bytes - part_bytes(*this);
    if (!reads_copies(config)) return;
    k.base = memory;
    v.base = static_cast<char*>(memory) + scratch_bytes / 2;
    place_copies(*copying, memory, static_cast<char*>(memory) + scratch_bytes / 2);
}

std::array<LaunchSpec::Map, 6> LaunchSpec::maps() const {
    using P = LaunchParams;
    const Map q_map{"q", &q, &P::q}, k_map{"k", &k, &P::k}, v_map{"v", &v, &P::v}, o_map{"o", &o, &P::o};
    if (config.v_turned) return {q_map, k_map, v_map, o_map, Map{"v", &v_given, &P::v_given}, Map{"v", &v_stored, &P::v_stored}};
    Map last;
    if (config.v_transposed) last = config.packed ? Map{"v", &v_edge, &P::v_edge} : Map{"k", &k_odd, &P::k_odd};
    return {q_map, k_map, v_map, o_map, last, Map{}};
}

}  // namespace hopfill::planner

#include "plan/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <bit>

namespace hopfill::planner {
namespace {

const char* text(QuantizeStage stage) {
    switch (stage) {
        case QuantizeStage::sum:
            return "sum";
        case QuantizeStage::prepare:
            return "prepare";
        case QuantizeStage::greatest:
            return "greatest";
        case QuantizeStage::round:
            return "round";
        case QuantizeStage::widen:
            return "widen";
    }
    return "?";
}
const char* text(QuantizeExtra extra) {
    switch (extra) {
        case QuantizeExtra::none:
            return "none";
        case QuantizeExtra::mean:
            return "mean";
        case QuantizeExtra::channels:
            return "channels";
    }
    return "?";
}
const char* text(Elem elem) { return elem == Elem::f16 ? "f16" : elem == Elem::e4m3 ? "e4m3" : "bf16"; }

QuantizeScale kind_of(ScaleKind kind) {
    switch (kind) {
        case ScaleKind::head:
            return QuantizeScale::head;
        case ScaleKind::sequence:
            return QuantizeScale::sequence;
        case ScaleKind::block:
            return QuantizeScale::block;
        case ScaleKind::channel:
            return QuantizeScale::channel;
        default:
            return QuantizeScale::tensor;
    }
}

// Rows are read, or written, 16 bytes at a time.
Result<void> check_alignment(const char* name, const TensorView& t) {
    if (t.elements() == 0) return {};
    if (reinterpret_cast<std::uintptr_t>(t.data) % 16 != 0) {
        return Error{Code::unsupported, name, fmt::format("data at {}; the kernels need 16-byte alignment", t.data)};
    }
    const std::int64_t unit = 16 / size_of(t.dtype);
    for (std::size_t i = 0; i + 1 < static_cast<std::size_t>(t.rank); ++i) {
        if (t.shape[i] > 1 && t.strides[i] % unit != 0) {
            return Error{Code::unsupported, fmt::format("{}.strides[{}]", name, i),
                         fmt::format("is {}; the kernels need a multiple of {} (16 bytes)", t.strides[i], unit)};
        }
    }
    return {};
}

}  // namespace

std::string kernel_name(const QuantizeConfig& c) {
    const std::string extra = c.extra == QuantizeExtra::none ? "" : fmt::format("_{}", text(c.extra));
    return fmt::format("quantize_{}_{}{}{}{}", text(c.elem), text(c.stage), extra, c.transposed ? "_transposed" : "", c.wide ? "_wide" : "");
}

std::string kernel_expression(const QuantizeConfig& c) {
    return fmt::format("hopfill::QuantizeConfig{{hopfill::QuantizeStage::{}, hopfill::Elem::{}, hopfill::QuantizeExtra::{}, {}, {}}}", text(c.stage),
                       text(c.elem), text(c.extra), c.transposed, c.wide);
}

std::vector<QuantizeConfig> quantize_kernels() {
    std::vector<QuantizeConfig> all(std::begin(kQuantizeKernels.config), std::end(kQuantizeKernels.config));
    for (const Elem to : {Elem::bf16, Elem::f16}) all.push_back(widening_to(to));
    return all;
}

Result<std::vector<QuantizeLaunch>> make_launches(const AttentionProblem& problem, const TensorView& cu_seqlens_k, const QuantizeWork& work) {
    const std::int64_t longest = std::int64_t{1} << 30;
    if (problem.tokens_kv >= longest || problem.batch >= (1 << 20) || problem.kv_heads >= (1 << 16)) {
        return Error{Code::unsupported, "k",
                     fmt::format("{} tokens, {} sequences, {} heads; below 2^30 tokens, 2^20 sequences and 2^16 heads are supported",
                                 problem.tokens_kv, problem.batch, problem.kv_heads)};
    }
    if (auto r = check_alignment("input", work.in); !r) return r.error();
    if (!work.transposed) {
        if (auto r = check_alignment("output", work.out); !r) return r.error();
    }
    if (work.mean.present() && (work.transposed || work.layout.kind == ScaleKind::channel)) {
        return Error{Code::internal, "k_mean", "means are of keys, which are neither transposed nor scaled by channel"};
    }
    const std::size_t seq = problem.packed ? 0 : 1, head = seq + 1;
    QuantizeLaunch launch;
    QuantizeParams& p = launch.params;
    p.in = static_cast<const u16*>(work.in.data);
    p.out = static_cast<u8*>(work.out.data);
    p.scale = static_cast<float*>(work.scale.data);
    p.mean = work.mean.present() ? static_cast<float*>(work.mean.data) : nullptr;
    p.cu_seqlens = problem.packed ? static_cast<const i32*>(cu_seqlens_k.data) : nullptr;
    p.in_batch = problem.packed ? 0 : work.in.strides[0];
    p.in_seq = work.in.strides[seq];
    p.in_head = work.in.strides[head];
    p.out_batch = problem.packed ? 0 : work.out.strides[0];
    p.out_seq = work.out.strides[work.transposed ? head : seq];
    p.out_head = work.out.strides[work.transposed ? seq : head];
    p.scale_batch = work.layout.batch;
    p.scale_head = work.layout.head;
    p.scale_block = work.layout.block;
    p.scale_channel = work.layout.channel;
    p.kind = kind_of(work.layout.kind);
    p.batch = static_cast<i32>(problem.batch);
    p.heads = static_cast<i32>(problem.kv_heads);
    p.head_dim = static_cast<i32>(problem.head_dim);
    p.seqlen = static_cast<i32>(problem.max_seqlen_kv);
    p.tokens = static_cast<i32>(problem.tokens_kv);
    const bool wide = p.kind == QuantizeScale::block && work.scale_block == 128 && p.head_dim > 128;
    p.tile = quantize_tile(p.head_dim, wide);
    p.tiles = ceil_div(p.seqlen, p.tile);
    p.group = p.kind == QuantizeScale::block ? std::countr_zero(static_cast<u32>(work.scale_block)) : 0;
    launch.threads = kQuantizeThreads;
    launch.config.elem = work.in.dtype == DType::f16 ? Elem::f16 : Elem::bf16;
    const std::int64_t blocks = quantize_tiles(problem.batch, problem.max_seqlen_kv, problem.tokens_kv, p.tile, problem.packed) * problem.kv_heads;
    const std::int64_t slices = problem.batch * problem.kv_heads * ceil_div(p.head_dim, kQuantizeSlice);
    if (std::max(blocks, slices) >= (std::int64_t{1} << 31)) {
        return Error{Code::unsupported, "k", fmt::format("{} tiles over all heads; below 2^31 are supported", std::max(blocks, slices))};
    }
    std::vector<QuantizeLaunch> launches;
    const auto add = [&](QuantizeStage stage, std::int64_t grid) {
        if (grid == 0) return;
        QuantizeLaunch next = launch;
        next.config.stage = stage;
        const bool rounds = stage == QuantizeStage::round;
        next.config.transposed = rounds && work.transposed;
        next.config.wide = wide && stage != QuantizeStage::prepare;
        if (rounds || stage == QuantizeStage::greatest) {
            next.config.extra = p.mean != nullptr                        ? QuantizeExtra::mean
                                : p.kind == QuantizeScale::channel ? QuantizeExtra::channels
                                                                         : QuantizeExtra::none;
        }
        next.grid = static_cast<int>(grid);
        next.shared_bytes = quantize_shared_bytes(next.config, p.head_dim);
        const bool found_by_token_block = p.kind == QuantizeScale::block;
        next.tensors = {{work.in, false}, {work.scale, stage != QuantizeStage::round || found_by_token_block}};
        if (problem.packed) next.tensors.push_back({cu_seqlens_k, false});
        if (work.mean.present()) next.tensors.push_back({work.mean, stage == QuantizeStage::prepare});
        const bool sums = p.mean != nullptr && stage == QuantizeStage::prepare;
        if (sums || stage == QuantizeStage::sum || stage == QuantizeStage::round) next.tensors.push_back({work.out, !sums});
        launches.push_back(std::move(next));
    };
    const bool shared = p.kind != QuantizeScale::block;
    if (p.mean != nullptr) add(QuantizeStage::sum, blocks);
    if (shared || p.mean != nullptr) add(QuantizeStage::prepare, slices);
    if (shared) add(QuantizeStage::greatest, blocks);
    add(QuantizeStage::round, blocks);
    return launches;
}

QuantizeLaunch make_widening(const AttentionProblem& problem, const TensorView& k, const TensorView& v, Elem to) {
    QuantizeLaunch launch;
    launch.config = widening_to(to);
    launch.threads = kQuantizeThreads;
    WidenParams& p = launch.widen;
    p.tokens = static_cast<i32>(problem.tokens_kv);
    p.seqlen = static_cast<i32>(problem.packed ? problem.tokens_kv : problem.max_seqlen_kv);
    p.heads = static_cast<i32>(problem.kv_heads);
    p.vectors = static_cast<i32>(problem.head_dim / widen_vector());
    p.tile = widen_tile(p.heads * p.vectors);
    p.tiles = ceil_div(p.tokens, p.tile);
    launch.grid = 2 * p.tiles;
    const DType dtype = to == Elem::f16 ? DType::f16 : DType::bf16;
    const std::size_t seq = problem.packed ? 0 : 1;
    for (const TensorView* from : {&k, &v}) {
        TensorView copy = problem.packed ? contiguous(nullptr, dtype, {from->shape[0], from->shape[1], from->shape[2]})
                                         : contiguous(nullptr, dtype, {from->shape[0], from->shape[1], from->shape[2], from->shape[3]});
        copy.device = from->device;
        p.tensor[from == &v] = {static_cast<const u8*>(from->data), nullptr, problem.packed ? 0 : from->strides[0], from->strides[seq],
                                from->strides[seq + 1]};
        launch.tensors.push_back({*from, false});
        launch.tensors.push_back({copy, true});
    }
    return launch;
}

void place_copies(QuantizeLaunch& widening, void* k, void* v) {
    widening.widen.tensor[0].out = static_cast<u16*>(k);
    widening.widen.tensor[1].out = static_cast<u16*>(v);
    widening.tensors[1].first.data = k;
    widening.tensors[3].first.data = v;
}

}  // namespace hopfill::planner

#include "plan/quantize.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>

namespace hopfill::planner {
namespace {

const char* text(QuantizeStage stage) {
    switch (stage) {
        case QuantizeStage::prepare:
            return "prepare";
        case QuantizeStage::greatest:
            return "greatest";
        case QuantizeStage::round:
            return "round";
    }
    return "?";
}
const char* text(Elem elem) { return elem == Elem::f16 ? "f16" : "bf16"; }

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
    return fmt::format("quantize_{}_{}{}", text(c.elem), text(c.stage), c.transposed ? "_transposed" : "");
}

std::string kernel_expression(const QuantizeConfig& c) {
    return fmt::format("hopfill::QuantizeConfig{{hopfill::QuantizeStage::{}, hopfill::Elem::{}, {}}}", text(c.stage), text(c.elem), c.transposed);
}

std::vector<QuantizeConfig> quantize_kernels() {
    std::vector<QuantizeConfig> all;
    for (const Elem elem : {Elem::bf16, Elem::f16}) {
        all.push_back({QuantizeStage::prepare, elem, false});
        all.push_back({QuantizeStage::greatest, elem, false});
        all.push_back({QuantizeStage::round, elem, false});
        all.push_back({QuantizeStage::round, elem, true});
    }
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
    p.tile = p.kind == QuantizeScale::block ? static_cast<i32>(work.scale_block) : kQuantizeTile;
    p.tiles = ceil_div(p.seqlen, p.tile);
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
        next.config.transposed = stage == QuantizeStage::round && work.transposed;
        next.grid = static_cast<int>(grid);
        next.shared_bytes = quantize_shared_bytes(next.config, p.head_dim);
        const bool found_by_token_block = p.kind == QuantizeScale::block;
        next.tensors = {{work.in, false}, {work.scale, stage != QuantizeStage::round || found_by_token_block}};
        if (problem.packed) next.tensors.push_back({cu_seqlens_k, false});
        if (work.mean.present()) next.tensors.push_back({work.mean, stage == QuantizeStage::prepare});
        if (stage == QuantizeStage::round) next.tensors.push_back({work.out, true});
        launches.push_back(std::move(next));
    };
    const bool shared = p.kind != QuantizeScale::block;
    if (shared || p.mean != nullptr) add(QuantizeStage::prepare, slices);
    if (shared) add(QuantizeStage::greatest, blocks);
    add(QuantizeStage::round, blocks);
    return launches;
}

}  // namespace hopfill::planner

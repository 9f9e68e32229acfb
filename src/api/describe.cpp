// describe(): from tensors to a problem, refusing whatever does not agree.
#include <algorithm>
#include <cmath>

#include "api/error.h"
#include "api/layout.h"
#include "api/validate.h"
#include "api/views.h"
#include "hopfill/attention.h"

namespace hopfill {
namespace {

Strides strides_of(const TensorView& view) {
    const TensorView c = canonical(view);
    return c.rank == 4 ? Strides{c.strides[0], c.strides[1], c.strides[2]} : Strides{0, c.strides[0], c.strides[1]};
}

Result<std::int64_t> bound(const char* name, const std::optional<std::int64_t>& given, std::int64_t tokens) {
    if (!given) return tokens;
    if (*given < 0) return invalid(name, "is {}; 0 or more is allowed", *given);
    return std::min(*given, tokens);
}

Result<void> check_lengths(const AttentionTensors& t, const AttentionOptions& options, AttentionProblem& p) {
    if (p.packed) {
        for (const auto& [name, view] : {std::pair{"cu_seqlens_q", &t.cu_seqlens_q}, std::pair{"cu_seqlens_k", &t.cu_seqlens_k}}) {
            if (!view->present()) return invalid(name, "is absent; packed tensors ([tokens, heads, head_dim]) need it, i32 [batch + 1]");
            HOPFILL_CHECK(check_view(name, *view, 1, t.q.device));
            HOPFILL_CHECK(check_contiguous(name, *view, DType::i32));
            if (view->shape[0] < 1) return invalid(name, "is empty; i32 [batch + 1] is needed");
        }
        HOPFILL_CHECK(check_dimension("cu_seqlens_k", t.cu_seqlens_k, 0, t.cu_seqlens_q.shape[0], "in cu_seqlens_q is needed"));
        p.batch = t.cu_seqlens_q.shape[0] - 1;
        p.tokens_q = t.q.shape[0];
        p.tokens_kv = t.k.shape[0];
        auto max_q = bound("max_seqlen_q", options.max_seqlen_q, p.tokens_q), max_kv = bound("max_seqlen_kv", options.max_seqlen_kv, p.tokens_kv);
        HOPFILL_CHECK(max_q);
        HOPFILL_CHECK(max_kv);
        p.max_seqlen_q = *max_q;
        p.max_seqlen_kv = *max_kv;
        return {};
    }
    for (const auto& [name, view] : {std::pair{"cu_seqlens_q", &t.cu_seqlens_q}, std::pair{"cu_seqlens_k", &t.cu_seqlens_k}}) {
        if (view->present())
            return invalid(name, "is given with a dense q of shape {}; it goes with packed tensors, [tokens, heads, head_dim]", shape_text(t.q));
    }
    if (options.max_seqlen_q) return invalid("max_seqlen_q", "is given with dense tensors, whose shapes say it; it goes with packed ones");
    if (options.max_seqlen_kv) return invalid("max_seqlen_kv", "is given with dense tensors, whose shapes say it; it goes with packed ones");
    p.batch = t.q.shape[0];
    p.max_seqlen_q = t.q.shape[1];
    p.max_seqlen_kv = t.k.shape[1];
    p.tokens_q = p.batch * p.max_seqlen_q;
    p.tokens_kv = p.batch * p.max_seqlen_kv;
    return {};
}

Result<void> describe_scales(const AttentionTensors& t, const AttentionOptions& options, AttentionProblem& p) {
    struct Named {
        const char* name;
        const TensorView& view;
        Scaled of;
        ScaleLayout& layout;
    };
    for (const Named& n : {Named{"q_scale", t.q_scale, Scaled::q, p.q_scale}, Named{"k_scale", t.k_scale, Scaled::k, p.k_scale},
                           Named{"v_scale", t.v_scale, Scaled::v, p.v_scale}}) {
        Result<ScaleLayout> layout = check_scale(n.name, n.view, p, t.q.device, n.of, options.scale_block);
        HOPFILL_CHECK(layout);
        n.layout = *layout;
    }
    if (options.scale_block) p.scale_block = *options.scale_block;
    return {};
}

Result<void> check_outputs_apart(const AttentionTensors& t) {
    struct Named {
        const char* name;
        const TensorView& view;
    };
    for (const Named& input :
         {Named{"q", t.q}, Named{"k", t.k}, Named{"v", t.v}, Named{"cu_seqlens_q", t.cu_seqlens_q}, Named{"cu_seqlens_k", t.cu_seqlens_k},
          Named{"q_scale", t.q_scale}, Named{"k_scale", t.k_scale}, Named{"v_scale", t.v_scale}}) {
        for (const Named& output : {Named{"o", t.o}, Named{"lse", t.lse}}) {
            if (share_memory(output.view, input.view)) return invalid(output.name, "overlaps {} in memory; it must not", input.name);
        }
    }
    if (share_memory(t.lse, t.o)) return invalid("lse", "overlaps o in memory; it must not");
    return {};
}

}  // namespace

Result<AttentionProblem> describe(const AttentionTensors& t, const AttentionOptions& options) {
    if (!t.q.present()) return invalid("q", "is absent; a tensor of rank 4 (dense) or 3 (packed) is needed");
    if (t.q.rank != 3 && t.q.rank != 4) {
        return invalid("q", "has rank {}; [batch, seq, heads, head_dim] or packed [tokens, heads, head_dim] is needed", t.q.rank);
    }
    const int rank = t.q.rank;
    const auto heads_at = static_cast<std::size_t>(rank - 2), dim_at = heads_at + 1;
    AttentionProblem p;
    p.packed = rank == 3;
    p.causal = options.causal;
    p.batch_invariant = options.batch_invariant;
    p.max_scratch_bytes = options.max_scratch_bytes;
    for (const auto& [name, view] : {std::pair{"q", &t.q}, std::pair{"k", &t.k}, std::pair{"v", &t.v}, std::pair{"o", &t.o}}) {
        HOPFILL_CHECK(check_view(name, *view, rank, t.q.device));
        HOPFILL_CHECK(check_last_stride(name, *view));
    }
    p.dtype = t.q.dtype;
    p.kv_dtype = t.k.dtype;
    p.out_dtype = t.o.dtype;
    p.v_transposed = options.v_transposed;
    if (p.kv_dtype != p.dtype && (p.kv_dtype != DType::e4m3 || size_of(p.dtype) != 2)) {
        return invalid("k", "is {} where q is {}; q's dtype, or e4m3 with an f16 or bf16 q, is allowed", name_of(p.kv_dtype), name_of(p.dtype));
    }
    if (t.v.dtype != p.kv_dtype) return invalid("v", "is {} where k is {}; k and v must have one dtype", name_of(t.v.dtype), name_of(p.kv_dtype));
    p.heads = t.q.shape[heads_at];
    p.kv_heads = t.k.shape[heads_at];
    p.head_dim = t.q.shape[dim_at];
    HOPFILL_CHECK(check_dimension("k", t.k, dim_at, p.head_dim, "head_dim of q is needed"));
    for (std::size_t i = 0; i < static_cast<std::size_t>(rank); ++i) {
        // Transposed, v is [batch, kv_heads, head_dim, seq]: the last three dimensions of k in the order 1, 2, 0.
        const std::size_t first = dim_at - 2, of_k = p.v_transposed && i >= first ? first + (i - first + 1) % 3 : i;
        HOPFILL_CHECK(check_dimension("v", t.v, i, t.k.shape[of_k], p.v_transposed ? "in k, and v transposed, is needed" : "in k is needed"));
        HOPFILL_CHECK(check_dimension("o", t.o, i, t.q.shape[i], "in q is needed"));
    }
    if (!p.packed) HOPFILL_CHECK(check_dimension("k", t.k, 0, t.q.shape[0], "batch of q is needed"));
    HOPFILL_CHECK(check_lengths(t, options, p));
    if (overlaps_itself(t.o)) return invalid("o", "has strides by which elements overlap");
    if (t.lse.present()) {
        p.want_lse = true;
        HOPFILL_CHECK(check_view("lse", t.lse, rank - 1, t.q.device));
        HOPFILL_CHECK(check_contiguous("lse", t.lse, DType::f32));
        if (!p.packed) HOPFILL_CHECK(check_dimension("lse", t.lse, 0, p.batch, "batch of q is needed"));
        HOPFILL_CHECK(check_dimension("lse", t.lse, heads_at - 1, p.heads, "heads of q is needed"));
        HOPFILL_CHECK(check_dimension("lse", t.lse, heads_at, p.packed ? p.tokens_q : p.max_seqlen_q, "query rows of q is needed"));
    }
    p.q = strides_of(t.q);
    p.k = strides_of(t.k);
    p.v = strides_of(t.v);
    if (p.v_transposed) std::swap(p.v.seq, p.v.head);  // [.., heads, channels, tokens] where [.., tokens, heads, channels] was read
    p.o = strides_of(t.o);
    p.scale = options.scale ? *options.scale : p.head_dim > 0 ? 1 / std::sqrt(static_cast<double>(p.head_dim)) : 1;
    HOPFILL_CHECK(describe_scales(t, options, p));
    HOPFILL_CHECK(validate(p));
    HOPFILL_CHECK(check_outputs_apart(t));
    return p;
}

}  // namespace hopfill

#include "api/validate.h"

#include <cmath>
#include <limits>

#include "api/error.h"

namespace hopfill {
namespace {

constexpr std::int64_t kMaxHeadDim = 256;

Result<void> check_range(const char* name, std::int64_t value, std::int64_t lowest) {
    constexpr std::int64_t highest = std::numeric_limits<std::int32_t>::max();
    if (value >= lowest && value <= highest) return {};
    return invalid(name, "is {}; {} to 2^31 - 1 are allowed", value, lowest);
}

Result<void> check_strides(const char* name, const Strides& s, bool packed) {
    if (s.batch < 0 || s.seq < 0 || s.head < 0) return invalid(name, "has strides {}, {}, {}; negative ones are not allowed", s.batch, s.seq, s.head);
    if (packed && s.batch != 0) return invalid(name, "has batch stride {}; packed tensors have none (0)", s.batch);
    return {};
}

Result<void> check_scales(const AttentionProblem& p) {
    struct Named {
        const char* name;
        const ScaleLayout& layout;
        DType scaled;
    };
    bool blocks = false;
    for (const auto& [name, s, scaled] :
         {Named{"q_scale", p.q_scale, p.dtype}, Named{"k_scale", p.k_scale, p.kv_dtype}, Named{"v_scale", p.v_scale, p.kv_dtype}}) {
        if (s.kind == ScaleKind::none) continue;
        if (scaled != DType::e4m3) return invalid(name, "is given for a tensor of {}; scales belong to e4m3 tensors", name_of(scaled));
        if (s.kind == ScaleKind::channel && &s != &p.v_scale) return invalid(name, "is by channel; only v_scale may be");
        if (s.batch < 0 || s.head < 0 || s.block < 0 || s.channel < 0) {
            return invalid(name, "has strides {}, {}, {}, {}; negative ones are not allowed", s.batch, s.head, s.block, s.channel);
        }
        blocks = blocks || s.kind == ScaleKind::block;
    }
    if (blocks && p.scale_block != 64 && p.scale_block != 128) return invalid("scale_block", "is {}; scales by block need 64 or 128", p.scale_block);
    if (!blocks && p.scale_block != 0) {
        return invalid("scale_block", "is {}; it goes with a scale of shape [batch, kv_heads, blocks], and there is none", p.scale_block);
    }
    return {};
}

}  // namespace

Result<void> validate(const AttentionProblem& p) {
    if (p.dtype == DType::i32) return unsupported("q", "is i32; f32, f16, bf16 and e4m3 are allowed");
    if (p.kv_dtype != p.dtype && (p.kv_dtype != DType::e4m3 || size_of(p.dtype) != 2))
        return invalid("k", "and v are {} where q is {}; q's dtype, or e4m3 with an f16 or bf16 q, is allowed", name_of(p.kv_dtype),
                       name_of(p.dtype));
    if (p.out_dtype == DType::i32 || (p.out_dtype == DType::e4m3 && p.dtype != DType::e4m3)) {
        return unsupported("o", "is {} where q is {}; f32, f16, bf16 and, with an e4m3 q, e4m3 are allowed", name_of(p.out_dtype), name_of(p.dtype));
    }
    if (p.max_scratch_bytes.value_or(0) < 0) return invalid("max_scratch_bytes", "is {}; 0 or more is allowed", *p.max_scratch_bytes);
    if (p.v_transposed && p.kv_dtype != DType::e4m3)
        return invalid("v_transposed", "is set for {} tensors; it goes with an e4m3 v", name_of(p.kv_dtype));
    if (auto checked = check_scales(p); !checked) return checked;
    struct Range {
        const char* name;
        std::int64_t value, lowest;
    };
    for (const auto& [name, value, lowest] :
         {Range{"batch", p.batch, 0}, Range{"heads", p.heads, 1}, Range{"kv_heads", p.kv_heads, 1}, Range{"max_seqlen_q", p.max_seqlen_q, 0},
          Range{"max_seqlen_kv", p.max_seqlen_kv, 0}, Range{"tokens_q", p.tokens_q, 0}, Range{"tokens_kv", p.tokens_kv, 0}}) {
        if (auto checked = check_range(name, value, lowest); !checked) return checked;
    }
    if (p.heads % p.kv_heads != 0) return invalid("heads", "is {}, no multiple of k's {} heads", p.heads, p.kv_heads);
    if (p.kv_dtype == DType::e4m3 && p.head_dim % 16 != 0) {
        return unsupported("head_dim", "is {} with e4m3 tensors; multiples of 16 from 16 to {} are allowed", p.head_dim, kMaxHeadDim);
    }
    if (p.head_dim < 8 || p.head_dim > kMaxHeadDim || p.head_dim % 8 != 0) {
        return unsupported("head_dim", "is {}; multiples of 8 from 8 to {} are allowed", p.head_dim, kMaxHeadDim);
    }
    if (!p.packed && p.tokens_q != p.batch * p.max_seqlen_q) {
        return invalid("tokens_q", "is {}; a dense batch of {} sequences has {}", p.tokens_q, p.batch, p.batch * p.max_seqlen_q);
    }
    if (!p.packed && p.tokens_kv != p.batch * p.max_seqlen_kv) {
        return invalid("tokens_kv", "is {}; a dense batch of {} sequences has {}", p.tokens_kv, p.batch, p.batch * p.max_seqlen_kv);
    }
    if (p.packed && p.max_seqlen_q > p.tokens_q) return invalid("max_seqlen_q", "is {}, more than the {} tokens of q", p.max_seqlen_q, p.tokens_q);
    if (p.packed && p.max_seqlen_kv > p.tokens_kv)
        return invalid("max_seqlen_kv", "is {}, more than the {} tokens of k", p.max_seqlen_kv, p.tokens_kv);
    if (!std::isfinite(static_cast<float>(p.scale))) return invalid("scale", "is {}; a finite float32 is needed", p.scale);
    for (const auto& [name, strides] : {std::pair{"q", &p.q}, std::pair{"k", &p.k}, std::pair{"v", &p.v}, std::pair{"o", &p.o}}) {
        if (auto checked = check_strides(name, *strides, p.packed); !checked) return checked;
    }
    return {};
}

}  // namespace hopfill

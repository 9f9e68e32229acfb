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

}  // namespace

Result<void> validate(const AttentionProblem& p) {
    if (p.dtype == DType::i32) return unsupported("q", "is i32; f32, f16, bf16 and e4m3 are allowed");
    if (p.out_dtype == DType::i32 || p.out_dtype == DType::e4m3)
        return unsupported("o", "is {}; f32, f16 and bf16 are allowed", name_of(p.out_dtype));
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

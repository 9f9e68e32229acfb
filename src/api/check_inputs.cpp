#include <algorithm>
#include <cmath>
#include <cstring>

#include "api/check_internal.h"
#include "oracle/formats.h"

namespace hopfill::check {
namespace {

constexpr std::size_t kGuard = 512;  // bytes on both sides of a tensor: more than the widest vector store or a TMA box's row

enum Stream : std::uint64_t { kQ, kK, kV, kDirection, kLayoutQ, kLayoutK, kLayoutV, kLayoutO };

// Element strides of a [batch, rows, heads, head_dim] tensor. Layout 0 is contiguous; others draw the order of the outer dimensions and the gaps
// between them, in multiples of 16 bytes, which is what TMA takes.
Strides draw_strides(Rng rng, bool contiguous, bool packed, std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t head_dim) {
    constexpr std::array<std::int64_t, 6> gaps{0, 0, 8, 16, 64, 136};
    const auto gap = [&] { return contiguous ? 0 : rng.pick(gaps); };
    const std::int64_t order = contiguous ? 0 : rng.between(0, packed ? 1 : 2);
    Strides s;
    const std::int64_t inner = head_dim + gap();
    if (order == 1) {  // head, row, column
        s.seq = inner;
        s.head = rows * s.seq + gap();
        s.batch = packed ? 0 : heads * s.head + gap();
    } else if (order == 0) {  // row, head, column
        s.head = inner;
        s.seq = heads * s.head + gap();
        s.batch = packed ? 0 : rows * s.seq + gap();
    } else {  // row, batch, head, column
        s.head = inner;
        s.batch = heads * s.head + gap();
        s.seq = batch * s.batch + gap();
    }
    return s;
}

TensorView view_of(DType t, bool packed, const Strides& s, std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t head_dim) {
    TensorView v;
    v.dtype = t;
    v.rank = packed ? 3 : 4;
    if (packed) {
        v.shape = {rows, heads, head_dim, 0};
        v.strides = {s.seq, s.head, 1, 0};
    } else {
        v.shape = {batch, rows, heads, head_dim};
        v.strides = {s.batch, s.seq, s.head, 1};
    }
    return v;
}

// Bytes all 0xff: a NaN in every format here.
Buffer allocate(TensorView& v, std::size_t shift) {
    std::int64_t last = 0;
    bool empty = false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(v.rank); ++i) {
        last += (v.shape[i] - 1) * v.strides[i];
        empty = empty || v.shape[i] == 0;
    }
    Buffer b;
    b.base = kGuard + shift;
    b.bytes.assign(b.base + (empty ? 0 : static_cast<std::size_t>((last + 1) * size_of(v.dtype))) + kGuard, std::byte{0xff});
    v.data = b.bytes.data() + b.base;
    return b;
}

// Sizes of the data: how strongly queries and keys share the direction u (entries +-1) of their KV head.
struct Shape {
    double q_noise = 1, k_noise = 1;
    double q_along = 0;
    double k_along = 0;  // of the peak (peaky) or of the last key (rising)
};

Shape shape_of(Input input, double scale, std::int64_t head_dim) {
    const double d = static_cast<double>(head_dim), s = std::max(std::fabs(scale), 1e-3);
    switch (input) {
        case Input::gaussian:
            return {};
        case Input::peaky:
            return {1, 1, 1, std::min(20 / (s * d), 1000.0)};
        case Input::rising:
            return {0.5, 0.5, 1, std::min(40 / (s * d), 1000.0)};
        case Input::large: {
            // Logits scale * q.k of standard deviation 8000: the largest of many pass 30 000.
            const double size = std::min(std::sqrt(8000 / (s * std::sqrt(d))), 1000.0);
            return {size, size, 0, 0};
        }
    }
    return {};
}

// Fills one (sequence, head) of q, k or v.
void fill(const Case& c, const Shape& shape, Stream which, const TensorView& t, std::int64_t sequence, std::int64_t begin, std::int64_t length,
          std::int64_t head) {
    const auto b = static_cast<std::uint64_t>(sequence), h = static_cast<std::uint64_t>(head);
    const std::uint64_t kv_head = which == kQ ? h / static_cast<std::uint64_t>(c.heads / c.kv_heads) : h;
    Rng rng(c.seed, static_cast<std::uint64_t>(which), b, h);
    Rng shared(c.seed, static_cast<std::uint64_t>(kDirection), b, kv_head);
    std::vector<double> direction(static_cast<std::size_t>(c.head_dim));
    for (double& u : direction) u = shared.one_in(2) ? 1 : -1;
    const double sign = c.scale.value_or(1) < 0 ? -1 : 1;
    const std::int64_t peak = which == kK && length > 0 ? rng.between(0, length - 1) : 0;
    for (std::int64_t i = 0; i < length; ++i) {
        double noise = 1, along = 0;
        if (which == kQ) {
            noise = shape.q_noise;
            along = shape.q_along * sign;
        } else if (which == kK) {
            noise = shape.k_noise;
            along = c.input == Input::rising ? shape.k_along * static_cast<double>(i + 1) / static_cast<double>(length)
                    : i == peak              ? shape.k_along
                                             : 0;
        }
        const std::int64_t first = offset(t, sequence, begin, i, head);
        for (std::int64_t col = 0; col < c.head_dim; ++col) {
            oracle::store(t.dtype, t.data, first + col, noise * rng.gaussian() + along * direction[static_cast<std::size_t>(col)]);
        }
    }
}

void plant_nans(const Case& c, Built& b) {
    Rng rng(c.nan);
    const auto set_nan = [](const TensorView& t, std::int64_t at) {
        std::memset(static_cast<std::byte*>(t.data) + at * size_of(t.dtype), 0xff, static_cast<std::size_t>(size_of(t.dtype)));
    };
    const std::int64_t sequence = rng.between(0, b.problem.batch - 1);
    const auto i = static_cast<std::size_t>(sequence);
    const bool whole = c.packed && rng.one_in(2);
    for (const Stream which : {kQ, kK, kV}) {
        // Under a causal mask a NaN in a masked row of V meets a weight of zero within its own sequence: what comes of that is not promised.
        if (which == kV && c.causal) continue;
        const TensorView& t = which == kQ ? b.host.q : which == kK ? b.host.k : b.host.v;
        const std::int64_t length = which == kQ ? c.q_lens[i] : c.kv_lens[i], heads = which == kQ ? c.heads : c.kv_heads;
        const std::int64_t begin = which == kQ ? b.q_begin[i] : b.kv_begin[i];
        if (length == 0) continue;
        if (!whole && rng.one_in(2)) {
            set_nan(t, offset(t, sequence, begin, rng.between(0, length - 1), rng.between(0, heads - 1)) + rng.between(0, c.head_dim - 1));
            continue;
        }
        for (std::int64_t row = 0; whole && row < length; ++row) {
            for (std::int64_t h = 0; h < heads; ++h) {
                for (std::int64_t col = 0; col < c.head_dim; ++col) set_nan(t, offset(t, sequence, begin, row, h) + col);
            }
        }
    }
}

Buffer prefix_sums(const std::vector<std::int64_t>& lengths, TensorView& v, std::vector<std::int64_t>& begins) {
    const auto n = static_cast<std::int64_t>(lengths.size()) + 1;
    v = contiguous(nullptr, DType::i32, {n});
    Buffer b = allocate(v, 0);
    auto* x = static_cast<std::int32_t*>(v.data);
    x[0] = 0;
    for (std::size_t i = 0; i < lengths.size(); ++i) {
        begins.push_back(x[i]);
        x[i + 1] = x[i] + static_cast<std::int32_t>(lengths[i]);
    }
    return b;
}

}  // namespace

void poison(Buffer& b) {
    for (std::size_t i = 0; i < b.bytes.size(); ++i) b.bytes[i] = kPoison[i % 2];
}

Built build(const Case& c, int threads) {
    Built b;
    b.q_lens = c.q_lens;
    b.kv_lens = c.kv_lens;
    AttentionProblem& p = b.problem;
    const auto batch = static_cast<std::int64_t>(c.q_lens.size());
    if (c.packed) {
        b.cu_q = prefix_sums(c.q_lens, b.host.cu_seqlens_q, b.q_begin);
        b.cu_k = prefix_sums(c.kv_lens, b.host.cu_seqlens_k, b.kv_begin);
    } else {
        b.q_begin.assign(c.q_lens.size(), 0);
        b.kv_begin.assign(c.q_lens.size(), 0);
    }
    p.dtype = c.dtype;
    p.out_dtype = c.out_dtype;
    p.packed = c.packed;
    p.causal = c.causal;
    p.batch = batch;
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.max_seqlen_q = *std::max_element(c.q_lens.begin(), c.q_lens.end());
    p.max_seqlen_kv = *std::max_element(c.kv_lens.begin(), c.kv_lens.end());
    p.tokens_q = c.packed ? b.q_begin.back() + c.q_lens.back() + c.tail : batch * p.max_seqlen_q;
    p.tokens_kv = c.packed ? b.kv_begin.back() + c.kv_lens.back() + c.tail : batch * p.max_seqlen_kv;
    if (c.packed && c.loose_bounds) {
        p.max_seqlen_q = p.tokens_q;
        p.max_seqlen_kv = p.tokens_kv;
    }
    p.scale = c.scale.value_or(1 / std::sqrt(static_cast<double>(c.head_dim)));
    p.want_lse = c.lse;
    const std::int64_t rows_q = c.packed ? p.tokens_q : p.max_seqlen_q, rows_kv = c.packed ? p.tokens_kv : p.max_seqlen_kv;
    const auto strides = [&](Stream which, std::int64_t rows, std::int64_t heads) {
        return draw_strides(Rng(c.layout, static_cast<std::uint64_t>(which)), c.layout == 0, c.packed, batch, rows, heads, c.head_dim);
    };
    p.q = strides(kLayoutQ, rows_q, c.heads);
    p.k = strides(kLayoutK, rows_kv, c.kv_heads);
    p.v = strides(kLayoutV, rows_kv, c.kv_heads);
    p.o = strides(kLayoutO, rows_q, c.heads);
    b.host.q = view_of(c.dtype, c.packed, p.q, batch, rows_q, c.heads, c.head_dim);
    b.host.k = view_of(c.dtype, c.packed, p.k, batch, rows_kv, c.kv_heads, c.head_dim);
    b.host.v = view_of(c.dtype, c.packed, p.v, batch, rows_kv, c.kv_heads, c.head_dim);
    b.host.o = view_of(c.out_dtype, c.packed, p.o, batch, rows_q, c.heads, c.head_dim);
    Rng shift(c.layout, 99);
    const auto next_shift = [&] { return c.layout == 0 ? std::size_t{0} : 16 * static_cast<std::size_t>(shift.between(0, 7)); };
    b.q = allocate(b.host.q, next_shift());
    b.k = allocate(b.host.k, next_shift());
    b.v = allocate(b.host.v, next_shift());
    b.o = allocate(b.host.o, next_shift());
    if (c.lse) {
        b.host.lse =
            c.packed ? contiguous(nullptr, DType::f32, {c.heads, p.tokens_q}) : contiguous(nullptr, DType::f32, {batch, c.heads, p.max_seqlen_q});
        b.lse = allocate(b.host.lse, 0);
    }
    b.options.causal = c.causal;
    b.options.scale = c.scale;
    if (c.packed && !c.loose_bounds) {
        b.options.max_seqlen_q = p.max_seqlen_q;
        b.options.max_seqlen_kv = p.max_seqlen_kv;
    }
    const Shape shape = shape_of(c.input, p.scale, c.head_dim);
    parallel(batch * (c.heads + 2 * c.kv_heads), threads, [&](std::int64_t unit) {
        const std::int64_t sequence = unit / (c.heads + 2 * c.kv_heads), slot = unit % (c.heads + 2 * c.kv_heads);
        const auto i = static_cast<std::size_t>(sequence);
        if (slot < c.heads) {
            fill(c, shape, kQ, b.host.q, sequence, b.q_begin[i], c.q_lens[i], slot);
        } else if (slot < c.heads + c.kv_heads) {
            fill(c, shape, kK, b.host.k, sequence, b.kv_begin[i], c.kv_lens[i], slot - c.heads);
        } else {
            fill(c, shape, kV, b.host.v, sequence, b.kv_begin[i], c.kv_lens[i], slot - c.heads - c.kv_heads);
        }
    });
    if (c.nan != 0) plant_nans(c, b);
    return b;
}

}  // namespace hopfill::check

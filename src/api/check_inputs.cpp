#include <algorithm>
#include <cmath>
#include <cstring>

#include "api/check_internal.h"
#include "oracle/formats.h"

namespace hopfill::check {
namespace {

constexpr std::size_t kGuard = 512;  // bytes on both sides of a tensor: more than the widest vector store or a TMA box's row

enum Stream : std::uint64_t { kQ, kK, kV, kDirection, kLayoutQ, kLayoutK, kLayoutV, kLayoutO, kScaleQ, kScaleK, kScaleV };

// Element strides of a [batch, rows, heads, head_dim] tensor. Layout 0 is contiguous; others draw the order of the outer dimensions and the gaps
// between them, in multiples of 16 bytes, which is what TMA takes.
Strides draw_strides(Rng rng, bool contiguous, bool packed, std::int64_t batch, std::int64_t rows, std::int64_t heads, std::int64_t head_dim,
                     DType dtype) {
    constexpr std::array<std::int64_t, 6> gaps{0, 0, 8, 16, 64, 136};
    const auto gap = [&] { return contiguous ? 0 : rng.pick(gaps) * (dtype == DType::e4m3 ? 2 : 1); };
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

// Bytes all 0xff, of e4m3 tensors 0x7f: a NaN in every format here.
Buffer allocate(TensorView& v, std::size_t shift) {
    std::int64_t last = 0;
    bool empty = false;
    for (std::size_t i = 0; i < static_cast<std::size_t>(v.rank); ++i) {
        last += (v.shape[i] - 1) * v.strides[i];
        empty = empty || v.shape[i] == 0;
    }
    Buffer b;
    b.base = kGuard + shift;
    b.bytes.assign(b.base + (empty ? 0 : static_cast<std::size_t>((last + 1) * size_of(v.dtype))) + kGuard,
                   std::byte{v.dtype == DType::e4m3 ? std::uint8_t{0x7f} : std::uint8_t{0xff}});
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

// A scale tensor for data of up to about `largest`, which its numbers map to between 28 and 448; NaN for blocks and sequences without tokens.
Buffer draw_scale(const Case& c, Stream which, ScaleKind kind, double largest, const Built& b, const std::vector<std::int64_t>& lens,
                  TensorView& view, ScaleLayout& layout) {
    layout.kind = kind;
    if (kind == ScaleKind::none) return {};
    const AttentionProblem& p = b.problem;
    Rng rng(c.seed, static_cast<std::uint64_t>(which)), gaps(c.layout, static_cast<std::uint64_t>(which));
    const auto gap = [&] { return c.layout == 0 ? 0 : gaps.between(0, 3); };
    const bool of_q = which == kScaleQ;
    const std::int64_t batch = p.batch, longest = of_q ? p.max_seqlen_q : p.max_seqlen_kv;
    const std::int64_t blocks = kind == ScaleKind::block ? (longest + c.scale_block - 1) / c.scale_block + gap() : 1;
    const std::int64_t heads = kind == ScaleKind::head && of_q ? p.heads : p.kv_heads;
    view = {nullptr, DType::f32, 1, {1, 0, 0, 0}, {1, 0, 0, 0}, {}};
    switch (kind) {
        case ScaleKind::none:
        case ScaleKind::tensor:
            break;
        case ScaleKind::head:
            layout.head = heads > 1 ? 1 + gap() : 0;
            view.shape = {heads, 0, 0, 0};
            view.strides = {std::max<std::int64_t>(1, layout.head), 0, 0, 0};
            break;
        case ScaleKind::sequence:
        case ScaleKind::block:
            view.rank = kind == ScaleKind::block ? 3 : 2;
            view.shape = {batch, heads, kind == ScaleKind::block ? blocks : 0, 0};
            view.strides[2] = kind == ScaleKind::block ? 1 : 0;
            view.strides[1] = blocks + gap();
            view.strides[0] = heads * view.strides[1] + gap();
            layout.batch = batch > 1 ? view.strides[0] : 0;
            layout.head = heads > 1 ? view.strides[1] : 0;
            layout.block = kind == ScaleKind::block && blocks > 1 ? 1 : 0;
            break;
        case ScaleKind::channel:
            view.rank = 2;
            view.shape = {heads, c.head_dim, 0, 0};
            view.strides = {c.head_dim + gap(), 1, 0, 0};
            layout.head = heads > 1 ? view.strides[0] : 0;
            layout.channel = 1;
            break;
    }
    Buffer buffer = allocate(view, 0);
    auto* x = static_cast<float*>(view.data);
    const auto draw = [&] { return static_cast<float>(largest / 448 * (1 + static_cast<double>(rng.between(0, 60)) / 4)); };
    const bool by_sequence = kind == ScaleKind::sequence || kind == ScaleKind::block;
    for (std::int64_t s = 0; s < (by_sequence ? batch : 1); ++s) {
        const std::int64_t length = lens[static_cast<std::size_t>(s)];
        const std::int64_t used = kind == ScaleKind::block ? (length + c.scale_block - 1) / c.scale_block : by_sequence && length == 0 ? 0 : 1;
        for (std::int64_t h = 0; h < (kind == ScaleKind::tensor ? 1 : heads); ++h) {
            for (std::int64_t i = 0; i < (kind == ScaleKind::channel ? c.head_dim : used); ++i) {
                x[s * layout.batch + h * layout.head + i * (layout.block + layout.channel)] = draw();
            }
        }
    }
    return buffer;
}

// Fills one (sequence, head) of q, k or v.
void fill(const Case& c, const Shape& shape, Stream which, const Built& built, const TensorView& t, std::int64_t sequence, std::int64_t begin,
          std::int64_t length, std::int64_t head) {
    const TensorView& scale = which == kQ ? built.host.q_scale : which == kK ? built.host.k_scale : built.host.v_scale;
    const ScaleLayout& layout = which == kQ ? built.problem.q_scale : which == kK ? built.problem.k_scale : built.problem.v_scale;
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
            double x = noise * rng.gaussian() + along * direction[static_cast<std::size_t>(col)];
            if (layout.kind != ScaleKind::none) x /= static_cast<double>(multiplier(built, scale, layout, sequence, head, i, col));
            oracle::store(t.dtype, t.data, which == kV ? value_offset(built, sequence, begin, i, head, col) : first + col, x);
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
        const auto at = [&](std::int64_t row, std::int64_t head, std::int64_t col) {
            return which == kV ? value_offset(b, sequence, begin, row, head, col) : offset(t, sequence, begin, row, head) + col;
        };
        if (!whole && rng.one_in(2)) {
            const std::int64_t row = rng.between(0, length - 1), head = rng.between(0, heads - 1), col = rng.between(0, c.head_dim - 1);
            set_nan(t, at(row, head, col));
            continue;
        }
        for (std::int64_t row = 0; whole && row < length; ++row) {
            for (std::int64_t h = 0; h < heads; ++h) {
                for (std::int64_t col = 0; col < c.head_dim; ++col) set_nan(t, at(row, h, col));
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

void poison(Buffer& b, DType dtype) {
    for (std::size_t i = 0; i < b.bytes.size(); ++i) b.bytes[i] = poison_of(dtype)[i % 2];
}

float multiplier(const Built& b, const TensorView& scale, const ScaleLayout& layout, std::int64_t sequence, std::int64_t head, std::int64_t token,
                 std::int64_t channel) {
    if (layout.kind == ScaleKind::none) return 1;
    const AttentionProblem& p = b.problem;
    const bool query_heads = &layout == &p.q_scale && layout.kind != ScaleKind::head;
    const std::int64_t at = sequence * layout.batch + (query_heads ? head / (p.heads / p.kv_heads) : head) * layout.head +
                            (p.scale_block > 0 ? token / p.scale_block : 0) * layout.block + channel * layout.channel;
    return static_cast<const float*>(scale.data)[at];
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
    p.kv_dtype = c.kv_dtype;
    p.v_transposed = c.v_transposed;
    p.scale_block = c.scale_block;
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
        const DType dtype = which == kLayoutQ ? c.dtype : which == kLayoutO ? c.out_dtype : c.kv_dtype;
        return draw_strides(Rng(c.layout, static_cast<std::uint64_t>(which)), c.layout == 0, c.packed, batch, rows, heads, c.head_dim, dtype);
    };
    p.q = strides(kLayoutQ, rows_q, c.heads);
    p.k = strides(kLayoutK, rows_kv, c.kv_heads);
    p.v = strides(kLayoutV, rows_kv, c.kv_heads);
    p.o = strides(kLayoutO, rows_q, c.heads);
    b.host.q = view_of(c.dtype, c.packed, p.q, batch, rows_q, c.heads, c.head_dim);
    b.host.k = view_of(c.kv_dtype, c.packed, p.k, batch, rows_kv, c.kv_heads, c.head_dim);
    b.host.v = view_of(c.kv_dtype, c.packed, p.v, batch, rows_kv, c.kv_heads, c.head_dim);
    if (c.v_transposed) {
        // Rows are of tokens: padded to 16, as TMA needs.
        const std::int64_t row = (rows_kv + 15) / 16 * 16 + (c.layout % 2 == 0 ? 0 : 16);
        p.v = {c.packed ? 0 : c.kv_heads * c.head_dim * row, row, c.head_dim * row};
        b.host.v = view_of(c.kv_dtype, c.packed, {p.v.batch, p.v.head, p.v.seq}, batch, c.kv_heads, c.head_dim, rows_kv);
    }
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
    b.q_scale = draw_scale(c, kScaleQ, c.q_scale, 5 * shape.q_noise + shape.q_along, b, c.q_lens, b.host.q_scale, p.q_scale);
    b.k_scale = draw_scale(c, kScaleK, c.k_scale, 5 * shape.k_noise + shape.k_along, b, c.kv_lens, b.host.k_scale, p.k_scale);
    b.v_scale = draw_scale(c, kScaleV, c.v_scale, 5, b, c.kv_lens, b.host.v_scale, p.v_scale);
    if (c.scale_block != 0) b.options.scale_block = c.scale_block;
    b.options.v_transposed = c.v_transposed;
    parallel(batch * (c.heads + 2 * c.kv_heads), threads, [&](std::int64_t unit) {
        const std::int64_t sequence = unit / (c.heads + 2 * c.kv_heads), slot = unit % (c.heads + 2 * c.kv_heads);
        const auto i = static_cast<std::size_t>(sequence);
        if (slot < c.heads) {
            fill(c, shape, kQ, b, b.host.q, sequence, b.q_begin[i], c.q_lens[i], slot);
        } else if (slot < c.heads + c.kv_heads) {
            fill(c, shape, kK, b, b.host.k, sequence, b.kv_begin[i], c.kv_lens[i], slot - c.heads);
        } else {
            fill(c, shape, kV, b, b.host.v, sequence, b.kv_begin[i], c.kv_lens[i], slot - c.heads - c.kv_heads);
        }
    });
    if (c.nan != 0) plant_nans(c, b);
    return b;
}

}  // namespace hopfill::check

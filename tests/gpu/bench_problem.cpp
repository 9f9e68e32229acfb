#include "bench_problem.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <sstream>

#include "cuda/memory.h"

namespace hopfill::gpu {
namespace {

std::optional<std::int64_t> number(std::string_view text) {
    std::int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || text.empty()) return std::nullopt;
    return value;
}

// Rows of tokens, as TMA takes them.
std::int64_t padded(std::int64_t tokens) { return (tokens + 15) / 16 * 16; }

std::vector<std::int64_t> numbers(std::string_view text) {
    std::vector<std::int64_t> list;
    while (!text.empty()) {
        const std::string_view word = text.substr(0, text.find(','));
        list.push_back(number(word).value_or(-1));
        text.remove_prefix(std::min(text.size(), word.size() + 1));
    }
    return list;
}

std::uint16_t bits_of(float value, DType dtype) {
    if (dtype == DType::f16) {
        const auto half = static_cast<_Float16>(value);
        std::uint16_t bits;
        std::memcpy(&bits, &half, sizeof(bits));
        return bits;
    }
    std::uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return static_cast<std::uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

}  // namespace

Result<BenchProblem> parse_problem(const std::string& text) {
    BenchProblem b;
    b.text = text;
    AttentionProblem& p = b.problem;
    p.batch = 1;
    std::int64_t s = 0, kv = 0;
    std::istringstream words(text);
    for (std::string word; words >> word;) {
        const std::string_view w = word;
        std::optional<std::int64_t> n;
        if (w == "bf16" || w == "f16") {
            p.dtype = p.kv_dtype = p.out_dtype = w == "f16" ? DType::f16 : DType::bf16;
        } else if (w == "e4m3") {
            p.dtype = p.kv_dtype = DType::e4m3;  // after the type of o
            // As an engine has them: loading multipliers is part of a job.
            p.q_scale.kind = p.k_scale.kind = p.v_scale.kind = ScaleKind::tensor;
        } else if (w == "vt") {
            p.v_transposed = true;
        } else if (w == "kv_e4m3") {
            p.kv_dtype = DType::e4m3;
        } else if (w == "causal" || w == "packed" || w == "lse") {
            (w == "causal" ? p.causal : w == "packed" ? p.packed : p.want_lse) = true;
        } else if (w.starts_with("len=")) {
            p.packed = true;
            b.q_lens = numbers(w.substr(4));
        } else if (w.starts_with("kv") && (n = number(w.substr(2)))) {
            kv = *n;
        } else if (w.starts_with('d') && (n = number(w.substr(1)))) {
            p.head_dim = *n;
        } else if (w.starts_with('b') && (n = number(w.substr(1)))) {
            p.batch = *n;
        } else if (w.starts_with('s') && (n = number(w.substr(1)))) {
            s = *n;
        } else if (w.starts_with('h')) {
            const std::size_t slash = w.find('/');
            p.heads = number(w.substr(1, slash == std::string_view::npos ? slash : slash - 1)).value_or(0);
            p.kv_heads = slash == std::string_view::npos ? p.heads : number(w.substr(slash + 1)).value_or(0);
        } else {
            return Error{Code::invalid_argument, "problem", fmt::format("'{}' in '{}'", word, text)};
        }
    }
    if (b.q_lens.empty()) b.q_lens.assign(static_cast<std::size_t>(p.batch), s);
    b.kv_lens = kv == 0 ? b.q_lens : std::vector<std::int64_t>(b.q_lens.size(), kv);
    p.batch = std::ssize(b.q_lens);
    p.max_seqlen_q = *std::ranges::max_element(b.q_lens);
    p.max_seqlen_kv = *std::ranges::max_element(b.kv_lens);
    p.tokens_q = std::accumulate(b.q_lens.begin(), b.q_lens.end(), std::int64_t{0});
    p.tokens_kv = std::accumulate(b.kv_lens.begin(), b.kv_lens.end(), std::int64_t{0});
    if (p.heads < 1 || p.kv_heads < 1 || p.heads % p.kv_heads != 0 || p.head_dim < 1 || *std::ranges::min_element(b.q_lens) < 1)
        return Error{Code::invalid_argument, "problem", fmt::format("'{}' needs at least d, h and s", text)};
    p.scale = 1 / std::sqrt(static_cast<double>(p.head_dim));
    const auto strides = [&](std::int64_t seq, std::int64_t heads) {
        return Strides{p.packed ? 0 : seq * heads * p.head_dim, heads * p.head_dim, p.head_dim};
    };
    p.q = p.o = strides(p.max_seqlen_q, p.heads);
    p.k = p.v = strides(p.max_seqlen_kv, p.kv_heads);
    if (p.v_transposed) {
        const std::int64_t row = padded(p.packed ? p.tokens_kv : p.max_seqlen_kv);
        p.v = {p.packed ? 0 : p.kv_heads * p.head_dim * row, row, p.head_dim * row};
    }
    return b;
}

double BenchProblem::flops() const {
    double pairs = 0;
    for (std::size_t i = 0; i < q_lens.size(); ++i) {
        const double q = static_cast<double>(q_lens[i]), kv = static_cast<double>(kv_lens[i]);
        if (!problem.causal) {
            pairs += q * kv;
        } else if (q_lens[i] == kv_lens[i]) {
            pairs += q * kv / 2;
        } else {
            for (std::int64_t row = 0; row < q_lens[i]; ++row)
                pairs += static_cast<double>(std::max<std::int64_t>(0, std::min(kv_lens[i], row + 1 + kv_lens[i] - q_lens[i])));
        }
    }
    return 4 * pairs * static_cast<double>(problem.heads * problem.head_dim);
}

std::vector<check::Case> BenchProblem::small_cases() const {
    check::Case c;
    c.dtype = problem.dtype;
    c.kv_dtype = problem.kv_dtype;
    c.out_dtype = problem.out_dtype;
    if (c.dtype == DType::e4m3) c.q_scale = c.k_scale = c.v_scale = ScaleKind::tensor;
    if (c.kv_dtype != c.dtype) {
        c.k_scale = ScaleKind::sequence;
        c.v_scale = ScaleKind::channel;
    }
    c.packed = problem.packed;
    c.v_transposed = problem.v_transposed;
    c.causal = problem.causal;
    c.head_dim = problem.head_dim;
    c.heads = 6;
    c.kv_heads = 2;
    c.q_lens = problem.packed ? std::vector<std::int64_t>{331, 0, 64, 900} : std::vector<std::int64_t>{515, 515};
    c.kv_lens = problem.packed ? std::vector<std::int64_t>{700, 10, 64, 650} : std::vector<std::int64_t>{769, 769};
    check::Case peaky = c;
    peaky.input = check::Input::rising;
    peaky.seed = 2;
    peaky.q_lens.assign(c.q_lens.size(), 400);
    peaky.kv_lens.assign(c.kv_lens.size(), 333);
    // Enough jobs that every block takes several, and enough keys that only some rows are judged, which is quick.
    check::Case many = c;
    many.heads = 24;
    many.kv_heads = 8;
    many.seed = 3;
    many.q_lens = problem.packed ? std::vector<std::int64_t>{1300, 700, 17} : std::vector<std::int64_t>{900, 900};
    many.kv_lens = std::vector<std::int64_t>(many.q_lens.size(), 2304);
    return {c, peaky, many};
}

BenchTensors::~BenchTensors() {
    for (Buffer* b : {&q_, &k_, &v_, &o_, &lse_, &cu_q_, &cu_k_, &one_}) cuda::release(b->data);
}

Result<void> BenchTensors::grow(Buffer& buffer, std::size_t bytes) {
    if (buffer.bytes >= bytes) return {};
    cuda::release(buffer.data);
    buffer = {};
    auto memory = cuda::allocate(bytes);
    if (!memory) return memory.error();
    buffer = {*memory, bytes};
    return {};
}

Result<void> BenchTensors::fill(Buffer& buffer, std::int64_t elements, DType dtype, unsigned seed) {
    constexpr std::size_t kBlock = 1 << 21;
    const auto count = static_cast<std::size_t>(elements);
    if (auto r = grow(buffer, count * 2); !r) return r;
    // Drawn once: a grid of problems would spend a third of its time here.
    std::vector<std::uint16_t>& block = blocks_[{dtype, seed}];
    if (block.empty()) {
        std::mt19937 random(seed);
        std::normal_distribution<float> gaussian;
        block.resize(kBlock);
        // e4m3: two a word, below 2, so that none is a NaN.
        for (std::uint16_t& v : block) v = dtype == DType::e4m3 ? static_cast<std::uint16_t>(random() & 0xbfbf) : bits_of(gaussian(random), dtype);
    }
    for (std::size_t at = 0; at < count; at += block.size())
        if (auto r = cuda::upload(static_cast<char*>(buffer.data) + 2 * at, block.data(), 2 * std::min(block.size(), count - at)); !r) return r;
    return {};
}

Result<AttentionTensors> BenchTensors::make(const BenchProblem& b) {
    const AttentionProblem& p = b.problem;
    const std::int64_t q = p.tokens_q * p.heads * p.head_dim, kv = p.tokens_kv * p.kv_heads * p.head_dim;
    if (auto r = fill(q_, q, p.dtype, 1); !r) return r.error();
    if (auto r = fill(k_, kv, p.kv_dtype, 2); !r) return r.error();
    const std::int64_t rows = p.kv_heads * p.head_dim * (p.packed ? padded(p.tokens_kv) : p.batch * padded(p.max_seqlen_kv));
    if (auto r = fill(v_, p.v_transposed ? rows : kv, p.kv_dtype, 3); !r) return r.error();
    if (auto r = grow(o_, static_cast<std::size_t>(2 * q)); !r) return r.error();
    if (auto r = grow(lse_, static_cast<std::size_t>(4 * p.tokens_q * p.heads)); !r) return r.error();
    const Device gpu{Device::Kind::cuda, 0};
    AttentionTensors t;
    if (p.q_scale.kind == ScaleKind::tensor) {
        if (auto r = grow(one_, sizeof(float)); !r) return r.error();
        const float one = 1.0f;
        if (auto r = cuda::upload(one_.data, &one, sizeof(one)); !r) return r.error();
        t.q_scale = t.k_scale = t.v_scale = contiguous(one_.data, DType::f32, {1}, gpu);
    }
    if (!p.packed) {
        t.q = contiguous(q_.data, p.dtype, {p.batch, p.max_seqlen_q, p.heads, p.head_dim}, gpu);
        t.k = contiguous(k_.data, p.kv_dtype, {p.batch, p.max_seqlen_kv, p.kv_heads, p.head_dim}, gpu);
        t.v = contiguous(v_.data, p.kv_dtype, {p.batch, p.max_seqlen_kv, p.kv_heads, p.head_dim}, gpu);
        t.o = contiguous(o_.data, p.out_dtype, {p.batch, p.max_seqlen_q, p.heads, p.head_dim}, gpu);
        if (p.v_transposed) {
            t.v.shape = {p.batch, p.kv_heads, p.head_dim, p.max_seqlen_kv};
            t.v.strides = {p.v.batch, p.v.head, p.v.seq, 1};
        }
        if (p.want_lse) t.lse = contiguous(lse_.data, DType::f32, {p.batch, p.heads, p.max_seqlen_q}, gpu);
        return t;
    }
    t.q = contiguous(q_.data, p.dtype, {p.tokens_q, p.heads, p.head_dim}, gpu);
    t.k = contiguous(k_.data, p.kv_dtype, {p.tokens_kv, p.kv_heads, p.head_dim}, gpu);
    t.v = contiguous(v_.data, p.kv_dtype, {p.tokens_kv, p.kv_heads, p.head_dim}, gpu);
    t.o = contiguous(o_.data, p.out_dtype, {p.tokens_q, p.heads, p.head_dim}, gpu);
    if (p.v_transposed) {
        t.v.shape = {p.kv_heads, p.head_dim, p.tokens_kv, 0};
        t.v.strides = {p.v.head, p.v.seq, 1, 0};
    }
    if (p.want_lse) t.lse = contiguous(lse_.data, DType::f32, {p.heads, p.tokens_q}, gpu);
    const auto upload_sums = [&](Buffer& buffer, const std::vector<std::int64_t>& lens, TensorView& view) -> Result<void> {
        std::vector<std::int32_t> sums{0};
        for (std::int64_t n : lens) sums.push_back(static_cast<std::int32_t>(sums.back() + n));
        if (auto r = grow(buffer, sums.size() * 4); !r) return r;
        view = contiguous(buffer.data, DType::i32, {std::ssize(sums)}, gpu);
        return cuda::upload(buffer.data, sums.data(), sums.size() * 4);
    };
    if (auto r = upload_sums(cu_q_, b.q_lens, t.cu_seqlens_q); !r) return r.error();
    if (auto r = upload_sums(cu_k_, b.kv_lens, t.cu_seqlens_k); !r) return r.error();
    return t;
}

}  // namespace hopfill::gpu

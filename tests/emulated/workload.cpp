#include "workload.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <numeric>
#include <stdexcept>

#include "emulator/formats.h"
#include "emulator/random.h"
#include "oracle/oracle.h"
#include "plan/geometry.h"

namespace hopfill::testing {
namespace {

constexpr std::uint8_t kUnwritten = 0xff;  // bytes of a NaN in bf16, f16 and e4m3

float normal(emulator::Random& r) {
    const double u = (static_cast<double>(r.next() >> 11) + 0.5) * 0x1p-53, v = static_cast<double>(r.next() >> 11) * 0x1p-53;
    return static_cast<float>(std::sqrt(-2 * std::log(u)) * std::cos(6.283185307179586 * v));
}

}  // namespace

struct Workload::Data {
    Case c;
    AttentionProblem problem;
    Result<Plan> plan = Error{};
    std::vector<std::uint8_t> q, k, v;  // elements of problem.dtype, kv_dtype
    std::vector<float> q_scale, k_scale, v_scale;
    std::vector<std::uint8_t> o, expected_o;  // of problem.out_dtype
    std::vector<float> lse, expected_lse;
    std::vector<i32> cu_q, cu_k;

    // Element i of an output.
    float value(const std::vector<std::uint8_t>& t, std::size_t i) const {
        if (c.e4m3_out) return emulator::from_e4m3(t[i]);
        std::uint16_t bits;
        std::memcpy(&bits, &t[2 * i], 2);
        return c.f16 ? emulator::from_f16(bits) : emulator::from_bf16(bits);
    }

    AttentionTensors tensors(std::vector<std::uint8_t>& out, std::vector<float>& out_lse) {
        const DType t = problem.dtype;
        AttentionTensors a;
        if (c.packed) {
            a.q = contiguous(q.data(), t, {problem.tokens_q, problem.heads, problem.head_dim});
            a.k = contiguous(k.data(), problem.kv_dtype, {problem.tokens_kv, problem.kv_heads, problem.head_dim});
            a.v = values(v.data(), {problem.tokens_kv, problem.kv_heads, problem.head_dim});
            a.o = contiguous(out.data(), problem.out_dtype, {problem.tokens_q, problem.heads, problem.head_dim});
            a.lse = contiguous(out_lse.data(), DType::f32, {problem.heads, problem.tokens_q});
            a.cu_seqlens_q = contiguous(cu_q.data(), DType::i32, {problem.batch + 1});
            a.cu_seqlens_k = contiguous(cu_k.data(), DType::i32, {problem.batch + 1});
        } else {
            a.q = contiguous(q.data(), t, {problem.batch, problem.max_seqlen_q, problem.heads, problem.head_dim});
            a.k = contiguous(k.data(), problem.kv_dtype, {problem.batch, problem.max_seqlen_kv, problem.kv_heads, problem.head_dim});
            a.v = values(v.data(), {problem.batch, problem.max_seqlen_kv, problem.kv_heads, problem.head_dim});
            a.o = contiguous(out.data(), problem.out_dtype, {problem.batch, problem.max_seqlen_q, problem.heads, problem.head_dim});
            a.lse = contiguous(out_lse.data(), DType::f32, {problem.batch, problem.heads, problem.max_seqlen_q});
        }
        if (c.fp8_kv) {
            const auto floats = [](std::vector<float>& v) { return contiguous(v.data(), DType::f32, {static_cast<std::int64_t>(v.size())}); };
            if (c.fp8) a.q_scale = floats(q_scale);
            a.k_scale = floats(k_scale);
            a.v_scale = floats(v_scale);
        }
        return a;
    }

    // v of this shape, or transposed, with rows of tokens padded to what TMA takes.
    TensorView values(void* data, std::initializer_list<std::int64_t> shape) const {
        TensorView view = contiguous(data, problem.kv_dtype, shape);
        if (!c.v_transposed) return view;
        const std::size_t seq = c.packed ? 0 : 1;
        const std::int64_t tokens = view.shape[seq], heads = problem.kv_heads, columns = problem.head_dim, row = padded(tokens);
        view.shape[seq] = heads;
        view.shape[seq + 1] = columns;
        view.shape[seq + 2] = tokens;
        view.strides[seq] = columns * row;
        view.strides[seq + 1] = row;
        if (!c.packed) view.strides[0] = heads * columns * row;
        return view;
    }
    static std::int64_t padded(std::int64_t tokens) { return (tokens + 15) / 16 * 16; }

    // v, which is as [.., tokens, heads, columns], with rows of tokens, and NaNs behind them and in sequences that nobody asks about.
    void transpose_values() {
        const std::int64_t heads = problem.kv_heads, columns = problem.head_dim;
        const std::int64_t tokens = c.packed ? problem.tokens_kv : problem.max_seqlen_kv, batch = c.packed ? 1 : problem.batch, row = padded(tokens);
        for (std::size_t s = 0; c.packed && s < c.q_lens.size(); ++s)
            if (c.q_lens[s] == 0) std::fill(v.begin() + cu_k[s] * heads * columns, v.begin() + cu_k[s + 1] * heads * columns, std::uint8_t{0x7f});
        std::vector<std::uint8_t> turned(static_cast<std::size_t>(batch * heads * columns * row), 0x7f);
        for (std::int64_t i = 0; i < batch * tokens; ++i)
            for (std::int64_t j = 0; j < heads * columns; ++j)
                turned[static_cast<std::size_t>((i / tokens * heads * columns + j) * row + i % tokens)] =
                    v[static_cast<std::size_t>(i * heads * columns + j)];
        v = std::move(turned);
        problem.v_transposed = true;
        problem.v = {c.packed ? 0 : heads * columns * row, row, columns * row};
    }

    // Multipliers between a half and two, or with integers one and two: of q by query head, of k and v by sequence and head, or all by blocks of
    // scale_block tokens.
    void make_scales(emulator::Random& random) {
        AttentionProblem& p = problem;
        const auto make = [&](std::vector<float>& scale, ScaleLayout& layout, std::int64_t heads, std::int64_t tokens) {
            const std::int64_t blocks = c.scale_block == 0 ? 1 : (tokens + c.scale_block - 1) / c.scale_block + 1;
            layout =
                c.scale_block == 0 ? ScaleLayout{ScaleKind::sequence, heads, 1, 0, 0} : ScaleLayout{ScaleKind::block, heads * blocks, blocks, 1, 0};
            scale.resize(static_cast<std::size_t>(p.batch * heads * blocks));
            for (float& x : scale) x = c.integers ? static_cast<float>(1 << random.below(2)) : 0.5f + 0.0625f * static_cast<float>(random.below(25));
        };
        // Of a sequence without keys no multiplier is read as a number.
        const auto spoil = [&](std::vector<float>& scale, const ScaleLayout& layout) {
            for (std::size_t i = 0; i < c.kv_lens.size(); ++i)
                if (c.kv_lens[i] == 0) std::fill_n(scale.begin() + static_cast<std::ptrdiff_t>(i) * layout.batch, layout.batch, std::nanf(""));
        };
        p.scale_block = c.scale_block;
        make(k_scale, p.k_scale, p.kv_heads, p.max_seqlen_kv);
        make(v_scale, p.v_scale, p.kv_heads, p.max_seqlen_kv);
        spoil(k_scale, p.k_scale);
        spoil(v_scale, p.v_scale);
        if (!c.fp8) return;
        make(q_scale, p.q_scale, p.kv_heads, p.max_seqlen_q);
        if (c.scale_block != 0) return spoil(q_scale, p.q_scale);
        q_scale.resize(static_cast<std::size_t>(p.heads), c.integers ? 1.0f : 0.75f);
        p.q_scale = {ScaleKind::head, 0, 1, 0, 0};
    }
};

Workload::Workload(const Case& c, std::uint64_t data_seed) : data_(std::make_unique<Data>()) {
    Data& d = *data_;
    d.c = c;
    AttentionProblem& p = d.problem;
    p.out_dtype = c.e4m3_out ? DType::e4m3 : c.f16 ? DType::f16 : DType::bf16;
    p.dtype = c.fp8 ? DType::e4m3 : p.out_dtype;
    p.kv_dtype = c.fp8_kv ? DType::e4m3 : p.dtype;
    p.packed = c.packed;
    p.causal = c.causal;
    p.batch = static_cast<std::int64_t>(c.q_lens.size());
    p.heads = c.heads;
    p.kv_heads = c.kv_heads;
    p.head_dim = c.head_dim;
    p.max_seqlen_q = *std::max_element(c.q_lens.begin(), c.q_lens.end());
    p.max_seqlen_kv = *std::max_element(c.kv_lens.begin(), c.kv_lens.end());
    p.tokens_q = std::accumulate(c.q_lens.begin(), c.q_lens.end(), std::int64_t{0});
    p.tokens_kv = std::accumulate(c.kv_lens.begin(), c.kv_lens.end(), std::int64_t{0});
    p.scale = c.integers ? std::numbers::ln2 : 1 / std::sqrt(static_cast<double>(c.head_dim));
    p.want_lse = true;
    const std::int64_t row = p.heads * p.head_dim, kv_row = p.kv_heads * p.head_dim;
    p.q = p.o = {c.packed ? 0 : p.max_seqlen_q * row, row, p.head_dim};
    p.k = p.v = {c.packed ? 0 : p.max_seqlen_kv * kv_row, kv_row, p.head_dim};
    d.cu_q.assign(1, 0);
    d.cu_k.assign(1, 0);
    for (int n : c.q_lens) d.cu_q.push_back(d.cu_q.back() + n);
    for (int n : c.kv_lens) d.cu_k.push_back(d.cu_k.back() + n);

    emulator::Random random(data_seed);
    const auto fill = [&](std::vector<std::uint8_t>& t, DType dtype, std::int64_t n, auto value) {
        const std::size_t bytes = static_cast<std::size_t>(size_of(dtype));
        t.resize(static_cast<std::size_t>(n) * bytes);
        for (std::size_t i = 0; i < t.size(); i += bytes) {
            const float v = value();
            const std::uint16_t x = dtype == DType::e4m3 ? emulator::to_e4m3(v) : c.f16 ? emulator::to_f16(v) : emulator::to_bf16(v);
            std::memcpy(&t[i], &x, bytes);
        }
    };
    const auto gaussian = [&] { return normal(random); };
    // 1 or -1 in one of `n`.
    const auto sign = [&](int n) { return random.one_in(static_cast<std::uint32_t>(n)) ? (random.one_in(2) ? 1.0f : -1.0f) : 0.0f; };
    if (c.integers) {
        // Four products of a logit are not 0, on average: over some hundred keys logits are less than 12 apart.
        fill(d.q, p.dtype, p.tokens_q * row, [&] { return sign(c.head_dim / 8); });
        fill(d.k, p.kv_dtype, p.tokens_kv * kv_row, [&] { return sign(2); });
        fill(d.v, p.kv_dtype, p.tokens_kv * kv_row, [&] { return static_cast<float>(random.below(9)) - 4; });
    } else {
        fill(d.q, p.dtype, p.tokens_q * row, gaussian);
        fill(d.k, p.kv_dtype, p.tokens_kv * kv_row, gaussian);
        fill(d.v, p.kv_dtype, p.tokens_kv * kv_row, gaussian);
        if (c.flushes) {
            // Of split jobs two keys, in two parts, whose sums are finite alone and have inverses.
            const bool two = c.split_jobs > 0;
            const float octaves = (two ? 125.5f : 126.7f) / 1.442695f * std::sqrt(static_cast<float>(p.head_dim)) / 32;
            std::vector<bool> first;
            for (const int n : c.kv_lens)
                for (int key = 0; key < n; ++key) first.push_back(key == 0 || (two && key == n / 2));
            std::int64_t i = 0;
            // Of even heads of every second eight rows alone: each row's sum must tell by itself.
            fill(d.q, p.dtype, p.tokens_q * row, [&] {
                const bool far = i / p.head_dim % p.heads % 2 == 1 || i / row / 8 % 2 == 1;
                return i++ % p.head_dim == 0 && far ? 32.0f : 0.0f;
            });
            i = 0;
            fill(d.k, p.kv_dtype, p.tokens_kv * kv_row, [&] {
                const bool far = first[static_cast<std::size_t>(i / kv_row)];
                return i++ % p.head_dim == 0 && far ? octaves : 0.0f;
            });
            fill(d.v, p.kv_dtype, p.tokens_kv * kv_row, [&] { return 0.25f * gaussian(); });
        }
        if (c.jumps) {
            std::int64_t i = 0;
            fill(d.q, p.dtype, p.tokens_q * row, [&] { return gaussian() * (i++ / p.head_dim % p.heads % 2 == 1 ? 60.0f : 3.0f); });
            std::vector<bool> first;
            for (const int n : c.kv_lens)
                for (int key = 0; key < n; ++key) first.push_back(key < n / 3);
            const auto whole = [&](int n) { return static_cast<float>(random.below(3)) * static_cast<float>(n) - static_cast<float>(n); };
            if (c.huge) {
                i = 0;
                fill(d.q, p.dtype, p.tokens_q * row, [&] { return i++ % p.head_dim == 0 ? 2048.0f : whole(4); });
                i = 0;
                fill(d.k, p.kv_dtype, p.tokens_kv * kv_row, [&] {
                    const bool jumps = first[static_cast<std::size_t>(i / kv_row)];
                    return i++ % p.head_dim == 0 ? 4096.0f : whole(jumps ? 8 : 1);
                });
            }
            i = 0;
            if (!c.huge) {
                fill(d.k, p.kv_dtype, p.tokens_kv * kv_row,
                     [&] { return gaussian() * (first[static_cast<std::size_t>(i++ / kv_row)] ? 20.0f : 1.0f); });
            }
        }
    }
    if (c.v_transposed) d.transpose_values();
    if (c.fp8_kv) d.make_scales(random);
    d.o.resize(static_cast<std::size_t>(p.tokens_q * row * size_of(p.out_dtype)));
    d.expected_o.resize(d.o.size());
    d.lse.resize(static_cast<std::size_t>(p.tokens_q * p.heads));
    d.expected_lse.resize(d.lse.size());
    if (auto r = oracle::attention(p, d.tensors(d.expected_o, d.expected_lse)); !r) throw std::runtime_error(r.error().text());
    DeviceInfo device;
    device.num_sms = c.blocks;
    d.plan = c.variant < 0 ? planner::choose(p, device) : planner::plan_variant(p, device, c.variant);
    if (!d.plan) throw std::runtime_error(d.plan.error().text());
    d.plan->backend = Backend::emulated;
    if (c.heads_per_group > 0) d.plan->heads_per_group = c.heads_per_group;
    if (c.split_jobs > 0) {
        const std::int64_t most = planner::splittable_jobs(planner::kernel_at(d.plan->variant), p, c.parts);
        const planner::Split split{std::min<std::int64_t>(c.split_jobs, most), c.parts};
        d.plan = planner::with_split(std::move(*d.plan), most > 0 ? split : planner::Split{}, c.blocks);
    }
}

Workload::~Workload() = default;

std::string Workload::kernel_name() const { return data_->plan->kernel; }

const Plan& Workload::plan() const { return *data_->plan; }
const std::vector<std::uint8_t>& Workload::output() const { return data_->o; }
const std::vector<float>& Workload::lse() const { return data_->lse; }

AttentionTensors Workload::tensors() {
    std::fill(data_->o.begin(), data_->o.end(), kUnwritten);
    std::fill(data_->lse.begin(), data_->lse.end(), std::nanf(""));
    return data_->tensors(data_->o, data_->lse);
}

Outcome Workload::run(const emulator::Options& options, const Runner& runner) {
    Data& d = *data_;
    Result<planner::LaunchSpec> spec = planner::make_launch(*d.plan, tensors());
    if (!spec) return {"error", spec.error().text(), 0};
    Result<emulator::Report> report = runner(*spec, options);
    if (!report) return {"error", report.error().text(), 0};
    if (!report->faults.empty()) return {report->faults[0].kind, report->faults[0].text, report->steps};
    // Tensor cores sum products of e4m3 with 13 fraction bits. Where logits jump, they are sums of products some hundred times their size.
    const float of_logits = d.c.fp8 && options.exact_sums ? 2e-2f : d.c.jumps ? 2e-3f : 2e-4f, of_size = d.c.jumps ? 2e-6f : 0;
    // Rounding to e4m3 moves each P by at most 1/16, so their sum by no more: the LSE by ln(1 - 1/16).
    const float of_sums = sums_by_products(planner::kernel_at(d.plan->variant)) ? 6.5e-2f : 0;
    for (std::size_t i = 0; i < d.lse.size(); ++i) {
        const float got = d.lse[i], want = d.expected_lse[i];
        if (!(got == want || std::fabs(got - want) < of_logits + of_size * std::fabs(want) + of_sums))
            return {"wrong", fmt::format("lse[{}] is {}, the oracle's {}", i, got, want), report->steps};
    }
    const std::size_t columns = static_cast<std::size_t>(d.problem.head_dim);
    // fp8: rounding P to e4m3 changes a weight by up to 1/16, so a row's size by no more; one element by more where few keys count and their values
    // are large in it. e4m3 outputs may be a step of 1/8 apart.
    float of_row = 0;
    // What rounding P to 16 bits costs goes by V's size, which multipliers of up to two raise beside a 16-bit q.
    const float of_values = d.c.fp8_kv && !d.c.fp8 ? 2.0f : 1.0f;
    const float of_row_size = d.c.e4m3_out ? 0.12f : 0.08f, of_element = d.c.e4m3_out ? 0.14f : 1.5e-2f;
    for (std::size_t i = 0; i < d.o.size() / static_cast<std::size_t>(size_of(d.problem.out_dtype)); ++i) {
        const float got = d.value(d.o, i), want = d.value(d.expected_o, i);
        if (d.c.fp8 && i % columns == 0) {
            float squares = 0, errors = 0;
            for (std::size_t j = i; j < i + columns; ++j) {
                const float exact = d.value(d.expected_o, j), error = d.value(d.o, j) - exact;
                squares += exact * exact;
                errors += error * error;
            }
            const float size = std::sqrt(squares / static_cast<float>(columns)), off = std::sqrt(errors / static_cast<float>(columns));
            if (!(off <= 2e-3f + of_row_size * size))
                return {"wrong", fmt::format("o[row {}] is off by {} (RMS), its size is {}", i / columns, off, size), report->steps};
            of_row = 0.5f * size;
        }
        if (!(std::fabs(got - want) <= 4e-3f * of_values + of_element * std::fabs(want) + of_row)) {
            const std::size_t row = static_cast<std::size_t>(d.problem.heads * d.problem.head_dim);
            return {"wrong", fmt::format("o[token {}, element {}] is {}, the oracle's {}", i / row, i % row, got, want), report->steps};
        }
    }
    return {"clean", "", report->steps};
}

namespace {

Case case_of(int variant) {
    const KernelConfig& k = planner::kernel_at(variant);
    Case c;
    c.name = planner::kernel_name(k);
    c.variant = variant;
    c.head_dim = k.head_dim;
    c.f16 = k.out == Elem::f16;
    c.e4m3_out = k.out == Elem::e4m3;
    c.fp8 = k.elem == Elem::e4m3;
    c.fp8_kv = kv_elem(k) == Elem::e4m3;
    c.scale_block = k.scale_block;
    c.v_transposed = k.v_transposed;
    c.causal = k.mask == Mask::causal;
    c.packed = k.packed;
    return c;
}

}  // namespace

namespace {

// What a kernel's problems are drawn from. Evidence holds outputs of these problems, so a kernel keeps its number when the catalogue grows: its rows
// that came after the first-use table, those with V given transposed, the mixed and the folded of FP8, count last; and what lies behind the eight
// mixed kernels of hd256 that once were there keeps its number, too. Widened kernels came after all of that, those that read V turned after them, and
// those that split jobs last: they count behind it, and the others as if they were not there.
int number_of(int variant) {
    constexpr int kGone = 8;
    using Kind = bool (*)(const KernelConfig&);
    std::vector<KernelConfig> catalogue = planner::kernel_table(), others = planner::first_use_table();
    int before = 0;  // of the kinds below
    for (const Kind newest : {Kind([](const KernelConfig& k) { return k.splits; }),
                              Kind([](const KernelConfig& k) { return k.v_turned && !k.splits; }),
                              Kind([](const KernelConfig& k) { return k.family == Family::prefill_widened; })}) {
        int of_kind = 0;
        for (int i = 0; i < variant; ++i) of_kind += newest(planner::kernel_at(i));
        std::erase_if(catalogue, newest);
        std::erase_if(others, newest);
        if (newest(planner::kernel_at(variant))) return static_cast<int>(catalogue.size() + others.size()) + kGone + of_kind;
        before += of_kind;
    }
    variant -= before;
    const auto came_later = [](const KernelConfig& k) {
        return k.v_transposed || k.family == Family::prefill_mixed || k.family == Family::prefill_fp8_folded;
    };
    const auto later = static_cast<int>(std::count_if(catalogue.begin(), catalogue.end(), came_later));
    const auto mixed = [](const KernelConfig& k) { return k.family == Family::prefill_mixed; };
    const auto behind = static_cast<int>(catalogue.size() + others.size() -
                                         static_cast<std::size_t>(std::find_if(others.rbegin(), others.rend(), mixed) - others.rbegin()));
    const int all = static_cast<int>(catalogue.size() + others.size()) + kGone, first = static_cast<int>(catalogue.size()) - later;
    return variant < first ? variant : variant < first + later ? all - first - later + variant : variant - later + (variant >= behind ? kGone : 0);
}

// Long problems of every kernel: three times as many KV blocks as `per_ring` says, and one, less a tail.
std::vector<Case> long_cases(bool per_ring) {
    std::vector<Case> cases;
    for (std::size_t i = 0; i < planner::kernel_table().size() + planner::first_use_table().size(); ++i) {
        const KernelConfig& k = planner::kernel_at(static_cast<int>(i));
        Case c = case_of(static_cast<int>(i));
        // Every second kernel of a class with columns that TMA pads.
        if (number_of(static_cast<int>(i)) % 4 >= 2) c.head_dim -= c.fp8_kv ? 16 : 8;
        const Geometry g = geometry(k);
        const int tile_m = 64 * k.consumers, blocks = 3 * k.stages * (per_ring ? g.rings : 1) + 1, long_kv = blocks * k.tile_n - 5;
        if (k.packed) {
            c.q_lens = {tile_m + 3, 0, 1, 65};
            c.kv_lens = {long_kv, 17, 2, k.tile_n + 1};
            if (c.causal) c.q_lens[3] = k.tile_n + 40;  // rows that see no key
            if (c.causal && per_ring) {
                // The first row sees all keys of a block but one, the last a key of the next block alone.
                c.q_lens.insert(c.q_lens.end() - 1, 3);
                c.kv_lens.insert(c.kv_lens.end() - 1, k.tile_n + 1);
            }
        } else {
            c.q_lens.assign(1, 2 * tile_m - 13);
            c.kv_lens.assign(1, long_kv);
        }
        // Three of four jobs, so that a block has whole ones and parts, and parts of two jobs.
        if (k.splits) c.split_jobs = c.parts = 3;
        cases.push_back(c);
    }
    return cases;
}

// A case's problem, for its name: outputs that are kept under it are of this problem and no other.
std::string problem_text(const Case& c) {
    return fmt::format("d{} h{}/{} q={} kv={}", c.head_dim, c.heads, c.kv_heads, fmt::join(c.q_lens, ","), fmt::join(c.kv_lens, ","));
}

}  // namespace

std::vector<Case> family_cases() { return long_cases(true); }

Case jumping_case(int variant, bool huge) {
    Case c = family_cases()[static_cast<std::size_t>(variant)];
    c.name += huge ? "_huge" : "_jumps";
    c.jumps = true;
    c.huge = huge;
    return c;
}

Case flushing_case(int variant) {
    Case c = family_cases()[static_cast<std::size_t>(variant)];
    c.name += "_flushes";
    c.flushes = true;
    return c;
}

Case long_job_case(int variant) {
    Case c = case_of(variant);
    c.name += "_long_job";
    c.blocks = 1;
    c.q_lens = {65};
    c.kv_lens = {18 * planner::kernel_at(variant).tile_n - 5};
    return c;
}

Case short_jobs_case(int variant) {
    Case c = case_of(variant);
    c.name += "_short_jobs";
    c.blocks = 1;
    const int tile_n = planner::kernel_at(variant).tile_n;
    if (!c.packed) {
        c.q_lens.assign(5, 70);
        c.kv_lens.assign(5, tile_n - 28);
        c.heads_per_group = 4;  // of ten heads: the last group has two
        return c;
    }
    c.q_lens = {40, 64, 1, 33, 64, 20, 9, 50, 64, 12};
    c.kv_lens = {50, tile_n + 1, 3, tile_n, 64, tile_n - 1, tile_n + 30, 50, 64, 12};
    return c;
}

Case random_case(int variant, std::uint64_t seed) {
    emulator::Random random(seed);
    const auto between = [&](int low, int high) { return low + static_cast<int>(random.below(static_cast<std::uint32_t>(high - low + 1))); };
    Case c = case_of(variant);
    const KernelConfig& k = planner::kernel_at(variant);
    if (random.one_in(3)) c.head_dim -= (c.fp8_kv ? 16 : 8) * between(0, 3);
    c.kv_heads = between(1, 2);
    c.heads = c.kv_heads * between(1, 3);
    c.blocks = between(1, 4);
    const int sequences = k.packed ? between(1, 5) : between(1, 2), longest_q = 128 * k.consumers, longest_kv = 5 * k.tile_n;
    c.q_lens.assign(static_cast<std::size_t>(sequences), between(1, longest_q));
    c.kv_lens.assign(static_cast<std::size_t>(sequences), between(1, longest_kv));
    if (k.packed) {
        for (int& n : c.q_lens) n = random.one_in(4) ? 0 : between(1, longest_q / 2);
        for (int& n : c.kv_lens) n = random.one_in(4) ? 0 : between(1, longest_kv / 2);
        // A batch of nothing but empty sequences has nothing to launch.
        c.q_lens[0] = between(1, longest_q);
        c.kv_lens[0] = between(1, longest_kv);
    } else {
        c.heads_per_group = between(0, c.heads * sequences);
    }
    const int blocks = ceil_div(c.kv_lens[0], k.tile_n);
    if (k.splits && blocks > 1) {
        c.split_jobs = between(1, ceil_div(c.q_lens[0], geometry(k).tile_m) * c.heads * sequences);
        c.parts = between(2, blocks);
    }
    return c;
}

bool travels(const KernelConfig& k) {
    const bool ragged = k.packed && k.mask == Mask::causal, plain = !k.packed && k.mask == Mask::full;
    if (is_mixed(k.family)) return k.elem == Elem::bf16 ? k.head_dim == 128 || ragged : plain;
    const auto& table = planner::kernel_table();
    if (std::find(table.begin(), table.end(), k) != table.end()) return true;
    return k.out != Elem::f16 && (k.scale_block == 64 ? ragged : plain);
}

std::vector<Case> integer_cases() {
    std::vector<Case> cases;
    for (const Case& long_case : long_cases(false))
        for (const bool random : {false, true}) {
            if (!travels(planner::kernel_at(long_case.variant))) continue;
            Case c = random ? random_case(long_case.variant, static_cast<std::uint64_t>(number_of(long_case.variant))) : long_case;
            c.name += " " + problem_text(c);
            // (A GPU has computed the random ones as they are planned.)
            if (random) c.split_jobs = 0;
            c.integers = true;
            cases.push_back(std::move(c));
        }
    return cases;
}

}  // namespace hopfill::testing

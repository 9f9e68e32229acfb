#include "quantize_workload.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <stdexcept>
#include <tuple>

#include "emulator/formats.h"
#include "emulator/random.h"

namespace hopfill::testing {
namespace {

constexpr std::uint8_t kUnwritten = 0xee;

float value(bool f16, std::uint16_t bits) { return f16 ? emulator::from_f16(bits) : emulator::from_bf16(bits); }

}  // namespace

QuantizeWorkload::QuantizeWorkload(const QuantizeCase& c, std::uint64_t data_seed) : c_(c) {
    AttentionProblem& p = problem_;
    p.packed = c.packed;
    p.batch = std::ssize(c.lens);
    p.heads = p.kv_heads = c.heads;
    p.head_dim = c.head_dim;
    p.max_seqlen_kv = *std::max_element(c.lens.begin(), c.lens.end());
    p.tokens_kv = std::accumulate(c.lens.begin(), c.lens.end(), std::int64_t{0});
    memory_.cu.assign(1, 0);
    for (const int n : c.lens) memory_.cu.push_back(memory_.cu.back() + n);
    const std::int64_t heads = c.heads, blocks = c.kind == ScaleKind::block ? (p.max_seqlen_kv + c.scale_block - 1) / c.scale_block : 1;
    std::int64_t scales = 1;
    layout_ = {c.kind, 0, 0, 0, 0};
    if (c.kind == ScaleKind::head) layout_.head = 1, scales = heads;
    if (c.kind == ScaleKind::sequence) layout_.batch = heads, layout_.head = 1, scales = p.batch * heads;
    if (c.kind == ScaleKind::block) layout_.batch = heads * blocks, layout_.head = blocks, layout_.block = 1, scales = p.batch * heads * blocks;
    if (c.kind == ScaleKind::channel) layout_.head = c.head_dim, layout_.channel = 1, scales = heads * c.head_dim;
    emulator::Random random(data_seed);
    memory_.in.resize(static_cast<std::size_t>(p.tokens_kv * heads * c.head_dim));
    for (std::size_t i = 0; i < memory_.in.size(); ++i) {
        // Eighths up to 16, larger in later channels.
        const float x = (static_cast<float>(random.below(129)) - 64) / 8 * static_cast<float>(1 + i % static_cast<std::size_t>(c.head_dim) / 24);
        memory_.in[i] = c.f16 ? emulator::to_f16(x) : emulator::to_bf16(x);
    }
    memory_.out.resize(memory_.in.size());
    memory_.scale.resize(static_cast<std::size_t>(scales));
    if (c.smoothed) memory_.mean.resize(static_cast<std::size_t>(p.batch * heads * c.head_dim));
    define();
}

// The definition: a scale is the greatest magnitude over 448, numbers are rounded once.
void QuantizeWorkload::define() {
    const std::size_t heads = static_cast<std::size_t>(c_.heads), dim = static_cast<std::size_t>(c_.head_dim);
    const std::size_t tokens = static_cast<std::size_t>(problem_.tokens_kv), seq = static_cast<std::size_t>(problem_.max_seqlen_kv);
    expected_out_.assign(memory_.out.size(), kUnwritten);
    expected_scale_.assign(memory_.scale.size(), c_.kind == ScaleKind::block ? std::nanf("") : kLeastScale);
    expected_mean_.assign(memory_.mean.size(), 0.0f);
    const auto each = [&](auto f) {
        for (std::size_t s = 0; s < c_.lens.size(); ++s)
            for (std::size_t h = 0; h < heads; ++h)
                for (std::size_t c = 0; c < dim; ++c) {
                    const auto begin = static_cast<std::size_t>(memory_.cu[s]), length = static_cast<std::size_t>(c_.lens[s]);
                    f(s, h, c, begin, length, expected_mean_.empty() ? nullptr : &expected_mean_[(s * heads + h) * dim + c]);
                }
    };
    const auto in = [&](std::size_t row, std::size_t h, std::size_t c) { return value(c_.f16, memory_.in[(row * heads + h) * dim + c]); };
    const auto scale = [&](std::size_t s, std::size_t h, std::size_t c, std::size_t token) -> float& {
        const std::int64_t block = c_.kind == ScaleKind::block ? static_cast<std::int64_t>(token) / c_.scale_block : 0;
        return expected_scale_[static_cast<std::size_t>(static_cast<std::int64_t>(s) * layout_.batch + static_cast<std::int64_t>(h) * layout_.head +
                                                        static_cast<std::int64_t>(c) * layout_.channel + block * layout_.block)];
    };
    each([&](std::size_t s, std::size_t h, std::size_t c, std::size_t begin, std::size_t length, float* mean) {
        if (mean != nullptr && length != 0) {
            float sum = 0;
            for (std::size_t t = 0; t < length; ++t) sum += in(begin + t, h, c);
            *mean = sum / static_cast<float>(length);
        }
        for (std::size_t t = 0; t < length; ++t) {
            const float magnitude = std::fabs(in(begin + t, h, c) - (mean != nullptr ? *mean : 0.0f));
            scale(s, h, c, t) = std::fmax(scale(s, h, c, t), std::fmax(magnitude / kGreatestE4m3, kLeastScale));
        }
    });
    each([&](std::size_t s, std::size_t h, std::size_t c, std::size_t begin, std::size_t length, const float* mean) {
        for (std::size_t t = 0; t < length; ++t) {
            const float x = in(begin + t, h, c) - (mean != nullptr ? *mean : 0.0f), inverse = 1.0f / scale(s, h, c, t);
            std::size_t at = ((begin + t) * heads + h) * dim + c;
            if (c_.transposed) at = c_.packed ? (h * dim + c) * tokens + begin + t : ((s * heads + h) * dim + c) * seq + t;
            expected_out_[at] = emulator::to_e4m3(x * inverse);
        }
    });
}

QuantizeWorkload::Memory& QuantizeWorkload::poisoned() {
    std::fill(memory_.out.begin(), memory_.out.end(), kUnwritten);
    std::fill(memory_.scale.begin(), memory_.scale.end(), std::nanf(""));
    std::fill(memory_.mean.begin(), memory_.mean.end(), std::nanf(""));
    return memory_;
}

Result<std::vector<planner::QuantizeLaunch>> QuantizeWorkload::launches(void* in, void* cu, void* out, void* scale, void* mean) const {
    const AttentionProblem& p = problem_;
    const std::int64_t heads = c_.heads, dim = c_.head_dim;
    const auto rows = [&](void* data, DType t) {
        return p.packed ? contiguous(data, t, {p.tokens_kv, heads, dim}) : contiguous(data, t, {p.batch, p.max_seqlen_kv, heads, dim});
    };
    planner::QuantizeWork work;
    work.in = rows(in, c_.f16 ? DType::f16 : DType::bf16);
    work.out = rows(out, DType::e4m3);
    if (c_.transposed)
        work.out = p.packed ? contiguous(out, DType::e4m3, {heads, dim, p.tokens_kv})
                            : contiguous(out, DType::e4m3, {p.batch, heads, dim, p.max_seqlen_kv});
    work.scale = contiguous(scale, DType::f32, {static_cast<std::int64_t>(memory_.scale.size())});
    if (c_.smoothed) work.mean = contiguous(mean, DType::f32, {p.batch, heads, dim});
    work.layout = layout_;
    work.scale_block = c_.scale_block;
    work.transposed = c_.transposed;
    return planner::make_launches(p, contiguous(cu, DType::i32, {p.batch + 1}), work);
}

std::vector<std::uint8_t> QuantizeWorkload::output() const {
    std::vector<std::uint8_t> bytes;
    const auto add = [&](const auto& v) {
        const std::size_t before = bytes.size();
        bytes.resize(before + v.size() * sizeof(v[0]));
        if (!v.empty()) std::memcpy(bytes.data() + before, v.data(), v.size() * sizeof(v[0]));
    };
    add(memory_.scale);
    add(memory_.mean);
    add(memory_.out);
    return bytes;
}

Outcome QuantizeWorkload::run(const emulator::Options& options, const Runner& runner) {
    Memory& m = poisoned();
    const auto all = launches(m.in.data(), m.cu.data(), m.out.data(), m.scale.data(), m.mean.data());
    if (!all) return {"error", all.error().text(), 0};
    Outcome outcome;
    for (const planner::QuantizeLaunch& launch : *all) {
        const emulator::Report report = runner(launch, options);
        outcome.steps += report.steps;
        if (!report.faults.empty()) return {report.faults[0].kind, planner::kernel_name(launch.config) + ": " + report.faults[0].text, outcome.steps};
    }
    const auto wrong = [&](const char* what, std::size_t i, auto got, auto want) {
        return Outcome{"wrong", fmt::format("{}[{}] is {}, and {} by the definition", what, i, got, want), outcome.steps};
    };
    const auto same = [](float a, float b) { return a == b || (std::isnan(a) && std::isnan(b)); };
    for (std::size_t i = 0; i < memory_.scale.size(); ++i)
        if (!same(memory_.scale[i], expected_scale_[i])) return wrong("scale", i, memory_.scale[i], expected_scale_[i]);
    for (std::size_t i = 0; i < memory_.mean.size(); ++i)
        if (!same(memory_.mean[i], expected_mean_[i])) return wrong("mean", i, memory_.mean[i], expected_mean_[i]);
    for (std::size_t i = 0; i < memory_.out.size(); ++i)
        if (memory_.out[i] != expected_out_[i]) return wrong("out", i, memory_.out[i], expected_out_[i]);
    return outcome;
}

namespace {

const char* text_of(ScaleKind kind) {
    switch (kind) {
        case ScaleKind::head:
            return "head";
        case ScaleKind::sequence:
            return "sequence";
        case ScaleKind::block:
            return "block";
        case ScaleKind::channel:
            return "channel";
        default:
            return "tensor";
    }
}

std::string name_of_case(const QuantizeCase& c) {
    const std::string block = c.scale_block == 0 ? "" : std::to_string(c.scale_block);
    return fmt::format("quantize_{}{}_{}_hd{}{}{}{}", text_of(c.kind), block, c.f16 ? "f16" : "bf16", c.head_dim,
                       c.packed ? "_packed" : "", c.smoothed ? "_smoothed" : "", c.transposed ? "_transposed" : "");
}

constexpr std::pair<ScaleKind, int> kKinds[] = {{ScaleKind::tensor, 0}, {ScaleKind::head, 0},    {ScaleKind::sequence, 0},
                                                {ScaleKind::block, 64}, {ScaleKind::block, 128}, {ScaleKind::channel, 0}};

}  // namespace

std::vector<QuantizeCase> quantize_cases() {
    std::vector<QuantizeCase> cases;
    const auto add = [&](ScaleKind kind, int block, int head_dim, bool packed, bool smoothed, bool transposed) {
        QuantizeCase c{"", kind, block, transposed != packed, packed, smoothed, transposed, 2, head_dim, {}};
        c.lens = packed ? std::vector<int>{3, 0, 195, 64} : std::vector<int>{131, 131};
        c.name = name_of_case(c);
        cases.push_back(std::move(c));
    };
    for (const auto& [kind, block] : kKinds)
        for (const bool packed : {false, true}) {
            add(kind, block, 48, packed, false, false);
            add(kind, block, 48, packed, false, true);
            if (kind != ScaleKind::channel) add(kind, block, 48, packed, true, false);
        }
    // Tiles of other lengths.
    for (const auto& [kind, block, head_dim] : {std::tuple{ScaleKind::sequence, 0, 112}, {ScaleKind::block, 64, 160}, {ScaleKind::block, 128, 160}}) {
        add(kind, block, head_dim, true, true, false);
        add(kind, block, head_dim, false, false, true);
    }
    return cases;
}

QuantizeCase random_quantize_case(std::uint64_t seed) {
    emulator::Random random(seed);
    const auto between = [&](int low, int high) { return low + static_cast<int>(random.below(static_cast<std::uint32_t>(high - low + 1))); };
    QuantizeCase c;
    std::tie(c.kind, c.scale_block) = kKinds[random.below(std::size(kKinds))];
    c.f16 = random.one_in(2);
    c.packed = random.one_in(2);
    c.transposed = random.one_in(2);
    c.smoothed = !c.transposed && c.kind != ScaleKind::channel && random.one_in(2);
    c.heads = between(1, 3);
    c.head_dim = 16 * between(1, 16);
    c.lens.assign(static_cast<std::size_t>(c.packed ? between(1, 5) : between(1, 2)), between(1, 300));
    if (c.packed) {
        for (int& n : c.lens) n = random.one_in(4) ? 0 : between(1, 200);
        c.lens[0] = between(1, 200);
    }
    c.name = name_of_case(c);
    return c;
}

std::vector<WidenCase> widen_cases() {
    // Several tokens a tile; more columns in a token than a thread block takes at once; fewer tokens than a tile has.
    return {{"widen_bf16", false, false, 2, 131, 3, 80}, {"widen_f16_packed", true, true, 3, 77, 2, 128},
            {"widen_bf16_packed", false, true, 1, 3, 70, 256}, {"widen_f16", true, false, 3, 5, 1, 16}};
}

// e4m3, with gaps between heads and tokens, which differ between k and v.
TensorView WidenWorkload::view(void* data, bool of_v) const {
    const std::int64_t head = c_.head_dim + (of_v ? 32 : 16), row = c_.heads * head + (of_v ? 0 : 48), batch = c_.seq * row + (of_v ? 16 : 0);
    TensorView t = contiguous(data, DType::e4m3, {c_.batch, c_.seq, c_.heads, c_.head_dim});
    t.strides = {batch, row, head, 1};
    if (c_.packed) {
        t = contiguous(data, DType::e4m3, {problem_.tokens_kv, c_.heads, c_.head_dim});
        t.strides = {row, head, 1};
    }
    return t;
}

WidenWorkload::WidenWorkload(const WidenCase& c) : c_(c) {
    AttentionProblem& p = problem_;
    p.packed = c.packed;
    p.batch = c.batch;
    p.heads = p.kv_heads = c.heads;
    p.head_dim = c.head_dim;
    p.max_seqlen_kv = c.seq;
    p.tokens_kv = c.batch * c.seq;
    const auto elements = static_cast<std::size_t>(p.tokens_kv * c.heads * c.head_dim);
    for (const bool of_v : {false, true}) {
        std::vector<std::uint8_t>& in = of_v ? memory_.v : memory_.k;
        std::vector<std::uint16_t>& expected = of_v ? expected_.v_out : expected_.k_out;
        const TensorView t = view(nullptr, of_v);
        const std::size_t seq = c.packed ? 0 : 1;
        in.assign(static_cast<std::size_t>((c.packed ? p.tokens_kv * t.strides[0] : c.batch * t.strides[0])), 0x35);
        for (std::size_t i = 0; i < elements; ++i) {
            const auto n = static_cast<std::int64_t>(i), column = n % c.head_dim, head = n / c.head_dim % c.heads, token = n / c.head_dim / c.heads;
            const std::int64_t at = (c.packed ? token * t.strides[0] : token / c.seq * t.strides[0] + token % c.seq * t.strides[seq]) +
                                    head * t.strides[seq + 1] + column;
            const auto byte = static_cast<std::uint8_t>(i * 37 + i / 256 + (of_v ? 101 : 0));
            in[static_cast<std::size_t>(at)] = byte;
            const float x = emulator::from_e4m3(byte);
            expected.push_back(c.f16 ? emulator::to_f16(x) : emulator::to_bf16(x));
        }
    }
    memory_.k_out.resize(elements);
    memory_.v_out.resize(elements);
}

WidenWorkload::Memory& WidenWorkload::poisoned() {
    std::fill(memory_.k_out.begin(), memory_.k_out.end(), std::uint16_t{0xeeee});
    std::fill(memory_.v_out.begin(), memory_.v_out.end(), std::uint16_t{0xeeee});
    return memory_;
}

planner::QuantizeLaunch WidenWorkload::launch(void* k, void* v, void* k_out, void* v_out) const {
    planner::QuantizeLaunch made = planner::make_widening(problem_, view(k, false), view(v, true), c_.f16 ? Elem::f16 : Elem::bf16);
    planner::place_copies(made, k_out, v_out);
    return made;
}

std::vector<std::uint8_t> WidenWorkload::output() const {
    std::vector<std::uint8_t> bytes;
    for (const auto* v : {&memory_.k_out, &memory_.v_out}) {
        const std::size_t before = bytes.size();
        bytes.resize(before + v->size() * sizeof((*v)[0]));
        std::memcpy(bytes.data() + before, v->data(), v->size() * sizeof((*v)[0]));
    }
    return bytes;
}

Outcome WidenWorkload::run(const emulator::Options& options, const QuantizeWorkload::Runner& runner) {
    Memory& m = poisoned();
    const emulator::Report report = runner(launch(m.k.data(), m.v.data(), m.k_out.data(), m.v_out.data()), options);
    if (!report.faults.empty()) return {report.faults[0].kind, report.faults[0].text, report.steps};
    for (const auto& [name, got, want] :
         {std::tuple{"k", &m.k_out, &expected_.k_out}, std::tuple{"v", &m.v_out, &expected_.v_out}})
        for (std::size_t i = 0; i < want->size(); ++i)
            if ((*got)[i] != (*want)[i])
                return {"wrong", fmt::format("{}[{}] is {:#06x}, and {:#06x} by the formats", name, i, (*got)[i], (*want)[i]), report.steps};
    return {"clean", "", report.steps};
}

}  // namespace hopfill::testing

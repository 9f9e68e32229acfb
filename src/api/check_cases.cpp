#include <fmt/format.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>

#include "api/check_internal.h"

namespace hopfill::check {
namespace {

constexpr std::array<std::string_view, 4> kInputs{"gaussian", "peaky", "rising", "large"};

struct FeatureName {
    std::string_view name;
    bool Features::*field;
};
constexpr std::array<std::string_view, 6> kScaleKinds{"none", "tensor", "head", "sequence", "block", "channel"};

constexpr std::array<FeatureName, 16> kFeatures{{{"f16", &Features::f16},
                                                 {"f32", &Features::f32},
                                                 {"head_dim", &Features::head_dim},
                                                 {"gqa", &Features::gqa},
                                                 {"causal", &Features::causal},
                                                 {"packed", &Features::packed},
                                                 {"empty", &Features::empty},
                                                 {"unequal", &Features::unequal},
                                                 {"strided", &Features::strided},
                                                 {"lse", &Features::lse},
                                                 {"scale", &Features::scale},
                                                 {"negative_scale", &Features::negative_scale},
                                                 {"inputs", &Features::inputs},
                                                 {"nan", &Features::nan},
                                                 {"long_kv", &Features::long_kv},
                                                 {"fp8", &Features::fp8}}};

// "4x512,7": runs of equal lengths are folded.
std::string text_of(const std::vector<std::int64_t>& lengths) {
    std::string text;
    for (std::size_t i = 0; i < lengths.size();) {
        std::size_t n = 1;
        while (i + n < lengths.size() && lengths[i + n] == lengths[i]) ++n;
        text += fmt::format("{}{}{}", text.empty() ? "" : ",", n > 1 ? fmt::format("{}x", n) : "", lengths[i]);
        i += n;
    }
    return text;
}

template <class T>
bool parse_number(std::string_view text, T& value) {
    const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
    return ec == std::errc{} && end == text.data() + text.size();
}

bool parse_lengths(std::string_view text, std::vector<std::int64_t>& lengths) {
    lengths.clear();
    while (true) {
        const std::string_view item = text.substr(0, text.find(','));
        const std::size_t x = item.find('x');
        std::int64_t n = 1, length = 0;
        if (x != std::string_view::npos && !parse_number(item.substr(0, x), n)) return false;
        if (!parse_number(x == std::string_view::npos ? item : item.substr(x + 1), length)) return false;
        if (n < 1 || n > 1 << 20 || length < 0 || length > 1 << 24) return false;
        lengths.insert(lengths.end(), static_cast<std::size_t>(n), length);
        if (item.size() == text.size()) return true;
        text.remove_prefix(item.size() + 1);
    }
}

bool parse_dtype(std::string_view text, DType& t) {
    for (DType candidate : {DType::f32, DType::f16, DType::bf16, DType::e4m3}) {
        if (text == name_of(candidate)) return t = candidate, true;
    }
    return false;
}

bool parse_word(std::string_view word, Case& c) {
    if (parse_dtype(word, c.dtype)) return c.kv_dtype = c.out_dtype = c.dtype, true;
    if (word == "vt") return c.v_transposed = true;
    if (word == "causal") return c.causal = true;
    if (word == "packed") return c.packed = true;
    if (word == "loose") return c.loose_bounds = true;
    if (word == "lse") return c.lse = true;
    const std::size_t eq = word.find('=');
    if (eq == std::string_view::npos) {
        if (word.starts_with('d')) return parse_number(word.substr(1), c.head_dim);
        const std::size_t slash = word.find('/');
        return word.starts_with('h') && slash != std::string_view::npos && parse_number(word.substr(1, slash - 1), c.heads) &&
               parse_number(word.substr(slash + 1), c.kv_heads);
    }
    const std::string_view key = word.substr(0, eq), value = word.substr(eq + 1);
    if (key == "q") return parse_lengths(value, c.q_lens);
    if (key == "kv") return parse_lengths(value, c.kv_lens);
    if (key == "kv_dtype") return parse_dtype(value, c.kv_dtype);
    if (key == "block") return parse_number(value, c.scale_block) && (c.scale_block == 64 || c.scale_block == 128);
    for (const auto& [name, kind] : {std::pair{"qs", &c.q_scale}, std::pair{"ks", &c.k_scale}, std::pair{"vs", &c.v_scale}}) {
        if (key != name) continue;
        const auto* at = std::find(kScaleKinds.begin(), kScaleKinds.end(), value);
        *kind = static_cast<ScaleKind>(at - kScaleKinds.begin());
        return at != kScaleKinds.end();
    }
    if (key == "out") return parse_dtype(value, c.out_dtype);
    if (key == "tail") return parse_number(value, c.tail) && c.tail >= 0;
    if (key == "layout") return parse_number(value, c.layout);
    if (key == "nan") return parse_number(value, c.nan);
    if (key == "seed") return parse_number(value, c.seed);
    if (key == "scale") return parse_number(value, c.scale.emplace()) && std::isfinite(*c.scale);
    if (key == "input") {
        const auto* at = std::find(kInputs.begin(), kInputs.end(), value);
        c.input = static_cast<Input>(at - kInputs.begin());
        return at != kInputs.end();
    }
    return false;
}

// A length of which tile edges are likely.
std::int64_t draw_length(Rng& rng, std::int64_t longest) {
    constexpr std::array<std::int64_t, 22> edges{1, 2, 7, 15, 16, 17, 63, 64, 65, 80, 96, 127, 128, 129, 176, 191, 192, 193, 255, 256, 257, 511};
    if (rng.one_in(3)) return std::min(rng.pick(edges), longest);
    const auto bits = static_cast<int>(rng.between(0, 10));
    return rng.between(1, std::max<std::int64_t>(1, longest >> (rng.one_in(2) ? 0 : std::min(bits, 6))));
}

std::int64_t work(const Case& c) {
    std::int64_t pairs = 0;
    for (std::size_t i = 0; i < c.q_lens.size(); ++i) pairs += c.q_lens[i] * c.kv_lens[i];
    return pairs * c.heads * c.head_dim;
}

void draw_lengths(Rng& rng, const Limits& limits, Case& c) {
    const Features& f = limits.features;
    const std::int64_t batch = c.packed ? rng.between(1, limits.max_batch) : rng.between(1, std::min<std::int64_t>(3, limits.max_batch));
    c.q_lens.clear();
    c.kv_lens.clear();
    for (std::int64_t i = 0; i < batch; ++i) {
        if (i > 0 && !c.packed) {
            c.q_lens.push_back(c.q_lens[0]);
            c.kv_lens.push_back(c.kv_lens[0]);
            continue;
        }
        std::int64_t q = draw_length(rng, limits.max_seq), kv = q;
        if (f.unequal && rng.one_in(2)) kv = draw_length(rng, limits.max_seq);
        if (f.empty && c.packed && rng.one_in(5)) {
            const std::int64_t which = rng.between(0, 2);
            if (which != 0) q = 0;
            if (which != 1) kv = 0;
        }
        c.q_lens.push_back(q);
        c.kv_lens.push_back(kv);
    }
    if (f.long_kv && rng.one_in(12)) {
        c.q_lens[0] = f.unequal ? rng.between(1, 300) : limits.max_seq;
        c.kv_lens[0] = f.unequal ? rng.between(2049, limits.max_seq * 8) : limits.max_seq;
        if (!c.packed) {
            c.q_lens.resize(1);
            c.kv_lens.resize(1);
        }
    }
}

// Makes a third of the cases FP8 ones. From numbers of its own, so that the other two thirds are what they are without the feature.
void draw_fp8(Rng rng, Case& c) {
    if (!rng.one_in(3)) return;
    const bool mixed = size_of(c.dtype) == 2 && rng.one_in(3);
    constexpr std::array<DType, 3> outputs{DType::bf16, DType::f16, DType::e4m3};
    c.kv_dtype = DType::e4m3;
    if (!mixed) {
        c.dtype = DType::e4m3;
        c.out_dtype = rng.pick(outputs);
    }
    c.head_dim = std::max<std::int64_t>(16, c.head_dim / 16 * 16);
    if (c.scale && *c.scale < 0) c.scale.reset();
    c.v_transposed = rng.one_in(3);
    const auto kind = [&](std::int64_t last) { return static_cast<ScaleKind>(rng.between(0, last)); };
    c.q_scale = mixed ? ScaleKind::none : kind(4);
    c.k_scale = kind(4);
    c.v_scale = kind(5);
    // [n, n] would be both [batch, kv_heads] and [kv_heads, head_dim], which is refused.
    if (static_cast<std::int64_t>(c.q_lens.size()) == c.kv_heads && c.kv_heads == c.head_dim) c.v_scale = ScaleKind::head;
    const bool blocks = c.q_scale == ScaleKind::block || c.k_scale == ScaleKind::block || c.v_scale == ScaleKind::block;
    c.scale_block = !blocks ? 0 : rng.one_in(2) ? 64 : 128;
}

}  // namespace

std::string to_string(const Case& c) {
    std::string text = fmt::format("{} d{} h{}/{}", name_of(c.dtype), c.head_dim, c.heads, c.kv_heads);
    if (c.kv_dtype != c.dtype) text += fmt::format(" kv_dtype={}", name_of(c.kv_dtype));
    if (c.out_dtype != c.dtype) text += fmt::format(" out={}", name_of(c.out_dtype));
    if (c.causal) text += " causal";
    if (c.packed) text += " packed";
    if (c.loose_bounds) text += " loose";
    text += fmt::format(" q={} kv={}", text_of(c.q_lens), text_of(c.kv_lens));
    if (c.tail != 0) text += fmt::format(" tail={}", c.tail);
    for (const auto& [name, kind] : {std::pair{"qs", c.q_scale}, std::pair{"ks", c.k_scale}, std::pair{"vs", c.v_scale}}) {
        if (kind != ScaleKind::none) text += fmt::format(" {}={}", name, kScaleKinds[static_cast<std::size_t>(kind)]);
    }
    if (c.scale_block != 0) text += fmt::format(" block={}", c.scale_block);
    if (c.v_transposed) text += " vt";
    if (c.scale) text += fmt::format(" scale={}", *c.scale);
    text += fmt::format(" input={}", kInputs[static_cast<std::size_t>(c.input)]);
    if (c.lse) text += " lse";
    if (c.layout != 0) text += fmt::format(" layout={}", c.layout);
    if (c.nan != 0) text += fmt::format(" nan={}", c.nan);
    return text + fmt::format(" seed={}", c.seed);
}

Result<Case> parse_case(std::string_view text) {
    Case c;
    c.lse = false;
    while (!text.empty()) {
        const std::string_view word = text.substr(0, text.find(' '));
        if (!word.empty() && !parse_word(word, c)) return Error{Code::invalid_argument, "case", fmt::format("'{}' is not a word of a case", word)};
        text.remove_prefix(std::min(text.size(), word.size() + 1));
    }
    const bool equal = c.q_lens.size() == c.kv_lens.size() && (c.packed || (std::ranges::count(c.q_lens, c.q_lens[0]) == std::ssize(c.q_lens) &&
                                                                            std::ranges::count(c.kv_lens, c.kv_lens[0]) == std::ssize(c.kv_lens)));
    if (!equal) return Error{Code::invalid_argument, "case", "q= and kv= must list one length for each sequence, all equal unless packed"};
    if (c.heads < 1 || c.kv_heads < 1 || c.heads % c.kv_heads != 0 || c.head_dim < 1) {
        return Error{Code::invalid_argument, "case", "heads must be a positive multiple of kv_heads, head_dim positive"};
    }
    const bool blocks = c.q_scale == ScaleKind::block || c.k_scale == ScaleKind::block || c.v_scale == ScaleKind::block;
    if (blocks != (c.scale_block != 0))
        return Error{Code::invalid_argument, "case", "block= goes with a scale by block, and a scale by block with it"};
    return c;
}

std::vector<std::string_view> feature_names() {
    std::vector<std::string_view> names;
    for (const FeatureName& f : kFeatures) names.push_back(f.name);
    return names;
}

Result<Features> parse_features(std::string_view list) {
    Features features;
    while (true) {
        const std::string_view word = list.substr(0, list.find(','));
        bool known = word == "all" || word.empty();
        for (const FeatureName& f : kFeatures) {
            if (word == "all" || word == f.name) features.*f.field = known = true;
        }
        if (!known)
            return Error{Code::invalid_argument, "features", fmt::format("'{}'; must be all or some of {}", word, fmt::join(feature_names(), ","))};
        if (word.size() == list.size()) return features;
        list.remove_prefix(word.size() + 1);
    }
}

Limits limits_for(Backend backend) {
    Limits limits;
    limits.features = *parse_features("all");
    if (backend == Backend::emulated) {
        limits.features.long_kv = limits.features.f32 = false;
        limits.max_seq = 300;
        limits.max_batch = 3;
        limits.max_heads = 4;
        limits.max_work = 8'000'000;
    } else if (backend == Backend::sm90 || backend == Backend::automatic) {
        limits.features.f32 = false;
        limits.max_seq = 1000;
        limits.max_work = 200'000'000;
    }
    return limits;
}

Case random_case(std::uint64_t seed, std::int64_t index, const Limits& limits) {
    Rng rng(seed, static_cast<std::uint64_t>(index));
    const Features& f = limits.features;
    Case c;
    c.seed = rng.bits() >> 32;
    const auto kind = rng.between(0, 5);
    c.dtype = kind >= 4 && f.f32 ? DType::f32 : (kind & 1) != 0 && f.f16 ? DType::f16 : DType::bf16;
    c.kv_dtype = c.out_dtype = c.dtype;
    c.causal = f.causal && rng.one_in(2);
    c.packed = f.packed && rng.one_in(2);
    c.lse = f.lse && rng.one_in(2);
    c.head_dim = rng.one_in(2) ? 64 : 128;
    if (f.head_dim && rng.one_in(2)) {
        constexpr std::array<std::int64_t, 12> common{32, 40, 64, 72, 80, 96, 112, 128, 160, 192, 224, 256};
        c.head_dim = rng.one_in(2) ? rng.pick(common) : 8 * rng.between(1, 32);
    }
    constexpr std::array<std::int64_t, 6> groups{1, 2, 4, 8, 12, 16};
    const std::int64_t group = f.gqa ? std::min(rng.pick(groups), limits.max_heads) : 1;
    c.kv_heads = f.gqa && rng.one_in(4) ? 1 : rng.between(1, std::max<std::int64_t>(1, std::min<std::int64_t>(8, limits.max_heads / group)));
    c.heads = c.kv_heads * group;
    draw_lengths(rng, limits, c);
    while (work(c) > limits.max_work) {
        if (c.kv_heads > 1) {
            c.heads = c.heads / c.kv_heads * (c.kv_heads / 2);
            c.kv_heads /= 2;
            continue;
        }
        for (auto* lengths : {&c.q_lens, &c.kv_lens}) {
            for (std::int64_t& length : *lengths) length -= length / 5;
        }
    }
    if (c.packed) {
        c.tail = rng.one_in(3) ? rng.between(1, 70) : 0;
        c.loose_bounds = rng.one_in(2);
    }
    if (f.scale && rng.one_in(3)) {
        constexpr std::array<double, 5> scales{1.0, 0.3, 0.02, 1e-4, 0.0};
        c.scale = rng.pick(scales);
    }
    if (f.negative_scale && rng.one_in(20)) c.scale = -0.1;
    if (f.inputs && rng.one_in(2)) c.input = static_cast<Input>(rng.between(0, 3));
    if (f.strided && rng.one_in(2)) c.layout = (rng.bits() >> 40) + 1;
    if (f.nan && rng.one_in(5) && std::ranges::max(c.kv_lens) <= 2048) c.nan = (rng.bits() >> 40) + 1;
    if (f.fp8) draw_fp8(Rng(seed, static_cast<std::uint64_t>(index), 8), c);
    return c;
}

std::vector<Case> evidence_grid() {
    constexpr std::array<std::int64_t, 10> head_dims{64, 128, 256, 192, 96, 80, 72, 32, 160, 224};
    constexpr std::array<std::int64_t, 14> lengths{1, 2, 63, 64, 65, 127, 128, 129, 511, 512, 513, 1000, 4096, 16384};
    constexpr std::array<std::int64_t, 6> groups{1, 2, 4, 8, 12, 16};
    constexpr std::array<std::array<std::int64_t, 2>, 8> unequal{
        {{1, 1000}, {1000, 1}, {65, 513}, {513, 65}, {128, 4096}, {300, 127}, {127, 300}, {512, 2048}}};
    std::vector<Case> grid;
    std::size_t n = 0;
    const auto add = [&](DType dtype, std::int64_t head_dim, bool causal, std::int64_t q, std::int64_t kv) {
        Case c;
        c.dtype = c.kv_dtype = c.out_dtype = dtype;
        c.head_dim = head_dim;
        c.causal = causal;
        // Every ratio meets every length over the head dimensions, dtypes and masks: 6 and the 22 shapes share only the factor 2.
        c.heads = groups[(n + n / 22) % groups.size()];
        c.kv_heads = 1;
        if (q * kv < 600 * 600) {
            c.heads *= 2;
            c.kv_heads *= 2;
        }
        const std::size_t batch = q * kv < 200 * 200 ? 2 : 1;
        c.q_lens.assign(batch, q);
        c.kv_lens.assign(batch, kv);
        c.input = static_cast<Input>(n / 3 % 4);
        c.layout = n % 5 == 4 ? n : 0;
        c.seed = 1000 + n++;
        grid.push_back(c);
    };
    for (std::int64_t head_dim : head_dims) {
        for (DType dtype : {DType::bf16, DType::f16}) {
            for (bool causal : {false, true}) {
                for (std::int64_t length : lengths) add(dtype, head_dim, causal, length, length);
                for (const auto& [q, kv] : unequal) add(dtype, head_dim, causal, q, kv);
            }
        }
    }
    Limits ragged;
    ragged.features = *parse_features("f16,head_dim,gqa,causal,packed,empty,unequal,strided,lse,inputs,nan");
    ragged.max_batch = 12;
    for (std::int64_t i = 0, found = 0; found < 200; ++i) {
        const Case c = random_case(20260725, i, ragged);
        if (!c.packed) continue;
        grid.push_back(c);
        ++found;
    }
    return grid;
}

}  // namespace hopfill::check

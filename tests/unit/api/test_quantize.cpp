// quantize_kv() against the definition in float64, attention over what it makes, and what it refuses.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <map>
#include <random>

#include "oracle/formats.h"
#include "tensors.h"

namespace hopfill {
namespace {

using ::testing::HasSubstr;
using testing::Tensors;

struct Kind {
    ScaleKind kind;
    std::int64_t block = 0;
};

// What a quantiser's caller holds, dense or packed, filled with numbers of which channel c is about c.
struct Call : QuantizeTensors {
    Tensors memory;
    QuantizeOptions options;
    std::vector<std::int32_t> cu;
    std::int64_t batch, heads, dim;

    Call(std::vector<std::int32_t> cu_seqlens, bool packed, DType dtype, Kind k_kind, Kind v_kind, bool smooth, bool transposed, int head_dim = 48)
        : cu(std::move(cu_seqlens)), batch(std::ssize(cu) - 1), heads(head_dim == 48 ? 3 : 2), dim(head_dim) {
        const std::int64_t tokens = cu.back(), seq = tokens / batch;
        const auto make = [&](DType t, bool turned) {
            if (packed) return turned ? memory.add(t, {heads, dim, tokens}) : memory.add(t, {tokens, heads, dim});
            return turned ? memory.add(t, {batch, heads, dim, seq}) : memory.add(t, {batch, seq, heads, dim});
        };
        std::int64_t longest = 0;
        for (std::size_t i = 0; i + 1 < cu.size(); ++i) longest = std::max<std::int64_t>(longest, cu[i + 1] - cu[i]);
        const auto scale = [&](Kind kind) -> TensorView {
            switch (kind.kind) {
                case ScaleKind::head:
                    return memory.add(DType::f32, {heads});
                case ScaleKind::sequence:
                    return memory.add(DType::f32, {batch, heads});
                case ScaleKind::block:
                    options.scale_block = kind.block;
                    return memory.add(DType::f32, {batch, heads, (longest + kind.block - 1) / kind.block});
                case ScaleKind::channel:
                    return memory.add(DType::f32, {heads, dim});
                default:
                    return memory.add(DType::f32, {1});
            }
        };
        k = make(dtype, false), v = make(dtype, false);
        k_out = make(DType::e4m3, false), v_out = make(DType::e4m3, transposed);
        k_scale = scale(k_kind), v_scale = scale(v_kind);
        if (smooth) k_mean = memory.add(DType::f32, {batch, heads, dim});
        if (packed) {
            cu_seqlens_k = contiguous(cu.data(), DType::i32, {batch + 1});
            options.max_seqlen_kv = longest;
        }
        options.v_transposed = transposed;
        std::mt19937 engine(5);
        for (const TensorView& t : {k, v}) {
            for (std::int64_t i = 0; i < t.elements(); ++i) {
                const double noise = static_cast<double>(static_cast<int>(engine() % 4001) - 2000) / 1000;
                oracle::store(t.dtype, t.data, i, noise * (1 + static_cast<double>(i / dim % heads)) + static_cast<double>(i % dim) / 8);
            }
        }
    }

    [[nodiscard]] bool packed() const { return k.rank == 3; }
    [[nodiscard]] std::int64_t begin(std::int64_t s) const { return cu[static_cast<std::size_t>(s)]; }
    [[nodiscard]] std::int64_t length(std::int64_t s) const { return cu[static_cast<std::size_t>(s) + 1] - begin(s); }
    // Contiguous tensors of [tokens, heads, dim] have the same offsets dense and packed.
    [[nodiscard]] double load(const TensorView& t, std::int64_t s, std::int64_t token, std::int64_t h, std::int64_t c) const {
        return oracle::load(t.dtype, t.data, ((begin(s) + token) * heads + h) * dim + c);
    }
    [[nodiscard]] double stored_value(std::int64_t s, std::int64_t token, std::int64_t h, std::int64_t c) const {
        if (!options.v_transposed) return load(v_out, s, token, h, c);
        const std::int64_t at = packed() ? (h * dim + c) * cu.back() + begin(s) + token : ((s * heads + h) * dim + c) * length(s) + token;
        return oracle::load(DType::e4m3, v_out.data, at);
    }
};

// The definition: scales are the greatest magnitudes over 448, numbers are rounded once.
void expect_quantised(const Call& call, bool keys) {
    const TensorView &in = keys ? call.k : call.v, &scale = keys ? call.k_scale : call.v_scale;
    const bool smooth = keys && call.k_mean.present();
    std::map<const float*, double> greatest;
    const auto place = [&](std::int64_t s, std::int64_t token, std::int64_t h, std::int64_t c) {
        const auto* x = static_cast<const float*>(scale.data);
        if (scale.rank == 1) return x + (scale.shape[0] == 1 ? 0 : h);
        if (scale.rank == 3) return x + (s * call.heads + h) * scale.shape[2] + token / *call.options.scale_block;
        return scale.shape[1] == call.dim ? x + h * call.dim + c : x + s * call.heads + h;
    };
    const auto each = [&](auto f) {
        for (std::int64_t s = 0; s < call.batch; ++s)
            for (std::int64_t h = 0; h < call.heads; ++h)
                for (std::int64_t c = 0; c < call.dim; ++c) {
                    float mean = 0;
                    if (smooth) {
                        double sum = 0;
                        for (std::int64_t token = 0; token < call.length(s); ++token) sum += call.load(in, s, token, h, c);
                        mean = static_cast<const float*>(call.k_mean.data)[(s * call.heads + h) * call.dim + c];
                        ASSERT_NEAR(mean, call.length(s) == 0 ? 0 : sum / static_cast<double>(call.length(s)), 1e-5);
                    }
                    for (std::int64_t token = 0; token < call.length(s); ++token) {
                        f(s, token, h, c, static_cast<float>(call.load(in, s, token, h, c)) - mean);
                    }
                }
    };
    each([&](std::int64_t s, std::int64_t token, std::int64_t h, std::int64_t c, float x) {
        double& most = greatest[place(s, token, h, c)];
        most = std::max(most, std::fabs(static_cast<double>(x)));
    });
    for (const auto& [at, most] : greatest) ASSERT_EQ(*at, static_cast<float>(most) / 448);
    each([&](std::int64_t s, std::int64_t token, std::int64_t h, std::int64_t c, float x) {
        const double got = keys ? call.load(call.k_out, s, token, h, c) : call.stored_value(s, token, h, c);
        const float inverse = 1 / *place(s, token, h, c);
        const oracle::Format f = oracle::format_of(DType::e4m3);
        ASSERT_EQ(got, oracle::decode(f, oracle::encode_saturated(f, static_cast<double>(x * inverse)))) << s << " " << token << " " << h << " " << c;
    });
}

void check_kinds(Backend backend, int head_dim, const std::vector<Kind>& kinds) {
    for (const Kind& v_kind : kinds) {
        const Kind k_kind = v_kind.kind == ScaleKind::channel ? Kind{ScaleKind::tensor} : v_kind;
        for (const bool packed : {false, true}) {
            for (const bool turned : {false, true}) {
                SCOPED_TRACE(static_cast<int>(v_kind.kind));
                const DType dtype = turned ? DType::f16 : DType::bf16;
                // Sequences of which the kernels' last tile has three tokens, too few for its sums' place in the output.
                Call call(packed ? std::vector<std::int32_t>{0, 3, 3, 198, 264} : std::vector<std::int32_t>{0, 131, 262}, packed, dtype, k_kind,
                          v_kind, turned, turned, head_dim);
                call.options.backend = backend;
                const Result<void> done = quantize_kv(call, call.options);
                ASSERT_TRUE(done) << done.error().text();
                expect_quantised(call, true);
                expect_quantised(call, false);
            }
        }
    }
}

const std::vector<Kind> kKinds{{ScaleKind::tensor},    {ScaleKind::head},       {ScaleKind::sequence},
                               {ScaleKind::block, 64}, {ScaleKind::block, 128}, {ScaleKind::channel}};

TEST(Quantize, EveryKindOfScale) { check_kinds(Backend::cpu, 48, kKinds); }
TEST(Quantize, EveryKindOfScaleInTheKernels) { check_kinds(Backend::emulated, 48, kKinds); }
// Tiles of another length, threads left over, and twice the registers.
TEST(Quantize, MoreChannelsInTheKernels) {
    check_kinds(Backend::emulated, 80, {{ScaleKind::sequence}, {ScaleKind::block, 64}, {ScaleKind::channel}});
    check_kinds(Backend::emulated, 192, {{ScaleKind::block, 64}, {ScaleKind::block, 128}, {ScaleKind::channel}});
}

class NotFinite : public ::testing::TestWithParam<Backend> {};
INSTANTIATE_TEST_SUITE_P(Quantize, NotFinite, ::testing::Values(Backend::cpu, Backend::emulated));

TEST_P(NotFinite, NumbersBecomeTheGreatestOrStayNaN) {
    Call call({0, 70}, false, DType::bf16, {ScaleKind::head}, {ScaleKind::sequence}, false, false);
    auto* v = static_cast<std::uint16_t*>(call.v.data);
    v[0] = 0x7f80, v[1] = 0xff80, v[2] = 0x7fc0;
    call.options.backend = GetParam();
    ASSERT_TRUE(quantize_kv(call, call.options));
    const auto* out = static_cast<const std::uint8_t*>(call.v_out.data);
    EXPECT_EQ(out[0], 0x7e);
    EXPECT_EQ(out[1], 0xfe);
    EXPECT_EQ(out[2], 0x7f);
    EXPECT_LT(static_cast<const float*>(call.v_scale.data)[0], 1);
}

TEST(Quantize, ZerosAndTinyNumbers) {
    Call call({0, 70}, false, DType::bf16, {ScaleKind::tensor}, {ScaleKind::tensor}, false, false);
    std::fill_n(static_cast<std::uint16_t*>(call.k.data), call.k.elements(), std::uint16_t{0});
    std::fill_n(static_cast<std::uint16_t*>(call.v.data), call.v.elements(), std::uint16_t{1});  // 2^-133
    ASSERT_TRUE(quantize_kv(call, call.options));
    EXPECT_EQ(*static_cast<const float*>(call.k_scale.data), 0x1p-126f);
    EXPECT_EQ(static_cast<const std::uint8_t*>(call.k_out.data)[5], 0);
    EXPECT_TRUE(std::isfinite(1 / *static_cast<const float*>(call.v_scale.data)));
}

TEST(Quantize, OneTensorAlone) {
    Call call({0, 70}, false, DType::f16, {ScaleKind::tensor}, {ScaleKind::channel}, false, true);
    call.k = call.k_out = call.k_scale = {};
    ASSERT_TRUE(quantize_kv(call, call.options));
    expect_quantised(call, false);
}

// o is that of the 16-bit keys but for 8-bit rounding, which smoothing makes smaller where keys share an offset; restore_lse() brings the lse back.
TEST(Quantize, SmoothedKeysGiveTheSameAttention) {
    double error[2];
    for (const bool smooth : {false, true}) {
        Call call({0, 200}, false, DType::bf16, {ScaleKind::sequence}, {ScaleKind::channel}, smooth, false);
        ASSERT_TRUE(quantize_kv(call, call.options));
        AttentionTensors t;
        t.q = call.memory.add(DType::bf16, {1, 40, 6, 48});
        std::mt19937 engine(9);
        for (std::int64_t i = 0; i < t.q.elements(); ++i) {
            oracle::store(DType::bf16, t.q.data, i, static_cast<double>(static_cast<int>(engine() % 2001) - 1000) / 1000);
        }
        t.k = call.k, t.v = call.v;
        t.o = call.memory.add(DType::f32, {1, 40, 6, 48});
        t.lse = call.memory.add(DType::f32, {1, 6, 40});
        AttentionTensors eight = t;
        eight.k = call.k_out, eight.v = call.v_out, eight.k_scale = call.k_scale, eight.v_scale = call.v_scale;
        eight.o = call.memory.add(DType::f32, {1, 40, 6, 48});
        eight.lse = call.memory.add(DType::f32, {1, 6, 40});
        AttentionOptions options;
        options.causal = true;
        options.backend = Backend::oracle;
        ASSERT_TRUE(attention(t, options));
        ASSERT_TRUE(attention(eight, options));
        if (smooth) {
            ASSERT_TRUE(restore_lse(eight, options, call.k_mean));
        }
        double squares = 0;
        for (std::int64_t i = 0; i < t.lse.elements(); ++i) {
            squares += std::pow(static_cast<const float*>(t.lse.data)[i] - static_cast<const float*>(eight.lse.data)[i], 2);
        }
        error[smooth] = std::sqrt(squares / static_cast<double>(t.lse.elements()));
        for (std::int64_t i = 0; i < t.o.elements(); ++i) {
            EXPECT_NEAR(static_cast<const float*>(t.o.data)[i], static_cast<const float*>(eight.o.data)[i], 0.6);
        }
    }
    EXPECT_LT(error[1], 0.7 * error[0]);
    EXPECT_LT(error[1], 0.05);
}

TEST(Quantize, RefusesWhatDoesNotAgree) {
    struct Bad {
        std::function<void(Call&)> spoil;
        const char *argument, *message;
    };
    const std::vector<Bad> cases{
        {[](Call& c) { c.k = c.v = {}; }, "k", "absent"},
        {[](Call& c) { c.k.dtype = DType::f32; }, "k", "f16 and bf16"},
        {[](Call& c) { c.k_out.dtype = DType::bf16; }, "k_out", "e4m3 is needed"},
        {[](Call& c) { c.k_out = {}; }, "k_out", "absent"},
        {[](Call& c) { c.v_scale = {}; }, "v_scale", "absent"},
        {[](Call& c) { c.k_scale.shape[0] = 2; }, "k_scale", "[1] or [3]"},
        {[](Call& c) { c.options.v_transposed = true; }, "v_out.shape[1]", "transposed"},
        {[](Call& c) { c.options.scale_block = 64; }, "scale_block", "there is none"},
        {[](Call& c) { c.options.max_seqlen_kv = 64; }, "max_seqlen_kv", "dense"},
        {[](Call& c) { c.v_out.data = c.v.data; }, "v_out", "overlaps v"},
        {[](Call& c) { c.k_out.strides[1] = 0; }, "k_out", "overlap"},
        {[](Call& c) {
             c.k_mean = c.memory.add(DType::f32, {1, 3, 16});
         },
         "k_mean.shape[2]", "48"},
        {[](Call& c) {
             c.k = c.k_out = c.k_scale = {}, c.k_mean = c.memory.add(DType::f32, {1, 3, 48});
         },
         "k_mean", "without k"},
        {[](Call& c) { c.options.backend = Backend::oracle; }, "backend", "oracle"},
    };
    for (const Bad& bad : cases) {
        Call call({0, 70}, false, DType::bf16, {ScaleKind::tensor}, {ScaleKind::tensor}, false, false);
        bad.spoil(call);
        const Result<void> done = quantize_kv(call, call.options);
        ASSERT_FALSE(done) << bad.argument << " " << bad.message;
        EXPECT_EQ(done.error().argument, bad.argument);
        EXPECT_THAT(done.error().message, HasSubstr(bad.message));
    }
    Call ragged({0, 70, 60}, true, DType::bf16, {ScaleKind::tensor}, {ScaleKind::tensor}, false, false);
    EXPECT_EQ(quantize_kv(ragged, ragged.options).error().argument, "cu_seqlens_k");
}

}  // namespace
}  // namespace hopfill

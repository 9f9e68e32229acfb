// The host backend against the oracle, on every SIMD target of this machine.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <hwy/targets.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "cpu/backend.h"
#include "cpu/convert.h"
#include "hopfill/check.h"
#include "hopfill/quantize.h"
#include "oracle/formats.h"
#include "oracle/oracle.h"

namespace hopfill::cpu {
namespace {

using testing::HasSubstr;
using testing::IsEmpty;

// The backend alone, without plan and API.
class CpuTarget : public check::Target {
public:
    CpuTarget() : Target(Backend::cpu) {}
    Result<void> run(const AttentionProblem& problem, const AttentionTensors& tensors, const AttentionOptions&, std::uint64_t) override {
        return attention(problem, tensors);
    }
};

check::Summary check_seed(std::uint64_t seed, std::int64_t cases, const char* features = "all") {
    CpuTarget target;
    check::Options options;
    options.seed = seed;
    options.cases = cases;
    options.features = features;
    const Result<check::Summary> summary = check::run(options, target);
    EXPECT_TRUE(summary.ok());
    EXPECT_EQ(summary->passed + summary->failed, cases);
    return *summary;
}

check::Outcome check_text(const char* text, bool keep_output = false) {
    CpuTarget target;
    const Result<check::Case> c = check::parse_case(text);
    EXPECT_TRUE(c.ok()) << text;
    check::RunOptions options;
    options.keep_output = keep_output;
    check::Outcome outcome = check::run_case(*c, target, options);
    EXPECT_EQ(outcome.status, check::Outcome::Status::passed) << text << ": " << outcome.text;
    return outcome;
}

TEST(CpuConversions, EveryF16AndBf16) {
    for (std::uint32_t bits = 0; bits < 65536; ++bits) {
        const auto x = static_cast<std::uint16_t>(bits);
        const double f16 = oracle::decode(oracle::format_of(DType::f16), bits), bf16 = oracle::decode(oracle::format_of(DType::bf16), bits);
        ASSERT_TRUE(from_f16(x) == f16 || (std::isnan(f16) && std::isnan(from_f16(x)))) << bits;
        ASSERT_TRUE(from_bf16(x) == bf16 || (std::isnan(bf16) && std::isnan(from_bf16(x)))) << bits;
    }
}

TEST(CpuConversions, EveryE4m3) {
    for (std::uint32_t bits = 0; bits < 256; ++bits) {
        const double want = oracle::decode(oracle::format_of(DType::e4m3), bits);
        const float got = from_e4m3(static_cast<std::uint8_t>(bits));
        ASSERT_TRUE(got == want || (std::isnan(want) && std::isnan(got))) << bits;
        ASSERT_EQ(to_e4m3(got), std::isnan(want) ? 0x7fu : bits);
    }
}

TEST(CpuConversions, E4m3RoundsAndSaturatesAsTheOracleDoes) {
    const oracle::Format f = oracle::format_of(DType::e4m3);
    for (std::uint32_t high = 0; high < 1u << 16; ++high) {
        for (std::uint32_t low : {0u, 1u, 0x7fffu, 0xffffu}) {
            const float x = std::bit_cast<float>(high << 16 | low);
            ASSERT_EQ(to_e4m3(x), oracle::encode_saturated(f, x)) << x;
        }
    }
    EXPECT_EQ(to_e4m3(1e30f), 0x7e);
    EXPECT_EQ(to_e4m3(-std::numeric_limits<float>::infinity()), 0xfe);
    EXPECT_EQ(to_e4m3(464.0f), 0x7e);
}

TEST(CpuConversions, RoundAsTheOracleDoes) {
    std::mt19937 engine(7);
    const auto same = [](float x) {
        for (const auto& [t, bits] : {std::pair{DType::f16, to_f16(x)}, std::pair{DType::bf16, to_bf16(x)}}) {
            const oracle::Format f = oracle::format_of(t);
            if (std::isnan(x) ? !std::isnan(oracle::decode(f, bits)) : oracle::encode(f, x) != bits) return false;
        }
        return true;
    };
    for (std::uint32_t high = 0; high < 65536; ++high) {
        // Around every tie of both formats.
        for (std::uint32_t low :
             {0u, 1u, 0xfffu, 0x1000u, 0x1001u, 0x3000u, 0x7fffu, 0x8000u, 0x8001u, static_cast<std::uint32_t>(engine() & 0xffffu)}) {
            const float x = std::bit_cast<float>(high << 16 | low);
            ASSERT_TRUE(same(x)) << x;
        }
    }
}

TEST(Cpu, RandomProblems) { EXPECT_THAT(check_seed(11, 80).failures, IsEmpty()); }

TEST(Cpu, RaggedBatches) { EXPECT_THAT(check_seed(12, 40, "f16,f32,packed,empty,unequal,causal,gqa,lse,nan,head_dim").failures, IsEmpty()); }

TEST(Cpu, Fp8) {
    EXPECT_THAT(check_seed(15, 60, "fp8,f16,head_dim,gqa,causal,packed,empty,unequal,strided,lse,scale,inputs,nan").failures, IsEmpty());
}

TEST(Cpu, Fp8ScalesOfEveryKind) {
    for (const char* kinds : {"qs=tensor ks=tensor vs=tensor", "qs=head ks=head vs=head", "qs=sequence ks=sequence vs=sequence", "vs=channel",
                              "qs=block ks=block vs=block block=64", "ks=block vs=channel block=128", "qs=block block=128"}) {
        for (const char* shape : {"h4/2 causal q=2x70 kv=2x200", "h6/3 packed q=5,0,129 kv=70,300,128 tail=9", "h2/1 causal q=2x70 kv=2x200 vt",
                                  "h4/4 packed q=5,33 kv=129,64 tail=3 vt"}) {
            for (const char* types : {"e4m3 out=bf16 d64", "e4m3 d48", "e4m3 out=f32 d128"}) {
                check_text((std::string(types) + " " + shape + " " + kinds + " input=gaussian lse layout=3 seed=6").c_str());
            }
        }
    }
    check_text("bf16 kv_dtype=e4m3 d128 h8/2 causal q=2x33 kv=2x300 ks=block vs=channel block=64 input=peaky lse seed=2");
    check_text("f16 kv_dtype=e4m3 d64 h2/2 packed q=50,7 kv=40,300 ks=head input=rising lse seed=2");
}

// The checker allows what an e4m3 P costs; float32 arithmetic on E4M3 inputs must do as well as on the numbers that they stand for.
TEST(Cpu, Fp8IsFloat32OfTheDequantisedInputs) {
    constexpr std::int64_t kTokens = 300, kDim = 48, kBlocks = 3;
    std::mt19937 engine(3);
    const auto draw = [&engine] { return static_cast<float>(static_cast<int>(engine() % 2001) - 1000) / 250; };
    std::vector<std::uint8_t> q(kTokens * kDim), k(q.size()), v(q.size()), vt(q.size());
    std::vector<float> qf(q.size()), kf(q.size()), vf(q.size()), of(q.size()), o(q.size()), ot(q.size());
    std::vector<float> q_scale{0.5f, 0.7f, 1.3f}, k_scale{0.9f, 0.2f, 1.1f}, v_scale(kDim);
    for (float& x : v_scale) x = 0.1f + std::fabs(draw());
    for (std::size_t i = 0; i < q.size(); ++i) {
        const std::size_t token = i / kDim, c = i % kDim;
        q[i] = to_e4m3(draw()), k[i] = to_e4m3(draw()), v[i] = to_e4m3(draw());
        vt[c * kTokens + token] = v[i];
        qf[i] = from_e4m3(q[i]) * q_scale[token / 128], kf[i] = from_e4m3(k[i]) * k_scale[token / 128], vf[i] = from_e4m3(v[i]) * v_scale[c];
    }
    const auto view = [](void* data, DType t) { return contiguous(data, t, {1, kTokens, 1, kDim}); };
    AttentionTensors t;
    t.q = view(qf.data(), DType::f32), t.k = view(kf.data(), DType::f32), t.v = view(vf.data(), DType::f32), t.o = view(of.data(), DType::f32);
    AttentionOptions options;
    options.causal = true;
    options.backend = Backend::cpu;
    ASSERT_TRUE(hopfill::attention(t, options));
    t.q = view(q.data(), DType::e4m3), t.k = view(k.data(), DType::e4m3), t.v = view(v.data(), DType::e4m3), t.o = view(o.data(), DType::f32);
    t.q_scale = contiguous(q_scale.data(), DType::f32, {1, 1, kBlocks});
    t.k_scale = contiguous(k_scale.data(), DType::f32, {1, 1, kBlocks});
    t.v_scale = contiguous(v_scale.data(), DType::f32, {1, kDim});
    options.scale_block = 128;
    const Result<void> done = hopfill::attention(t, options);
    ASSERT_TRUE(done) << done.error().text();
    EXPECT_EQ(o, of);
    t.v = contiguous(vt.data(), DType::e4m3, {1, 1, kDim, kTokens});
    t.o = view(ot.data(), DType::f32);
    options.v_transposed = true;
    ASSERT_TRUE(hopfill::attention(t, options));
    EXPECT_EQ(ot, of);
}

// A code that one key's V holds comes back when its logit stands ln(keys) + 3 above the rest.
TEST(Cpu, Fp8FindsTheNeedle) {
    constexpr std::int64_t kKeys = 65536, kDim = 64;
    std::vector<std::uint8_t> q(kDim), k(kKeys * kDim), v(k.size());
    std::vector<float> o(kDim), k_scale{1.0f / 8};
    for (std::uint64_t seed = 1; seed <= 3; ++seed) {
        std::mt19937_64 engine(seed);
        for (std::uint8_t& x : v) x = static_cast<std::uint8_t>(engine() % 2 == 0 ? 0x38 : 0xb8);  // +-1
        const auto needle = static_cast<std::size_t>(engine() % kKeys);
        for (std::uint8_t& x : q) x = 0x38;
        std::fill(k.begin(), k.end(), std::uint8_t{0});
        // The logit is d * 15 / 8 / sqrt(d) = 15, and ln 65536 + 3 = 14.1; the others are 0.
        for (std::size_t c = 0; c < kDim; ++c) k[needle * kDim + c] = to_e4m3(15);
        AttentionTensors t;
        t.q = contiguous(q.data(), DType::e4m3, {1, 1, 1, kDim});
        t.k = contiguous(k.data(), DType::e4m3, {1, kKeys, 1, kDim});
        t.v = contiguous(v.data(), DType::e4m3, {1, kKeys, 1, kDim});
        t.o = contiguous(o.data(), DType::f32, {1, 1, 1, kDim});
        t.k_scale = contiguous(k_scale.data(), DType::f32, {1});
        AttentionOptions options;
        options.backend = Backend::cpu;
        ASSERT_TRUE(hopfill::attention(t, options));
        for (std::size_t c = 0; c < kDim; ++c) ASSERT_EQ(o[c] > 0, v[needle * kDim + c] == 0x38) << seed << " " << c;
    }
}

TEST(Cpu, QuantisesAlikeOnEverySimdTarget) {
    constexpr std::int64_t kTokens = 77, kDim = 48;
    std::mt19937 engine(4);
    std::vector<std::uint16_t> v(kTokens * kDim);
    for (std::uint16_t& x : v) x = to_bf16(static_cast<float>(static_cast<int>(engine() % 2001) - 1000) / 250);
    std::vector<std::uint8_t> first;
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        std::vector<std::uint8_t> out(v.size());
        std::vector<float> scale(kDim);
        QuantizeTensors t;
        t.v = contiguous(v.data(), DType::bf16, {1, kTokens, 1, kDim});
        t.v_out = contiguous(out.data(), DType::e4m3, {1, 1, kDim, kTokens});
        t.v_scale = contiguous(scale.data(), DType::f32, {1, kDim});
        QuantizeOptions options;
        options.v_transposed = true;
        ASSERT_TRUE(quantize_kv(t, options));
        if (first.empty()) first = out;
        EXPECT_EQ(out, first) << hwy::TargetName(target);
        hwy::SetSupportedTargetsForTest(0);
    }
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    EXPECT_NEAR(from_e4m3(first[3 * kTokens + 5]), std::bit_cast<float>(std::uint32_t{v[5 * kDim + 3]} << 16) / (4.0f / 448), 16);
}

TEST(Cpu, EverySimdTarget) {
    for (const std::int64_t target : hwy::SupportedAndGeneratedTargets()) {
        hwy::SetSupportedTargetsForTest(target);
        hwy::GetChosenTarget().Update(hwy::SupportedTargets());
        EXPECT_THAT(check_seed(13, 16).failures, IsEmpty()) << hwy::TargetName(target);
        EXPECT_THAT(check_seed(14, 10, "packed,empty,unequal,causal,lse,nan,head_dim,strided").failures, IsEmpty()) << hwy::TargetName(target);
        hwy::SetSupportedTargetsForTest(0);
    }
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

TEST(Cpu, EveryHeadDimension) {
    for (int d = 8; d <= 256; d += 8) {
        check_text(("bf16 d" + std::to_string(d) + " h4/2 causal q=2x37 kv=2x150 input=gaussian lse layout=5 seed=9").c_str());
    }
}

TEST(Cpu, LongSequences) {
    check_text("bf16 d64 h2/1 causal q=3000 kv=5000 input=rising lse seed=1");
    check_text("f32 d128 h1/1 packed q=4,2100 kv=6000,2100 input=peaky lse seed=2");
}

TEST(Cpu, NoKeysAtAll) {
    check_text("f16 d40 h4/2 q=2x9 kv=2x0 input=gaussian lse seed=3");
    check_text("bf16 d64 h2/2 packed q=3x5 kv=3x0 input=gaussian lse tail=9 seed=4");
}

TEST(Cpu, BitsRepeatAndDoNotDependOnTheBatch) {
    const check::Outcome first = check_text("bf16 d72 h4/2 causal packed q=300 kv=333 input=gaussian seed=5", true);
    EXPECT_EQ(first.output, check_text("bf16 d72 h4/2 causal packed q=300 kv=333 input=gaussian seed=5", true).output);
    const check::Outcome batch = check_text("bf16 d72 h4/2 causal packed q=300,17,250 kv=333,20,1 input=gaussian seed=5", true);
    ASSERT_GT(batch.output.size(), first.output.size());
    EXPECT_EQ(std::memcmp(batch.output.data(), first.output.data(), first.output.size()), 0);
}

// A NaN in a masked row of V must not reach a query that does not see it, not even through a weight of zero.
TEST(Cpu, MaskedNanInVStaysMasked) {
    constexpr std::int64_t n = 50, d = 24;
    std::mt19937 engine(3);
    std::normal_distribution<float> draw;
    std::vector<float> q(n * d), k(n * d), v(n * d), o(n * d), want(n * d);
    for (auto* t : {&q, &k, &v}) {
        for (float& x : *t) x = draw(engine);
    }
    v[31 * d + 3] = std::numeric_limits<float>::quiet_NaN();
    v[40 * d + 20] = std::numeric_limits<float>::infinity();
    AttentionProblem p;
    p.dtype = p.kv_dtype = p.out_dtype = DType::f32;
    p.causal = true;
    p.batch = p.heads = p.kv_heads = 1;
    p.head_dim = d;
    p.max_seqlen_q = p.max_seqlen_kv = p.tokens_q = p.tokens_kv = n;
    p.scale = 0.2;
    const auto view = [&](std::vector<float>& t) { return contiguous(t.data(), DType::f32, {1, n, 1, d}); };
    ASSERT_TRUE(attention(p, {view(q), view(k), view(v), view(o), {}, {}, {}}).ok());
    ASSERT_TRUE(oracle::attention(p, {view(q), view(k), view(v), view(want), {}, {}, {}}).ok());
    for (std::size_t i = 0; i < o.size(); ++i) {
        ASSERT_EQ(std::isnan(o[i]), std::isnan(want[i])) << i / d << " " << i % d;
        ASSERT_EQ(std::isinf(o[i]), std::isinf(want[i])) << i / d << " " << i % d;
        if (std::isfinite(want[i])) {
            ASSERT_NEAR(o[i], want[i], 1e-5);
        }
    }
}

TEST(Cpu, RefusesBadLengths) {
    std::vector<float> data(16 * 8);
    std::vector<std::int32_t> good{0, 3, 10};
    AttentionProblem p;
    p.dtype = p.kv_dtype = p.out_dtype = DType::f32;
    p.packed = true;
    p.batch = 2;
    p.heads = p.kv_heads = 1;
    p.head_dim = 8;
    p.tokens_q = p.tokens_kv = 16;
    p.max_seqlen_q = p.max_seqlen_kv = 9;
    p.scale = 1;
    const auto error = [&](std::vector<std::int32_t> cu, bool keys) {
        AttentionTensors t;
        t.q = t.k = t.v = t.o = contiguous(data.data(), DType::f32, {16, 1, 8});
        t.cu_seqlens_q = contiguous(keys ? good.data() : cu.data(), DType::i32, {3});
        t.cu_seqlens_k = contiguous(keys ? cu.data() : good.data(), DType::i32, {3});
        const Result<void> r = attention(p, t);
        return r.ok() ? std::string() : r.error().text();
    };
    EXPECT_EQ(error({0, 0, 9}, true), "");
    EXPECT_EQ(error({2, 3, 9}, true), "cu_seqlens_k: starts at 2; must start at 0");
    EXPECT_EQ(error({0, 9, 8}, false), "cu_seqlens_q: goes from 9 to 8 at index 2; must not decrease");
    EXPECT_EQ(error({0, 10, 10}, false), "cu_seqlens_q: sequence 0 has 10 tokens; max_seqlen allows 9");
    EXPECT_EQ(error({0, 8, 17}, true), "cu_seqlens_k: ends at 17; the tensor has 16 tokens");
    p.kv_dtype = DType::i32;
    EXPECT_THAT(error({0, 3, 10}, true), HasSubstr("f32, f16, bf16 and e4m3"));
}

}  // namespace
}  // namespace hopfill::cpu

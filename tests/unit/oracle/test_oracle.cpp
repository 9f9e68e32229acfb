// The judge itself: against numbers worked out by hand, against properties of softmax, and its formats against the compiler's.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "oracle/formats.h"
#include "oracle/oracle.h"

namespace hopfill::oracle {
namespace {

using testing::HasSubstr;
using testing::Pointwise;

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();

// Float tensors of a dense or packed problem, contiguous.
struct Data {
    AttentionProblem p;
    std::vector<float> q, k, v, o, lse;
    std::vector<std::int32_t> cu_q, cu_k;

    static Data dense(std::int64_t batch, std::int64_t s_q, std::int64_t s_kv, std::int64_t heads, std::int64_t kv_heads, std::int64_t d) {
        Data x;
        x.size(heads, kv_heads, d, batch * s_q, batch * s_kv);
        x.p.batch = batch;
        x.p.max_seqlen_q = s_q;
        x.p.max_seqlen_kv = s_kv;
        return x;
    }
    static Data packed(std::vector<std::int32_t> cu_q, std::vector<std::int32_t> cu_k, std::int64_t heads, std::int64_t kv_heads, std::int64_t d) {
        Data x;
        x.size(heads, kv_heads, d, cu_q.back(), cu_k.back());
        x.p.packed = true;
        x.p.batch = std::ssize(cu_q) - 1;
        x.p.max_seqlen_q = cu_q.back();
        x.p.max_seqlen_kv = cu_k.back();
        x.cu_q = std::move(cu_q);
        x.cu_k = std::move(cu_k);
        return x;
    }
    Data& gaussian(unsigned seed) {
        std::mt19937 engine(seed);
        std::normal_distribution<float> draw;
        for (auto* t : {&q, &k, &v}) {
            for (float& x : *t) x = draw(engine);
        }
        return *this;
    }
    AttentionTensors tensors() {
        AttentionTensors t;
        const std::int64_t b = p.batch, h = p.heads, g = p.kv_heads, d = p.head_dim;
        if (p.packed) {
            t.q = contiguous(q.data(), DType::f32, {p.tokens_q, h, d});
            t.k = contiguous(k.data(), DType::f32, {p.tokens_kv, g, d});
            t.v = contiguous(v.data(), DType::f32, {p.tokens_kv, g, d});
            t.o = contiguous(o.data(), DType::f32, {p.tokens_q, h, d});
            t.lse = contiguous(lse.data(), DType::f32, {h, p.tokens_q});
            t.cu_seqlens_q = contiguous(cu_q.data(), DType::i32, {b + 1});
            t.cu_seqlens_k = contiguous(cu_k.data(), DType::i32, {b + 1});
        } else {
            t.q = contiguous(q.data(), DType::f32, {b, p.max_seqlen_q, h, d});
            t.k = contiguous(k.data(), DType::f32, {b, p.max_seqlen_kv, g, d});
            t.v = contiguous(v.data(), DType::f32, {b, p.max_seqlen_kv, g, d});
            t.o = contiguous(o.data(), DType::f32, {b, p.max_seqlen_q, h, d});
            t.lse = contiguous(lse.data(), DType::f32, {b, h, p.max_seqlen_q});
        }
        return t;
    }
    Data& run() {
        const Result<void> r = attention(p, tensors());
        EXPECT_TRUE(r.ok()) << r.error().text();
        return *this;
    }

private:
    void size(std::int64_t heads, std::int64_t kv_heads, std::int64_t d, std::int64_t tokens_q, std::int64_t tokens_kv) {
        p.dtype = p.kv_dtype = p.out_dtype = DType::f32;
        p.heads = heads;
        p.kv_heads = kv_heads;
        p.head_dim = d;
        p.tokens_q = tokens_q;
        p.tokens_kv = tokens_kv;
        p.scale = 1;
        p.want_lse = true;
        q.assign(static_cast<std::size_t>(tokens_q * heads * d), 0);
        k.assign(static_cast<std::size_t>(tokens_kv * kv_heads * d), 0);
        v = k;
        o.assign(q.size(), -7);
        lse.assign(static_cast<std::size_t>(tokens_q * heads), -7);
    }
};

TEST(OracleFormats, E4m3IsTheOfp8Table) {
    const Format f = format_of(DType::e4m3);
    EXPECT_EQ(decode(f, 0x00), 0);
    EXPECT_EQ(decode(f, 0x01), std::ldexp(1, -9));
    EXPECT_EQ(decode(f, 0x07), std::ldexp(7, -9));
    EXPECT_EQ(decode(f, 0x08), std::ldexp(1, -6));
    EXPECT_EQ(decode(f, 0x38), 1);
    EXPECT_EQ(decode(f, 0xb8), -1);
    EXPECT_EQ(decode(f, 0x78), 256);
    EXPECT_EQ(decode(f, 0x7e), 448);
    EXPECT_EQ(decode(f, 0xfe), -448);
    EXPECT_TRUE(std::isnan(decode(f, 0x7f)));
    EXPECT_TRUE(std::isnan(decode(f, 0xff)));
    for (std::uint32_t bits = 0; bits < 256; ++bits) {
        if ((bits & 0x7f) != 0x7f) {
            EXPECT_EQ(encode(f, decode(f, bits)), bits);
        }
    }
    EXPECT_EQ(encode(f, 464), 0x7e);  // a tie between 448 and the next, to even
    EXPECT_EQ(encode(f, 465), 0x7f);  // no infinity to overflow to
    EXPECT_EQ(encode(f, -kInf), 0xff);
    EXPECT_EQ(encode(f, std::ldexp(1, -10)), 0x00);
    EXPECT_EQ(encode(f, std::ldexp(1.01, -10)), 0x01);
}

TEST(OracleFormats, EveryF16AndBf16SurvivesARoundTrip) {
    for (DType t : {DType::f16, DType::bf16}) {
        const Format f = format_of(t);
        for (std::uint32_t bits = 0; bits < 65536; ++bits) {
            const double x = decode(f, bits);
            if (!std::isnan(x)) {
                ASSERT_EQ(encode(f, x), bits) << name_of(t);
            } else {
                ASSERT_TRUE(std::isnan(decode(f, encode(f, x)))) << name_of(t);
            }
        }
    }
}

TEST(OracleFormats, AgreesWithTheCompilersFloat) {
    const Format f = format_of(DType::f32);
    std::mt19937_64 engine(1);
    for (int i = 0; i < 200000; ++i) {
        const auto bits = static_cast<std::uint32_t>(engine());
        float x = 0;
        std::memcpy(&x, &bits, 4);
        if (std::isnan(x)) continue;
        ASSERT_EQ(decode(f, bits), x);
        const double fine = static_cast<double>(x) * (1 + std::ldexp(static_cast<double>(engine() % 1024), -33));
        const auto rounded = static_cast<float>(fine);
        std::uint32_t want = 0;
        std::memcpy(&want, &rounded, 4);
        ASSERT_EQ(encode(f, fine), want) << fine;
    }
}

TEST(OracleFormats, RoundsOnceToNearestEven) {
    EXPECT_EQ(encode(format_of(DType::bf16), 1 + 0x1p-8), 0x3f80);
    EXPECT_EQ(encode(format_of(DType::bf16), 1 + 0x1.8p-7), 0x3f82);
    EXPECT_EQ(encode(format_of(DType::bf16), 1 + 0x1p-8 + 0x1p-50), 0x3f81);  // through float this would be a tie
    EXPECT_EQ(encode(format_of(DType::f16), 65519.9), 0x7bff);
    EXPECT_EQ(encode(format_of(DType::f16), 65520), 0x7c00);
    EXPECT_EQ(encode(format_of(DType::f16), 0x1p-25), 0x0000);
    EXPECT_EQ(encode(format_of(DType::f16), 0x1.8p-25), 0x0001);
}

TEST(Oracle, TwoKeysByHand) {
    Data x = Data::dense(1, 1, 2, 1, 1, 8);
    x.q[0] = 1;
    x.k[8] = std::log(3.0f);  // logits 0 and ln 3: weights 1/4 and 3/4
    x.v[1] = 8;
    x.v[8 + 1] = 4;
    x.run();
    EXPECT_NEAR(x.o[1], 8 * 0.25 + 4 * 0.75, 1e-6);
    EXPECT_EQ(x.o[0], 0);
    EXPECT_NEAR(x.lse[0], std::log(4.0), 1e-6);
    x.p.scale = 2;  // weights 1/10 and 9/10
    x.run();
    EXPECT_NEAR(x.o[1], 0.8 + 3.6, 1e-6);
    EXPECT_NEAR(x.lse[0], std::log(10.0), 1e-6);
}

TEST(Oracle, CausalIsBottomRightAligned) {
    Data x = Data::dense(1, 2, 4, 1, 1, 8);
    x.p.causal = true;
    for (std::size_t j = 0; j < 4; ++j) x.v[j * 8] = static_cast<float>(1 << j);  // all logits equal: means of what is seen
    x.run();
    EXPECT_FLOAT_EQ(x.o[0], 7.0f / 3);
    EXPECT_FLOAT_EQ(x.o[8], 15.0f / 4);
    EXPECT_FLOAT_EQ(x.lse[0], std::log(3.0f));
    EXPECT_FLOAT_EQ(x.lse[1], std::log(4.0f));
}

TEST(Oracle, RowsWithNoKeyAreZeroAndMinusInfinity) {
    Data x = Data::dense(1, 3, 1, 1, 1, 8).gaussian(1);
    x.p.causal = true;
    x.q[0] = kNan;
    x.run();
    for (std::size_t c = 0; c < 16; ++c) EXPECT_EQ(x.o[c], 0);
    for (std::size_t c = 0; c < 8; ++c) EXPECT_EQ(x.o[16 + c], x.v[c]);
    EXPECT_EQ(x.lse[0], -kInf);
    EXPECT_EQ(x.lse[1], -kInf);
    EXPECT_TRUE(std::isfinite(x.lse[2]));
}

TEST(Oracle, NanStaysInTheRowsThatSeeIt) {
    Data x = Data::dense(1, 4, 4, 1, 1, 8).gaussian(2);
    x.p.causal = true;
    x.k[2 * 8] = kNan;
    x.v[3 * 8 + 5] = kNan;
    x.run();
    for (std::size_t i = 0; i < 4; ++i) {
        for (std::size_t c = 0; c < 8; ++c) EXPECT_EQ(std::isnan(x.o[i * 8 + c]), i >= 2) << i << " " << c;
        EXPECT_EQ(std::isnan(x.lse[i]), i >= 2);
    }
    Data y = Data::dense(1, 2, 2, 1, 1, 8).gaussian(2);
    y.v[5] = kNan;
    y.run();
    for (std::size_t i = 0; i < 16; ++i) EXPECT_EQ(std::isnan(y.o[i]), i % 8 == 5);
    EXPECT_TRUE(std::isfinite(y.lse[0]));
}

TEST(Oracle, PackedSequencesAreTheirOwnDenseProblems) {
    Data x = Data::packed({0, 3, 3, 8}, {0, 5, 9, 9}, 4, 2, 16).gaussian(3);
    x.p.causal = true;
    x.run();
    Data y = Data::dense(1, 3, 5, 4, 2, 16);
    y.p.causal = true;
    std::copy_n(x.q.begin(), y.q.size(), y.q.begin());
    std::copy_n(x.k.begin(), y.k.size(), y.k.begin());
    std::copy_n(x.v.begin(), y.v.size(), y.v.begin());
    y.run();
    EXPECT_THAT(std::vector<float>(x.o.begin(), x.o.begin() + std::ssize(y.o)), Pointwise(testing::Eq(), y.o));
    for (std::size_t h = 0; h < 4; ++h) {
        for (std::size_t i = 0; i < 3; ++i) EXPECT_EQ(x.lse[h * 8 + i], y.lse[h * 3 + i]);
        for (std::size_t i = 3; i < 8; ++i) EXPECT_EQ(x.lse[h * 8 + i], -kInf);  // queries of a sequence without keys
    }
    for (std::size_t i = 3 * 4 * 16; i < x.o.size(); ++i) EXPECT_EQ(x.o[i], 0);
}

TEST(Oracle, QueryHeadsShareTheirKvHead) {
    Data grouped = Data::dense(2, 5, 7, 6, 2, 8).gaussian(4);
    Data repeated = Data::dense(2, 5, 7, 6, 6, 8);
    repeated.q = grouped.q;
    for (std::size_t token = 0; token < 14; ++token) {
        for (std::size_t h = 0; h < 6; ++h) {
            for (std::size_t c = 0; c < 8; ++c) {
                repeated.k[(token * 6 + h) * 8 + c] = grouped.k[(token * 2 + h / 3) * 8 + c];
                repeated.v[(token * 6 + h) * 8 + c] = grouped.v[(token * 2 + h / 3) * 8 + c];
            }
        }
    }
    EXPECT_EQ(grouped.run().o, repeated.run().o);
    EXPECT_EQ(grouped.lse, repeated.lse);
}

TEST(Oracle, SoftmaxInvariances) {
    Data x = Data::dense(1, 4, 9, 1, 1, 8).gaussian(5);
    Data reversed = x, shifted = x;
    for (auto* t : {&reversed.k, &reversed.v}) {
        for (std::size_t j = 0; j < 4; ++j)
            std::swap_ranges(t->begin() + std::ssize(*t) / 9 * static_cast<std::int64_t>(j),
                             t->begin() + std::ssize(*t) / 9 * static_cast<std::int64_t>(j + 1),
                             t->begin() + std::ssize(*t) / 9 * static_cast<std::int64_t>(8 - j));
    }
    for (std::size_t j = 0; j < 9; ++j) shifted.k[j * 8] += 4;  // adds 4 q[0] to every logit of a row
    x.run();
    EXPECT_THAT(reversed.run().o, Pointwise(testing::FloatNear(1e-6f), x.o));
    EXPECT_THAT(shifted.run().o, Pointwise(testing::FloatNear(2e-6f), x.o));
    for (std::size_t i = 0; i < 4; ++i) EXPECT_NEAR(shifted.lse[i], x.lse[i] + 4 * x.q[i * 8], 1e-5);
}

TEST(Oracle, LargeLogitsDoNotOverflow) {
    Data x = Data::dense(1, 1, 3, 1, 1, 8);
    x.q[0] = 1000;
    x.k = {30, 0, 0, 0, 0, 0, 0, 0, -30, 0, 0, 0, 0, 0, 0, 0, 29, 0, 0, 0, 0, 0, 0, 0};
    x.v[0] = 5;
    x.run();
    EXPECT_EQ(x.o[0], 5);
    EXPECT_EQ(x.lse[0], 30000);
}

TEST(Oracle, ChosenRowsAreThoseOfTheWhole) {
    Data x = Data::packed({0, 3, 10}, {0, 4, 9}, 4, 2, 8).gaussian(6);
    x.p.causal = true;
    x.run();
    const std::vector<Row> chosen = rows(x.p, x.tensors(), 1, 3, {6, 0});
    ASSERT_EQ(chosen.size(), 2u);
    for (std::size_t c = 0; c < 8; ++c) {
        EXPECT_EQ(static_cast<float>(chosen[0].o[c]), x.o[((3 + 6) * 4 + 3) * 8 + c]);
        EXPECT_EQ(static_cast<float>(chosen[1].o[c]), x.o[((3 + 0) * 4 + 3) * 8 + c]);
    }
    EXPECT_EQ(static_cast<float>(chosen[0].lse), x.lse[3 * 10 + 9]);
}

TEST(Oracle, RefusesBadLengths) {
    const auto error = [](std::vector<std::int32_t> cu_q) {
        Data x = Data::packed({0, 3, 10}, {0, 4, 9}, 1, 1, 8);
        x.cu_q = std::move(cu_q);
        const Result<void> r = attention(x.p, x.tensors());
        return r.ok() ? "" : r.error().text();
    };
    EXPECT_EQ(error({0, 3, 10}), "");
    EXPECT_EQ(error({0, 3, 9}), "");  // tokens beyond the last sequence are padding
    EXPECT_THAT(error({1, 3, 10}), HasSubstr("cu_seqlens_q: starts at 1"));
    EXPECT_THAT(error({0, 11, 10}), HasSubstr("cu_seqlens_q"));
    EXPECT_THAT(error({0, 5, 4}), HasSubstr("decreases at index 2"));
    EXPECT_THAT(error({0, 5, 11}), HasSubstr("ends at 11"));
}

// Two keys of one channel pair, scales that differ by block and by channel: worked out by hand.
TEST(Oracle, ScalesMultiplyWhatIsStored) {
    std::vector<std::uint8_t> q(16), k(65 * 16), v(65 * 16);                     // 65 keys: the last is alone in the second block
    q[0] = 0x38;                                                                 // 1
    k[64 * 16] = 0x40;                                                           // 2
    for (std::size_t j = 0; j < 65; ++j) v[j * 16 + 1] = j == 64 ? 0x44 : 0x38;  // 3 and 1
    std::vector<float> o(16), lse(1), q_scale{3}, k_scale{7, 0.5f}, v_scale(16, 1);
    v_scale[1] = 10;
    AttentionProblem p;
    p.dtype = p.kv_dtype = DType::e4m3;
    p.out_dtype = DType::f32;
    p.batch = p.heads = p.kv_heads = 1;
    p.head_dim = 16;
    p.max_seqlen_q = p.tokens_q = 1;
    p.max_seqlen_kv = p.tokens_kv = 65;
    p.scale = 1;
    p.scale_block = 64;
    p.q_scale = {ScaleKind::tensor, 0, 0, 0, 0};
    p.k_scale = {ScaleKind::block, 0, 0, 1, 0};
    p.v_scale = {ScaleKind::channel, 0, 0, 0, 1};
    AttentionTensors t;
    t.q = contiguous(q.data(), DType::e4m3, {1, 1, 1, 16});
    t.k = contiguous(k.data(), DType::e4m3, {1, 65, 1, 16});
    t.v = contiguous(v.data(), DType::e4m3, {1, 65, 1, 16});
    t.o = contiguous(o.data(), DType::f32, {1, 1, 1, 16});
    t.lse = contiguous(lse.data(), DType::f32, {1, 1, 1});
    t.q_scale = contiguous(q_scale.data(), DType::f32, {1});
    t.k_scale = contiguous(k_scale.data(), DType::f32, {1, 1, 2});
    t.v_scale = contiguous(v_scale.data(), DType::f32, {1, 16});
    ASSERT_TRUE(attention(p, t).ok());
    // The last key's logit is 3 * (2 * 0.5) = 3, the others' 0.
    const double e = std::exp(3.0);
    EXPECT_NEAR(lse[0], std::log(64 + e), 1e-6);
    EXPECT_NEAR(o[1], 10 * (64 * 1 + 3 * e) / (64 + e), 1e-5);
    EXPECT_EQ(o[0], 0);
}

}  // namespace
}  // namespace hopfill::oracle

// describe(): what it makes of tensors, and what it says of tensors that do not agree.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using ::testing::HasSubstr;
using testing::packed;
using testing::Tensors;

TEST(Describe, DenseTensors) {
    Tensors t = dense();
    t.lse = t.add(DType::f32, {2, 4, 5});
    AttentionOptions options;
    options.causal = true;
    const Result<AttentionProblem> p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    AttentionProblem expected;
    expected.causal = true;
    expected.batch = 2;
    expected.heads = 4;
    expected.kv_heads = 2;
    expected.head_dim = 64;
    expected.max_seqlen_q = 5;
    expected.max_seqlen_kv = 7;
    expected.tokens_q = 10;
    expected.tokens_kv = 14;
    expected.scale = 0.125;
    expected.want_lse = true;
    expected.q = expected.o = {5 * 4 * 64, 4 * 64, 64};
    expected.k = expected.v = {7 * 2 * 64, 2 * 64, 64};
    EXPECT_EQ(*p, expected);
}

TEST(Describe, PackedTensors) {
    Tensors t = packed({0, 3, 3, 10}, {0, 1, 5, 9});
    t.lse = t.add(DType::f32, {4, 10});
    AttentionOptions options;
    options.max_seqlen_q = 7;
    options.scale = 2;
    const Result<AttentionProblem> p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_TRUE(p->packed);
    EXPECT_EQ(p->batch, 3);
    EXPECT_EQ(p->max_seqlen_q, 7);
    EXPECT_EQ(p->max_seqlen_kv, 9);
    EXPECT_EQ(p->tokens_q, 10);
    EXPECT_EQ(p->tokens_kv, 9);
    EXPECT_EQ(p->scale, 2);
    EXPECT_EQ(p->q, (Strides{0, 256, 64}));
}

TEST(Describe, BoundsBeyondTheTokensAreTheTokens) {
    Tensors t = packed({0, 3}, {0, 4});
    AttentionOptions options;
    options.max_seqlen_q = 4096;
    const Result<AttentionProblem> p = describe(t, options);
    ASSERT_TRUE(p);
    EXPECT_EQ(p->max_seqlen_q, 3);
}

TEST(Describe, StridesOfSingleElementsMeanNothing) {
    Tensors t = dense(DType::bf16, {1, 5, 7, 4, 2, 64});
    const Result<AttentionProblem> compact = describe(t, {});
    t.q.strides[0] = 3;
    t.k.strides[0] = -1;
    const Result<AttentionProblem> odd = describe(t, {});
    ASSERT_TRUE(compact && odd);
    EXPECT_EQ(*compact, *odd);
}

TEST(Describe, EmptyBatchesAndSequencesAreProblems) {
    EXPECT_TRUE(describe(dense(DType::bf16, {0, 5, 7, 4, 2, 64}), {}));
    EXPECT_TRUE(describe(dense(DType::bf16, {2, 0, 7, 4, 2, 64}), {}));
    EXPECT_TRUE(describe(dense(DType::bf16, {2, 5, 0, 4, 2, 64}), {}));
    EXPECT_TRUE(describe(packed({0}, {0}), {}));
    Tensors t = dense(DType::bf16, {2, 0, 7, 4, 2, 64});
    t.lse = t.add(DType::f32, {2, 4, 0});
    EXPECT_TRUE(describe(t, {}));
}

struct Spoiled {
    const char* name;
    std::function<void(Tensors&, AttentionOptions&)> spoil;
    const char* argument;
    const char* message;
    Code code = Code::invalid_argument;
};

void expect_refused(Tensors t, const Spoiled& c) {
    SCOPED_TRACE(c.name);
    AttentionOptions options;
    c.spoil(t, options);
    const Result<AttentionProblem> p = describe(t, options);
    ASSERT_FALSE(p);
    EXPECT_EQ(p.error().argument, c.argument);
    EXPECT_THAT(p.error().message, HasSubstr(c.message));
    EXPECT_EQ(p.error().code, c.code);
}

TEST(Describe, RefusesDenseTensorsThatDoNotAgree) {
    const double inf = std::numeric_limits<double>::infinity();
    const std::vector<Spoiled> cases{
        {"no q", [](auto& t, auto&) { t.q = {}; }, "q", "absent"},
        {"rank", [](auto& t, auto&) { t.q.rank = 2; }, "q", "rank 2"},
        {"k of another rank", [](auto& t, auto&) { t.k.rank = 3; }, "k", "4 is needed"},
        {"no v", [](auto& t, auto&) { t.v = {}; }, "v", "absent"},
        {"no o", [](auto& t, auto&) { t.o = {}; }, "o", "absent"},
        {"null", [](auto& t, auto&) { t.k.data = nullptr; }, "k", "null"},
        {"misaligned", [](auto& t, auto&) { t.k.data = static_cast<char*>(t.k.data) + 1; }, "k", "2 bytes"},
        {"dtypes differ", [](auto& t, auto&) { t.v.dtype = DType::f16; }, "v", "f16 where k is bf16"},
        {"integers", [](auto& t, auto&) { t.q.dtype = t.k.dtype = t.v.dtype = DType::i32; }, "q", "f32, f16, bf16", Code::unsupported},
        {"e4m3 output", [](auto& t, auto&) { t.o.dtype = DType::e4m3; }, "o", "e4m3", Code::unsupported},
        {"last stride", [](auto& t, auto&) { t.q.strides[3] = 2; }, "q.strides[3]", "must be 1"},
        {"negative stride", [](auto& t, auto&) { t.q.strides[1] = -256; }, "q.strides[1]", "negative"},
        {"head_dim of k", [](auto& t, auto&) { t.k.shape[3] = 56; }, "k.shape[3]", "64"},
        {"head_dim of v", [](auto& t, auto&) { t.v.shape[3] = 56; }, "v.shape[3]", "64"},
        {"head_dim 12", [](auto& t, auto&) { t.q.shape[3] = t.k.shape[3] = t.v.shape[3] = t.o.shape[3] = 12; }, "head_dim", "is 12",
         Code::unsupported},
        {"head_dim 264",
         [](auto& t, auto&) {
             t = dense(DType::bf16, {1, 1, 1, 1, 1, 264});
         },
         "head_dim", "8 to 256", Code::unsupported},
        {"keys of v", [](auto& t, auto&) { t.v.shape[1] = 6; }, "v.shape[1]", "7"},
        {"batch of k", [](auto& t, auto&) { t.k.shape[0] = t.v.shape[0] = 1; }, "k.shape[0]", "batch of q"},
        {"shape of o", [](auto& t, auto&) { t.o.shape[1] = 4; }, "o.shape[1]", "5"},
        {"heads",
         [](auto& t, auto&) {
             t = dense(DType::bf16, {1, 1, 1, 4, 3, 64});
         },
         "heads", "no multiple of k's 3"},
        {"no heads",
         [](auto& t, auto&) {
             t = dense(DType::bf16, {1, 1, 1, 4, 0, 64});
         },
         "kv_heads", "is 0"},
        {"overlapping o", [](auto& t, auto&) { t.o.strides[1] = 64; }, "o", "overlap"},
        {"o over q", [](auto& t, auto&) { t.o.data = t.q.data; }, "o", "overlaps q"},
        {"o within v", [](auto& t, auto&) { t.o.data = static_cast<char*>(t.v.data) + 64; }, "o", "overlaps v"},
        {"lse over o",
         [](auto& t, auto&) {
             t.lse = t.add(DType::f32, {2, 4, 5}), t.lse.data = static_cast<char*>(t.o.data) + 256;
         },
         "lse", "overlaps o"},
        {"negative extent", [](auto& t, auto&) { t.q.shape[1] = -1; }, "q.shape[1]", "is -1"},
        {"overflow", [](auto& t, auto&) { t.q.strides[0] = std::int64_t{1} << 62; }, "q", "2^60"},
        {"devices", [](auto& t, auto&) { t.v.device = {Device::Kind::cuda, 3}; }, "v", "is on CUDA device 3 and q on the host"},
        {"lse dtype",
         [](auto& t, auto&) {
             t.lse = t.add(DType::f16, {2, 4, 5});
         },
         "lse", "f32 is needed"},
        {"lse shape",
         [](auto& t, auto&) {
             t.lse = t.add(DType::f32, {2, 5, 4});
         },
         "lse.shape[1]", "4"},
        {"lse stride",
         [](auto& t, auto&) {
             t.lse = t.add(DType::f32, {2, 4, 5}), t.lse.strides[1] = 6;
         },
         "lse", "contiguous"},
        {"cu_seqlens", [](auto& t, auto&) { t.cu_seqlens_q = t.add(DType::i32, {3}); }, "cu_seqlens_q", "packed"},
        {"max_seqlen_q", [](auto&, auto& o) { o.max_seqlen_q = 5; }, "max_seqlen_q", "dense"},
        {"max_seqlen_kv", [](auto&, auto& o) { o.max_seqlen_kv = 5; }, "max_seqlen_kv", "dense"},
        {"infinite scale", [inf](auto&, auto& o) { o.scale = inf; }, "scale", "finite"},
        {"scale that is no number", [](auto&, auto& o) { o.scale = std::nan(""); }, "scale", "finite"},
        {"scale beyond float32", [](auto&, auto& o) { o.scale = 1e39; }, "scale", "finite"},
    };
    for (const Spoiled& c : cases) expect_refused(dense(), c);
}

TEST(Describe, Fp8Scales) {
    Tensors t = dense(DType::e4m3, {2, 70, 200, 4, 2, 64});
    AttentionOptions options;
    Result<AttentionProblem> p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->q_scale, ScaleLayout{});
    t.q_scale = t.add(DType::f32, {4});
    t.k_scale = t.add(DType::f32, {2, 2});
    t.v_scale = t.add(DType::f32, {2, 64});
    p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->q_scale, (ScaleLayout{ScaleKind::head, 0, 1, 0, 0}));
    EXPECT_EQ(p->k_scale, (ScaleLayout{ScaleKind::sequence, 2, 1, 0, 0}));
    EXPECT_EQ(p->v_scale, (ScaleLayout{ScaleKind::channel, 0, 64, 0, 1}));
    EXPECT_EQ(p->scale_block, 0);
    options.scale_block = 64;
    t.q_scale = t.add(DType::f32, {2, 2, 2});
    t.k_scale = t.add(DType::f32, {1});
    t.v_scale = t.add(DType::f32, {2, 2, 9});  // 4 blocks are read
    p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->q_scale, (ScaleLayout{ScaleKind::block, 4, 2, 1, 0}));
    EXPECT_EQ(p->k_scale, (ScaleLayout{ScaleKind::tensor, 0, 0, 0, 0}));
    EXPECT_EQ(p->v_scale, (ScaleLayout{ScaleKind::block, 18, 9, 1, 0}));
    EXPECT_EQ(p->scale_block, 64);
    t.v_scale.strides = {0, 0, 1, 0};  // expanded over batch and heads
    p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->v_scale, (ScaleLayout{ScaleKind::block, 0, 0, 1, 0}));
}

TEST(Describe, MixedAndTransposed) {
    Tensors t = dense(DType::bf16, {2, 70, 200, 4, 2, 64});
    t.k = t.add(DType::e4m3, {2, 200, 2, 64});
    t.v = t.add(DType::e4m3, {2, 2, 64, 200});
    AttentionOptions options;
    options.v_transposed = true;
    Result<AttentionProblem> p = describe(t, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->kv_dtype, DType::e4m3);
    EXPECT_TRUE(p->v_transposed);
    EXPECT_EQ(p->v, (Strides{2 * 64 * 200, 200, 64 * 200}));
    Tensors ragged = packed({0, 3, 10}, {0, 1, 9}, DType::e4m3);
    ragged.v = ragged.add(DType::e4m3, {2, 64, 9});
    p = describe(ragged, options);
    ASSERT_TRUE(p) << p.error().text();
    EXPECT_EQ(p->v, (Strides{0, 9, 64 * 9}));
}

TEST(Describe, RefusesFp8TensorsThatDoNotAgree) {
    const std::vector<Spoiled> cases{
        {"scale of 16 bits", [](auto& t, auto&) { t = dense(), t.q_scale = t.add(DType::f32, {1}); }, "q_scale", "belong to e4m3"},
        {"dtype", [](auto& t, auto&) { t.k_scale = t.add(DType::f16, {1}); }, "k_scale", "f32 is needed"},
        {"rank 4",
         [](auto& t, auto&) {
             t.k_scale = t.add(DType::f32, {1, 1, 1, 1});
         },
         "k_scale", "1 to 3"},
        {"heads of k", [](auto& t, auto&) { t.k_scale = t.add(DType::f32, {4}); }, "k_scale", "[1] or [2]"},
        {"kv_heads of q", [](auto& t, auto&) { t.q_scale = t.add(DType::f32, {2}); }, "q_scale", "[1] or [4]"},
        {"channels of k",
         [](auto& t, auto&) {
             t.k_scale = t.add(DType::f32, {2, 64});
         },
         "k_scale", "[2, 2], batch and kv_heads, is"},
        {"neither",
         [](auto& t, auto&) {
             t.v_scale = t.add(DType::f32, {2, 63});
         },
         "v_scale", "or [2, 64], kv_heads and head_dim"},
        {"no block",
         [](auto& t, auto&) {
             t.v_scale = t.add(DType::f32, {2, 2, 1});
         },
         "scale_block", "not given"},
        {"block of 32",
         [](auto& t, auto& o) {
             t.v_scale = t.add(DType::f32, {2, 2, 1}), o.scale_block = 32;
         },
         "scale_block", "is 32"},
        {"too few blocks",
         [](auto& t, auto& o) {
             t = dense(DType::e4m3, {2, 5, 129, 4, 2, 64}), t.k_scale = t.add(DType::f32, {2, 2, 2}), o.scale_block = 64;
         },
         "k_scale", "3 or more"},
        {"block without a scale by block", [](auto& t, auto& o) { t.v_scale = t.add(DType::f32, {1}), o.scale_block = 64; }, "scale_block",
         "there is none"},
        {"negative stride", [](auto& t, auto&) { t.q_scale = t.add(DType::f32, {4}), t.q_scale.strides[0] = -1; }, "q_scale.strides[0]", "negative"},
        {"no data", [](auto& t, auto&) { t.q_scale = t.add(DType::f32, {4}), t.q_scale.data = nullptr; }, "q_scale", "null"},
        {"device", [](auto& t, auto&) { t.q_scale = t.add(DType::f32, {4}), t.q_scale.device.kind = Device::Kind::cuda; }, "q_scale", "device"},
        {"o over a scale", [](auto& t, auto&) { t.q_scale = t.add(DType::f32, {4}), t.q_scale.data = t.o.data; }, "o", "overlaps q_scale"},
        {"ambiguous",
         [](auto& t, auto&) {
             t = dense(DType::e4m3, {16, 5, 7, 16, 16, 16}), t.v_scale = t.add(DType::f32, {16, 16});
         },
         "v_scale", "both"},
        {"head_dim",
         [](auto& t, auto&) {
             t = dense(DType::e4m3, {2, 5, 7, 4, 2, 72});
         },
         "head_dim", "multiples of 16", Code::unsupported},
        {"f32 q",
         [](auto& t, auto&) {
             t.q = t.add(DType::f32, {2, 5, 4, 64});
         },
         "k", "e4m3 with an f16 or bf16 q"},
        {"8-bit o of a 16-bit q",
         [](auto& t, auto&) {
             t.q = t.add(DType::bf16, {2, 5, 4, 64});
         },
         "o", "e4m3 where q is bf16", Code::unsupported},
        {"less than no scratch", [](auto&, auto& o) { o.max_scratch_bytes = -1; }, "max_scratch_bytes", "is -1; 0 or more"},
        {"v not transposed", [](auto&, auto& o) { o.v_transposed = true; }, "v.shape[1]", "transposed"},
        {"v of another dtype",
         [](auto& t, auto&) {
             t.v = t.add(DType::bf16, {2, 7, 2, 64});
         },
         "v", "one dtype"},
    };
    for (const Spoiled& c : cases) expect_refused(dense(DType::e4m3), c);
}

TEST(Describe, RefusesPackedTensorsThatDoNotAgree) {
    const std::vector<Spoiled> cases{
        {"no cu_seqlens_q", [](auto& t, auto&) { t.cu_seqlens_q = {}; }, "cu_seqlens_q", "absent"},
        {"no cu_seqlens_k", [](auto& t, auto&) { t.cu_seqlens_k = {}; }, "cu_seqlens_k", "absent"},
        {"64 bits", [](auto& t, auto&) { t.cu_seqlens_q.dtype = DType::f32; }, "cu_seqlens_q", "i32 is needed"},
        {"empty", [](auto& t, auto&) { t.cu_seqlens_q.shape[0] = 0; }, "cu_seqlens_q", "empty"},
        {"batches differ", [](auto& t, auto&) { t.cu_seqlens_k = t.add(DType::i32, {3}); }, "cu_seqlens_k.shape[0]", "4"},
        {"strided", [](auto& t, auto&) { t.cu_seqlens_q.strides[0] = 2; }, "cu_seqlens_q", "contiguous"},
        {"negative bound", [](auto&, auto& o) { o.max_seqlen_kv = -1; }, "max_seqlen_kv", "is -1"},
        {"lse shape",
         [](auto& t, auto&) {
             t.lse = t.add(DType::f32, {10, 4});
         },
         "lse.shape[0]", "4"},
    };
    for (const Spoiled& c : cases) expect_refused(packed({0, 3, 3, 10}, {0, 1, 5, 9}), c);
}

}  // namespace
}  // namespace hopfill

// plan() and names.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tensors.h"

namespace hopfill {
namespace {

using testing::dense;
using ::testing::HasSubstr;

AttentionProblem problem() { return *describe(dense(), {}); }

TEST(Names, AreInverses) {
    for (const Backend b : {Backend::automatic, Backend::sm90, Backend::cpu, Backend::emulated, Backend::oracle}) {
        const Result<Backend> back = backend_from_name(name_of(b));
        ASSERT_TRUE(back);
        EXPECT_EQ(*back, b);
    }
    const Result<Backend> none = backend_from_name("gpu");
    ASSERT_FALSE(none);
    EXPECT_EQ(none.error().argument, "backend");
    EXPECT_THAT(none.error().message, HasSubstr("\"gpu\""));
}

TEST(Plan, IsPureComparableAndPrintable) {
    const Result<Plan> a = plan(problem(), {}, Backend::sm90), b = plan(problem(), {}, Backend::sm90);
    ASSERT_TRUE(a && b) << a.error().text();
    EXPECT_EQ(*a, *b);
    EXPECT_THAT(a->to_string(), HasSubstr(a->kernel));
    DeviceInfo small;
    small.num_sms = 1;
    const Result<Plan> c = plan(problem(), small, Backend::sm90);
    ASSERT_TRUE(c);
    EXPECT_EQ(c->grid, 1);
    EXPECT_FALSE(*c == *a);
}

TEST(Plan, AutomaticGoesByTheDevice) {
    DeviceInfo ampere;
    ampere.sm_major = 8;
    EXPECT_EQ(plan(problem(), {})->backend, Backend::sm90);
    EXPECT_EQ(plan(problem(), ampere)->backend, Backend::cpu);
    const Result<Plan> refused = plan(problem(), ampere, Backend::sm90);
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, Code::unsupported);
    EXPECT_THAT(refused.error().message, HasSubstr("9.0"));
}

TEST(Plan, EmulatedIsTheSameKernel) {
    const Result<Plan> real = plan(problem(), {}, Backend::sm90), emulated = plan(problem(), {}, Backend::emulated);
    ASSERT_TRUE(real && emulated);
    EXPECT_EQ(real->kernel, emulated->kernel);
    EXPECT_EQ(emulated->backend, Backend::emulated);
}

TEST(Plan, HostBackendsHaveNoKernel) {
    const Result<Plan> p = plan(problem(), {}, Backend::cpu);
    ASSERT_TRUE(p);
    EXPECT_EQ(p->kernel, "");
    EXPECT_EQ(p->grid, 0);
    EXPECT_THAT(p->to_string(), HasSubstr("cpu"));
}

TEST(Plan, RefusesProblemsMadeByHandThatContradictThemselves) {
    const auto refuse = [](auto spoil, const char* argument) {
        AttentionProblem p = problem();
        spoil(p);
        for (const Backend backend : {Backend::sm90, Backend::cpu, Backend::oracle, Backend::emulated}) {
            const Result<Plan> made = plan(p, {}, backend);
            ASSERT_FALSE(made) << argument;
            EXPECT_EQ(made.error().argument, argument);
        }
    };
    refuse([](AttentionProblem& p) { p.heads = 0; }, "heads");
    refuse([](AttentionProblem& p) { p.kv_heads = 3; }, "heads");
    refuse([](AttentionProblem& p) { p.batch = -1; }, "batch");
    refuse([](AttentionProblem& p) { p.tokens_q = 11; }, "tokens_q");
    refuse([](AttentionProblem& p) { p.tokens_kv = std::int64_t{1} << 31; }, "tokens_kv");
    refuse([](AttentionProblem& p) { p.head_dim = 0; }, "head_dim");
    refuse([](AttentionProblem& p) { p.scale = 1e300; }, "scale");
    refuse([](AttentionProblem& p) { p.k.seq = -1; }, "k");
}

TEST(Plan, CpuTakesEightBits) {
    const Result<AttentionProblem> p = describe(dense(DType::e4m3), {});
    ASSERT_TRUE(p) << p.error().text();
    const Result<Plan> made = plan(*p, {}, Backend::cpu);
    ASSERT_TRUE(made) << made.error().text();
    EXPECT_THAT(made->to_string(), HasSubstr("e4m3 -> e4m3"));
}

TEST(Plan, RefusesScalesMadeByHandThatContradictThemselves) {
    AttentionProblem p = *describe(dense(DType::e4m3), {});
    const auto refused = [&p](auto spoil) {
        AttentionProblem spoiled = p;
        spoil(spoiled);
        const Result<Plan> made = plan(spoiled, {}, Backend::cpu);
        return made ? std::string() : made.error().argument;
    };
    EXPECT_EQ(refused([](AttentionProblem&) {}), "");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.scale_block = 64; }), "scale_block");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.k_scale = {ScaleKind::block, 0, 0, 1, 0}; }), "scale_block");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.k_scale = {ScaleKind::channel, 0, 0, 0, 1}; }), "k_scale");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.v_scale = {ScaleKind::head, 0, -1, 0, 0}; }), "v_scale");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.dtype = DType::bf16, x.out_dtype = DType::e4m3; }), "o");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.dtype = x.kv_dtype = DType::bf16, x.v_transposed = true; }), "o");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.dtype = x.kv_dtype = x.out_dtype = DType::f16, x.v_transposed = true; }), "v_transposed");
    EXPECT_EQ(refused([](AttentionProblem& x) { x.dtype = DType::f32; }), "k");
}

}  // namespace
}  // namespace hopfill
